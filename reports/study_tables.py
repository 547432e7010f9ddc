"""What a study's page says of its cells in tables: their figures, mAP by tIoU, errors."""

import re
from collections.abc import Mapping, Sequence

from ablations.outcome import CellOutcome, Estimate, StudyOutcome
from reports.page import slug
from reports.run_tables import plain
from reports.studies import made_up
from reports.table import Cell, Column, Table, words

KNOWN = {  # estimate -> its column, in this order; others follow under their own names
    "average_mAP": Column("average mAP", "%"),
    "difference": Column("to the default", "points"),
    "training_time": Column("training", "s"),
    "step_time": Column("step", "s"),
    "detect_time_video": Column("detection a video", "s"),
    "peak_memory": Column("peak memory", "B"),
    "run_peak_memory": Column("peak memory, measured", "B"),
    "parameters": Column("parameters"),
    "flops": Column("FLOP a video", "FLOP"),
    "anchors": Column("proposals"),
    "anchors_testing": Column("proposals in testing"),
    "steps": Column("steps"),
    "proposals_seen": Column("proposals seen"),
    "step_time_ratio": Column("step by the first cell's"),
}
ALWAYS = ("average_mAP", "training_time", "peak_memory", "parameters", "flops")
_THRESHOLD = re.compile(r"mAP@(\d\.\d+)")


def shown(estimate: Estimate | None, href: str = "") -> Cell:
    """An estimate as a cell of a table; None as an empty one."""
    if estimate is None:
        return Cell()
    parts = (estimate.note, f"on {estimate.device}" if estimate.device else "", f"{len(estimate.runs)} runs")
    return Cell(
        estimate.value,
        estimate.unit,
        estimate.evidence,
        estimate.low,
        estimate.high,
        estimate.runs,
        estimate.data,
        note="; ".join(part for part in parts if part and part != "0 runs"),
        href=href,
    )


def axis_cell(value: object) -> Cell:
    """A value of an axis: sorted as a number where it is one, shown as it is."""
    if value is None:
        return Cell()
    number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    return Cell(number, label=plain(value))


def numeric(values: Sequence[object]) -> bool:
    return bool(values) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


def short(cell: CellOutcome) -> str:
    """A cell by its values alone."""
    return ", ".join(plain(value) for value in cell.values.values()) or cell.name


def ranked(outcome: StudyOutcome) -> list[CellOutcome]:
    """The cells that have an average mAP, best first."""
    scored = [(e.value, cell) for cell in outcome.cells if (e := cell.estimate("average_mAP")) and e.value is not None]
    return [cell for _, cell in sorted(scored, key=lambda pair: -pair[0])]


def measure(outcome: StudyOutcome) -> str:
    """The estimate that the curves show: average mAP, or what the first claim compares where no cell has one."""
    known = {e.name for cell in outcome.cells for e in cell.estimates if e.value is not None}
    asked = ["average_mAP", *(verdict.metric for verdict in outcome.verdicts)]
    return next((name for name in asked if name in known), "average_mAP")


def anchor(cell: CellOutcome) -> str:
    """Where the runs of a cell stand in the table of runs."""
    return f"runs-{slug(cell.name)}"


def _keys(outcome: StudyOutcome) -> tuple[tuple[Column, ...], list[tuple[Cell, ...]]]:
    """The columns that name a row, and their cells: the axes' values."""
    if not outcome.axes:
        return (Column("cell", numeric=False),), [(words(cell.name),) for cell in outcome.cells]
    columns = tuple(Column(axis, numeric=numeric(values)) for axis, values in outcome.axes.items())
    return columns, [tuple(axis_cell(cell.values.get(axis)) for axis in outcome.axes) for cell in outcome.cells]


def column(outcome: StudyOutcome, name: str) -> Column:
    """The column of an estimate: its title and unit."""
    found = (e.unit for cell in outcome.cells if (e := cell.estimate(name)))
    return KNOWN.get(name) or Column(name.replace("_", " "), next(found, ""))


def _figures(outcome: StudyOutcome) -> tuple[list[str], list[str], list[str]]:
    """Estimates of the main table, of the one beside it, and those that are the same in every cell."""
    names = {e.name for cell in outcome.cells for e in cell.estimates if not _THRESHOLD.fullmatch(e.name)}
    always = ALWAYS if any(cell.runs for cell in outcome.cells) else ()
    order = [n for n in KNOWN if n in names or n in always] + sorted(names - set(KNOWN))
    alike = [n for n in order if n not in always and constant(outcome, n)]
    tested = "anchors_testing" in names and "anchors_testing" not in alike  # the study is about testing
    main = {
        *ALWAYS,
        "difference",
        "step_time",
        "anchors",
        *(("anchors_testing", "detect_time_video") if tested else ()),
    }
    rest = [n for n in order if n not in alike]
    if not always:
        return rest, [], alike
    return [n for n in rest if n in main], [n for n in rest if n not in main], alike


def main(outcome: StudyOutcome, links: Mapping[str, str]) -> Table:
    """One row a cell: its values, mAP with interval, costs, realised counts, runs. `links`: run -> its page."""
    names, _, alike = _figures(outcome)
    keys, named = _keys(outcome)
    best, run = ranked(outcome)[:1], any(cell.runs for cell in outcome.cells)
    rows = []
    for cell, key in zip(outcome.cells, named, strict=True):
        own = [run for run in cell.runs if run in links]
        lead = links[own[0]] if len(own) == 1 else f"#{anchor(cell)}"
        figures = (shown(cell.estimate(n), lead if n == "average_mAP" else "") for n in names)
        done = len(cell.runs) - len(cell.missing) - len(cell.failed)
        state = f"{done} of {len(cell.runs)}" if done < len(cell.runs) else str(done)
        runs = Cell(done, label=state, note="; ".join(cell.failed.values()), href=f"#{anchor(cell)}")
        rows.append((*key, *figures, *([runs] if run else [])))
    return Table(
        "cells",
        f"Results on {outcome.data}{', a made-up set' if made_up(outcome.data) else ''}",
        (*keys, *(column(outcome, n) for n in names), *([Column("runs")] if run else [])),
        tuple(rows),
        notes=(
            *(["Mean over the seeds; in brackets the 95 % interval. A dash is not available."] if run else []),
            *_same(outcome, alike),
            *_devices(outcome),
        ),
        strong=tuple(outcome.cells.index(cell) for cell in best),
        keys=len(keys),
    )


def besides(outcome: StudyOutcome) -> Table | None:
    """What else differs between cells; None where nothing does."""
    names = _figures(outcome)[1]
    keys, named = _keys(outcome)
    rows = [(*k, *(shown(c.estimate(n)) for n in names)) for c, k in zip(outcome.cells, named, strict=True)]
    columns = (*keys, *(column(outcome, n) for n in names))
    return Table("besides", "Counts and times besides", columns, tuple(rows), keys=len(keys)) if names else None


def constant(outcome: StudyOutcome, name: str) -> bool:
    """Whether all cells that have runs have one and the same estimate of this name."""
    with_runs = [cell for cell in outcome.cells if cell.estimates]
    found = {e.value if (e := cell.estimate(name)) else None for cell in with_runs}
    return len(with_runs) > 1 and len(found) == 1 and None not in found


def _same(outcome: StudyOutcome, names: Sequence[str]) -> list[str]:
    cell = next((cell for cell in outcome.cells if cell.estimates), None)
    found = [(n, e) for n in names if cell and n != "step_time_ratio" and (e := cell.estimate(n))]
    said = [f"{KNOWN[n].title if n in KNOWN else n.replace('_', ' ')} {shown(e).suffixed()}" for n, e in found]
    return [f"The same in every cell: {'; '.join(said)}."] if said else []


def _devices(outcome: StudyOutcome) -> list[str]:
    devices = dict.fromkeys(e.device for c in outcome.cells for e in c.estimates if e.device)
    return [f"Times measured on {', '.join(devices)}."] if devices else []


def tious(outcome: StudyOutcome) -> list[str]:
    names = {m.group(1) for cell in outcome.cells for e in cell.estimates if (m := _THRESHOLD.fullmatch(e.name))}
    return sorted(names)


def thresholds(outcome: StudyOutcome) -> Table | None:
    """mAP at each tIoU, a row a cell; None where there is none."""
    found = tious(outcome)
    if not found:
        return None
    cells = [cell for cell in outcome.cells if any(cell.estimate(f"mAP@{t}") for t in found)]

    def bare(estimate: Estimate | None) -> Cell:
        made = shown(estimate)
        return Cell(made.value, made.unit, made.evidence, runs=made.runs, data=made.data, note=made.note)

    return Table(
        "thresholds",
        f"mAP (%) by tIoU on {outcome.data}",
        (Column("cell", numeric=False), *(Column(f"@{t}", "%") for t in found)),
        tuple((words(short(c)), *(bare(c.estimate(f"mAP@{t}")) for t in found)) for c in cells),
    )


def diagnosis(outcome: StudyOutcome) -> Table | None:
    """What each kind of error costs, for the cells diagnosed; None where none is."""
    if not outcome.diagnosis:
        return None
    cells = list(outcome.diagnosis)
    heads = {cell.name: short(cell) for cell in outcome.cells}
    kinds = dict.fromkeys(kind for costs in outcome.diagnosis.values() for kind in costs)

    def points(value: float | None) -> Cell:
        return Cell(value, "points", "measured", data=outcome.data)

    return Table(
        "diagnosis",
        f"What each kind of error costs on {outcome.data}",
        (Column("kind of error", numeric=False), *(Column(heads.get(name, name), "points") for name in cells)),
        tuple((words(kind), *(points(outcome.diagnosis[name].get(kind)) for name in cells)) for kind in kinds),
        notes=("Average mAP gained if the errors of a kind were gone (Alwassel et al., ECCV 2018).",),
    )
