"""What a study's page says in tables: cells with their figures, claims with their numbers, the runs behind them."""

import re
from collections.abc import Mapping, Sequence

from ablations.outcome import CellOutcome, Estimate, StudyOutcome, Verdict
from etad.record import Evidence
from reports.page import slug
from reports.run_tables import cell as run_cell
from reports.run_tables import plain
from reports.studies import JUDGED, Study, made_up
from reports.table import Cell, Column, Table, words

KNOWN = {  # estimate -> its column, in this order; others follow under their own names
    "average_mAP": Column("average mAP", "%"),
    "training_time": Column("training", "s"),
    "step_time": Column("step", "s"),
    "detect_time": Column("detection", "s"),
    "peak_memory": Column("peak memory", "B"),
    "parameters": Column("parameters"),
    "flops": Column("FLOP a step", "FLOP"),
    "anchors": Column("proposals"),
}
ALWAYS = ("average_mAP", "training_time", "peak_memory", "parameters", "flops")
_THRESHOLD = re.compile(r"mAP@(\d\.\d+)")
TONES = {"holds": "yes", "reproduced": "yes", "does not hold": "no", "not reproduced": "no", "undecided": "open"}
MADE_UP = "A verdict on made-up data is a property of its generator too."


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


def anchor(cell: CellOutcome) -> str:
    """Where the runs of a cell stand in the table of runs."""
    return f"runs-{slug(cell.name)}"


def main(outcome: StudyOutcome, links: Mapping[str, str]) -> Table:
    """One row a cell: its values, mAP with interval, costs, realised counts, runs. `links`: run -> its page."""
    names = {e.name: e.unit for cell in outcome.cells for e in cell.estimates if not _THRESHOLD.fullmatch(e.name)}
    order = [n for n in KNOWN if n in ALWAYS or n in names] + [n for n in names if n not in KNOWN]
    columns = [KNOWN.get(n) or Column(n.replace("_", " "), names[n]) for n in order]
    axes = [Column(axis, numeric=numeric(values)) for axis, values in outcome.axes.items()]
    best = ranked(outcome)[:1]
    rows = []
    for cell in outcome.cells:
        own = [run for run in cell.runs if run in links]
        lead = links[own[0]] if len(own) == 1 else f"#{anchor(cell)}"
        done = len(cell.runs) - len(cell.missing) - len(cell.failed)
        state = f"{done} of {len(cell.runs)}" if done < len(cell.runs) else str(done)
        rows.append(
            (
                *(axis_cell(cell.values.get(axis)) for axis in outcome.axes),
                *(shown(cell.estimate(n), lead if n == "average_mAP" else "") for n in order),
                Cell(done, label=state, note="; ".join(cell.failed.values()), href=f"#{anchor(cell)}"),
            )
        )
    if not axes:
        axes, rows = (
            [Column("cell", numeric=False)],
            [(words(c.name), *r) for c, r in zip(outcome.cells, rows, strict=True)],
        )
    return Table(
        "cells",
        f"Results on {outcome.data}{', a made-up set' if made_up(outcome.data) else ''}",
        (*axes, *columns, Column("runs")),
        tuple(rows),
        notes=(
            "Mean over the seeds; in brackets the 95 % interval. A dash is not available.",
            *_devices(outcome),
        ),
        strong=tuple(outcome.cells.index(cell) for cell in best),
    )


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


def runs(study: Study, links: Mapping[str, str]) -> Table:
    """One row a run, by cell: what became of it, and its own mAP."""
    assert study.outcome is not None
    rows = []
    for cell in study.outcome.cells:
        names = list(dict.fromkeys((*cell.runs, *cell.failed, *cell.missing)))
        seeds = dict(zip(cell.runs, cell.seeds, strict=False))
        for n, name in enumerate(names):
            run = study.runs.get(name)
            record = run.record if run else None
            state = "failed" if name in cell.failed else "missing" if name in cell.missing else "no folder here"
            state = record.status if record else "unreadable" if run else state
            wrong = cell.failed.get(name) or (record.error if record else "; ".join(run.problems) if run else "")
            rows.append(
                (
                    Cell(label=name, href=links.get(name, ""), id=anchor(cell) if n == 0 else ""),
                    words(short(cell)),
                    Cell(seeds.get(name)),
                    words(state),
                    run_cell(run, "average_mAP") if run and run.mark == study.outcome.data else Cell(),
                    words(wrong) if wrong else Cell(),
                )
            )
    heads = (
        Column("run", numeric=False),
        Column("cell", numeric=False),
        Column("seed"),
        Column("state", numeric=False),
    )
    more = (Column("average mAP", "%"), Column("error", numeric=False))
    whole = Table("runs", "Runs", (*heads, *more), tuple(rows))
    return whole if any(not row[-1].missing for row in rows) else whole.without(len(whole.columns) - 1)


def said(verdict: Verdict) -> str:
    """The verdict's word, and on which set where the word means nothing without it."""
    own = verdict.word in ("holds", "does not hold", "undecided")
    return f"{verdict.word} on {verdict.data}" if own else verdict.word


def evidence(outcome: StudyOutcome, verdict: Verdict) -> Evidence:
    """Where the figures that a verdict compares come from."""
    found = [e.evidence for cell in outcome.cells for e in cell.estimates if e.name == verdict.metric]
    return found[0] if found else "measured"


def _numbers(outcome: StudyOutcome, verdict: Verdict) -> tuple[Cell, ...]:
    judged = verdict.word in JUDGED
    mark = evidence(outcome, verdict) if judged else None
    note = f"{verdict.criterion}; confidence {100 * verdict.confidence:.0f} %"
    note += f", interval widened for {verdict.looks} looks" if verdict.looks > 1 else ""
    return (
        Cell(label=said(verdict), tone=TONES.get(verdict.word, ""), note=verdict.reason),
        Cell(verdict.difference, "points", mark, verdict.low, verdict.high, verdict.runs, note=note),
        Cell(verdict.margin, "points"),
        Cell(verdict.power, label=None if verdict.power is None else f"{100 * verdict.power:.0f} %"),
        Cell(verdict.seeds or None),
        Cell(verdict.videos or None),
    )


_NUMBERS = (
    Column("verdict", numeric=False, named=False),
    Column("difference", "points"),
    Column("margin", "points"),
    Column("power"),
    Column("seeds"),
    Column("videos"),
)


def claims(outcomes: Sequence[tuple[StudyOutcome, str]]) -> list[Table]:
    """The claims of studies with their verdicts and numbers, a table for each data set; the links lead to the studies."""
    found = [(o, v, href) for o, href in outcomes for v in o.verdicts]
    tables = []
    for mark in dict.fromkeys(v.data for _, v, _ in found):
        rows = [
            (
                words(v.claim, v.sentence, href),
                *_numbers(o, v),
                *([_alike(v)] if made_up(mark) else []),
                words(o.name, o.question, href),
            )
            for o, v, href in found
            if v.data == mark
        ]
        alike = [Column("variants", numeric=False, named=False)] if made_up(mark) else []
        tables.append(
            Table(
                f"claims-{mark}",
                f"Claims on {mark}{', a made-up set' if made_up(mark) else ''}",
                (Column("claim", numeric=False), *_NUMBERS, *alike, Column("study", numeric=False)),
                tuple(rows),
                notes=(
                    "Difference: left minus right of the criterion, in brackets its interval. Power: stated before the runs.",
                    *([MADE_UP] if made_up(mark) else []),
                ),
                listed=True,
            )
        )
    return tables


def _alike(verdict: Verdict) -> Cell:
    """On how many variants of the set the same word was found."""
    if not verdict.variants:
        return Cell()
    alike = sum(v.word == verdict.word for v in verdict.variants)
    return words(f"alike on {alike} of {len(verdict.variants)} variants", "of the set, with one ingredient out")


def verdicts(outcome: StudyOutcome) -> Table | None:
    """The claims in numbers, each on the study's data and on variants of it: what the verdict hangs on."""
    rows = [
        (words(claim.claim), words(verdict.data), *_numbers(outcome, verdict))
        for claim in outcome.verdicts
        for verdict in (claim, *claim.variants)
    ]
    columns = (Column("claim", numeric=False), Column("set", numeric=False, named=False), *_NUMBERS)
    varied = any(claim.variants for claim in outcome.verdicts)
    title = "The claims in numbers" + (", on the set and on variants with one ingredient out" if varied else "")
    notes = (MADE_UP,) if any(made_up(claim.data) for claim in outcome.verdicts) else ()
    return Table("claims", title, columns, tuple(rows), notes=notes, listed=True) if rows else None
