"""What a run says while it works: progress on standard error, and a log in its folder."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.command import console

log = logging.getLogger(__name__)
log.setLevel(logging.INFO)
log.propagate = False
Advance = Callable[[int, int, str], None]  # done, of how many, what is new


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """What is said meanwhile goes into this file too, behind what an interrupted run said."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def say(text: str) -> None:
    """A line on standard error and in the log."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    log.info(text)


@contextmanager
def bar(what: str) -> Iterator[Advance]:
    """A progress bar on standard error; plain lines, one each tenth, where that is no terminal."""
    if not console.is_terminal:
        said = [-1]

        def line(done: int, total: int, news: str) -> None:
            tenth = 10 * done // max(total, 1)
            if tenth != said[0]:
                said[0] = tenth
                console.print(f"{what}: {done}/{total} {news}".rstrip(), highlight=False, soft_wrap=True)

        yield line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, TextColumn("{task.fields[news]}"), console=console) as progress:
        task = progress.add_task(what, total=None, news="")
        yield lambda done, total, news: progress.update(task, completed=done, total=total, news=news)
