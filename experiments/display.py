"""What a study says while it runs: a live table on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from experiments.command import console
from experiments.plan import Run
from experiments.schedule import Progress, Watch

REFRESH_S = 0.5


def duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"


class Board:
    """Counts, time left and the best cell so far."""

    def __init__(self, name: str, cells: Mapping[str, Sequence[Run]], total: int):
        self.name, self.cells, self.total = name, cells, total
        self.reached: dict[str, float | None] = {}  # folder's name -> average mAP

    def _value(self, run: Run) -> float | None:
        name = run.folder.name
        if name not in self.reached:
            record = run.record()
            if record is None:
                return None
            figure = record.figure("average_mAP")
            self.reached[name] = figure.value if figure else None
        return self.reached[name]

    def best(self) -> str:
        """The cell with the highest mean of those that are done."""
        means = {}
        for name, runs in self.cells.items():
            values = [value for run in runs if (value := self._value(run)) is not None]
            if values:
                means[name] = sum(values) / len(values)
        if not means:
            return "none yet"
        name = max(means, key=lambda name: means[name])
        return f"{name} at {means[name]:.2f}"

    def counts(self, progress: Progress) -> str:
        state = progress.state
        text = f"{len(state.done)} of {self.total} done, {len(progress.jobs)} running, {len(state.to_come)} to come"
        if state.failed:
            text += f", {len(state.failed)} failed"
        if progress.elsewhere:
            text += f", {progress.elsewhere} held by other processes"
        left = progress.left_s()
        return text + (
            f"; about {duration(left)} left" if left is not None and (state.to_come or progress.jobs) else ""
        )

    def table(self, progress: Progress) -> Group:
        rows = Table.grid(padding=(0, 2))
        for job in progress.jobs:
            line = job.last_line
            rows.add_row(Text(job.run.what), Text(duration(time.monotonic() - job.started)), Text(line[:80]))
        head = Text(f"{self.name}: {self.counts(progress)}")
        return Group(head, Text(f"best so far: {self.best()}"), rows)


@contextmanager
def shown(board: Board) -> Iterator[Watch]:
    """Shows progress until the block ends."""

    def ended(progress: Progress, run: Run) -> str:
        error = progress.state.failed.get(run.folder)
        value = None if error else board._value(run)
        result = f"failed: {error}" if error else f"average mAP {value:.2f}" if value is not None else "done"
        return f"{run.what}: {result}"

    if not console.is_terminal:

        def line(progress: Progress, run: Run | None) -> None:
            if run is not None:
                text = f"{board.name}: {ended(progress, run)} ({board.counts(progress)}; best so far: {board.best()})"
                console.print(text, highlight=False, markup=False, soft_wrap=True)

        yield line
        return
    last = [0.0]
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def draw(progress: Progress, run: Run | None) -> None:
            if run is not None:
                live.console.print(Text(ended(progress, run)))
            if run is not None or time.monotonic() - last[0] > REFRESH_S:
                last[0] = time.monotonic()
                live.update(board.table(progress), refresh=True)

        yield draw
