"""The index: which runs there are, and what could not be read."""

from collections.abc import Sequence
from pathlib import Path

from reports import published_tables, run_tables
from reports.load import PublishedFile, Run
from reports.page import named, slugs, write_page


def counted(runs: Sequence[Run]) -> str:
    """How many runs there are, by what became of them."""
    states = [run.record.status if run.record else "unreadable" for run in runs]
    words = {"done": "finished", "failed": "failed", "unreadable": "unreadable"}
    return ", ".join(f"{states.count(state)} {word}" for state, word in words.items() if state in states) or "none"


def write_index(runs: Sequence[Run], out: Path, published: PublishedFile) -> list[Path]:
    """index.html and index.md over these runs, which have their pages in runs/NAME."""
    readable = [run for run in runs if run.record]
    links = dict(zip(map(id, readable), slugs([run.folder.name for run in readable]), strict=True))
    overviews, compared = [], []
    for mark in dict.fromkeys(run.mark for run in readable):
        group = [run for run in readable if run.mark == mark]
        overviews.append(run_tables.overview(group, [f"runs/{links[id(run)]}/index.html" for run in group]))
        if beside := [run for run in group if published_tables.comparable(run, published)]:
            overviews.append(published_tables.comparison(beside, published))
            compared.append(mark)
    others = named(published_tables.alone(published, mark) for mark in published.marks if mark not in compared)
    tables = named(overviews)
    values = {
        "title": "Runs of the detector",
        "summary": f"Runs: {counted(runs)}.",
        "broken": [f"{run.folder.name}: {'; '.join(run.problems)}" for run in runs if not run.record],
        "overviews": tables,
        "own": [run.name for run in readable],
        "published": others,
        "compared": bool(compared),
    }
    return write_page(out, "index", values, [*tables, *others])
