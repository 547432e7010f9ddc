"""Other people's figures: alone, or beside runs on the same real data."""

from collections.abc import Sequence

from reports.load import Published, PublishedFile, Run
from reports.run_tables import MEMORY, bounded, cell, counted, tested, thresholds
from reports.table import Cell, Column, Table, words


def _published_row(row: Published, tious: Sequence[str]) -> tuple[Cell, ...]:
    def figure(value: float | None, unit: str, label: str | None = None) -> Cell:
        return Cell(value, unit, "published", data=row.data, label=label, note=f"{row.source}. {row.note}".strip())

    time = figure(row.time.seconds, "s", row.time.text.removesuffix(" training")) if row.time else Cell()
    memory = figure(row.memory.gigabytes, "GB", row.memory.text) if row.memory else Cell()
    maps = [figure(row.mAP.get(tiou), "%") for tiou in ("average", *tious)]
    where = (words(row.setting), words(row.source, row.url or ""))
    return (words(row.method), *where, *maps, time, memory)


def _method_columns(tious: Sequence[str]) -> tuple[Column, ...]:
    return (
        *(Column(title, numeric=False) for title in ("method", "setting", "source")),
        Column("average", "%"),
        *(Column(f"@{tiou}", "%") for tiou in tious),
        Column("training", "s"),
        Column("memory", "B"),
    )


def _notes(rows: Sequence[Published]) -> tuple[str, ...]:
    return tuple(f"{row.method}, {row.setting} ({row.source}): {row.note}." for row in rows if row.note)


def _unavailable(published: PublishedFile) -> tuple[str, ...]:
    return (f"Not available: {'; '.join(published.unavailable)}.",) if published.unavailable else ()


def _apart(name: str, title: str, rows: Sequence[Published], notes: tuple[str, ...]) -> Table:
    tious = sorted({key for row in rows for key in row.mAP} - {"average"})
    heads, lines = _method_columns(tious), tuple(_published_row(row, tious) for row in rows)
    return Table(name, title, heads, lines, notes=notes)


def alone(published: PublishedFile, mark: str) -> Table:
    """Other people's figures on one set, alone."""
    rows = published.of(mark)
    return _apart(f"published-{mark}", f"Published figures on {mark}", rows, _notes(rows) + _unavailable(published))


def of_method(published: PublishedFile, mark: str, method: str) -> Table | None:
    """Those of one method; None where there are none."""
    rows = [row for row in published.of(mark) if row.method == method]
    return _apart(f"published-{mark}", f"{method} on {mark}, as published", rows, _notes(rows)) if rows else None


def comparable(run: Run, published: PublishedFile) -> bool:
    """Whether its figures may stand beside published ones: measured on the same real data."""
    return bool(run.mark and published.of(run.mark)) and not bounded(run) and run.figure("average_mAP") is not None


def comparison(runs: Sequence[Run], published: PublishedFile) -> Table:
    """Own runs of one data set first, the published figures on it below."""
    mark = runs[0].mark or ""
    rows = published.of(mark)
    tious = sorted({key for row in rows for key in row.mAP} - {"average"} | set(thresholds(runs)))
    own = tuple(
        (
            words(run.name),
            words(f"{run.record.data.videos.get(tested(run), 0):,} videos" if run.record and run.record.data else ""),
            words("this suite"),
            cell(run, "average_mAP"),
            *(cell(run, f"mAP@{tiou}") for tiou in tious),
            cell(run, "training_time"),
            cell(run, *MEMORY),
        )
        for run in runs
    )
    return Table(
        "comparison",
        f"Accuracy on {mark}, beside published figures",
        _method_columns(tious),
        own + tuple(_published_row(row, tious) for row in rows),
        notes=counted(runs) + _notes(rows) + _unavailable(published),
        strong=tuple(range(len(own))),
    )


def compared(run: Run, published: PublishedFile) -> list[str | Cell]:
    """How far the average mAP lies from the first published one of the method on the same data."""
    row = next((r for r in published.of(run.mark or "") if r.method == "ETAD" and "average" in r.mAP), None)
    own = run.figure("average_mAP")
    if row is None or own is None or own.value is None:
        return []
    gap = own.value - row.mAP["average"]
    reference = Cell(row.mAP["average"], "%", "published", data=row.data, note=row.source)
    distance = "equal to" if abs(gap) < 0.005 else f"{abs(gap):.2f} points {'above' if gap > 0 else 'below'}"
    return [f"{distance} the published ", reference, f" ({row.source}, {row.setting})"]
