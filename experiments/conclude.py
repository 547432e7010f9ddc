"""What a study found, once its runs have ended: estimates, verdicts, diagnosis and times."""

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ablations import verdict
from ablations.outcome import CellOutcome, Estimate, StudyOutcome, Verdict
from ablations.study import METRIC, Cell, Claim, changed
from etad.matches import read_matches
from etad.record import Record, now
from etad.spec import differences
from experiments.plan import Plan, Run, Sides
from experiments.progress import bar

Floats = NDArray[np.float64]
CELL_REPLICATES = 400  # of the intervals of cells; those of claims have verdict.REPLICATES
TRACED = ("parameters", "flops", "peak_memory", "run_peak_memory")


@cache
def _weights(videos: int, replicates: int) -> Floats:
    return verdict.draws(videos, replicates)


@cache
def replicates(folder: Path, count: int) -> Floats:
    """mAP of a run in points, as it is and under `count` draws of its videos: [1 + R, t]. Raises MatchesError."""
    matches = read_matches(folder / "matches.npz")
    return verdict.scores(matches, _weights(len(matches.ids), count))


def done(runs: Sequence[Run]) -> list[tuple[Run, Record]]:
    """The runs that ended well, with their records."""
    pairs = ((run, run.record()) for run in runs)
    return [(run, record) for run, record in pairs if record is not None and record.status == "done"]


def _scored(runs: Sequence[tuple[Run, Record]]) -> Floats:
    """Their mAP at each tIoU under the draws of a cell's interval, [S, 1 + R, t]."""
    return np.stack([replicates(run.folder, CELL_REPLICATES) for run, _ in runs])


def estimates(runs: Sequence[tuple[Run, Record]], default: Sequence[tuple[Run, Record]] = ()) -> list[Estimate]:
    """What the runs of a cell gave: mAP with its interval over seeds and videos, counts and traced sizes.

    default: runs of the study's base, which the cell is compared with on the same draws of videos.
    """
    if not runs:
        return []
    names, first = tuple(run.folder.name for run, _ in runs), runs[0][1]
    mark = first.data.mark if first.data else None
    table = _scored(runs)
    columns = {METRIC: table.mean(axis=2)} | {f"mAP@{t:.2f}": table[..., n] for n, t in enumerate(_tiou(runs[0][0]))}
    found = []
    for name, values in columns.items():
        of = verdict.compare(values)
        one = "one seed: the interval knows the videos' noise only" if len(runs) == 1 else ""
        found.append(
            Estimate(
                name=name,
                value=of.value,
                low=max(of.low, 0.0),
                high=min(of.high, 100.0),
                unit="%",
                evidence="measured",
                data=mark,
                note=one,
                runs=names,
            )
        )
    if default and default[0][0].folder != runs[0][0].folder:
        of, note = (
            verdict.compare(table.mean(axis=2), _scored(default).mean(axis=2)),
            "to the default, on the same videos",
        )
        made = {"value": of.value, "low": of.low, "high": of.high, "unit": "points", "data": mark, "note": note}
        found.append(Estimate(name="difference", evidence="measured", runs=names, **made))
    for name in TRACED:
        figures = [figure for _, record in runs if (figure := record.figure(name)) and figure.value is not None]
        if figures:
            value = float(np.mean([figure.value for figure in figures]))
            keep = figures[0].model_dump(include={"unit", "evidence", "data", "device", "note"})
            found.append(Estimate(name=name, value=value, runs=names, **keep))
    return found + _counts(runs[0], names)


def _tiou(run: Run) -> tuple[float, ...]:
    return run.spec.evaluation.tiou


def steps_of(folder: Path) -> int | None:
    """Training steps of a run."""
    try:
        return int(pd.read_csv(folder / "losses.csv")["iteration"].iloc[-1])
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _counts(run: tuple[Run, Record], names: tuple[str, ...]) -> list[Estimate]:
    """Realised counts, which the schedule and the sampler decide and no seed changes."""
    anchors, steps = run[1].details.get("anchors_a_video", {}), steps_of(run[0].folder)
    values = {
        "anchors": anchors.get("training"),
        "anchors_testing": anchors.get("testing"),
        "steps": steps,
        "proposals_seen": steps * run[0].spec.training.batch * anchors["training"] if steps and anchors else None,
    }
    notes = {
        "anchors": "a video and step",
        "anchors_testing": "a video",
        "proposals_seen": "in training, of all videos",
    }
    return [
        Estimate(
            name=n, value=v, unit="", evidence="traced", note=f"counted; {notes.get(n, 'of training')}", runs=names
        )
        for n, v in values.items()
        if v is not None
    ]


def _default(plan: Plan) -> list[tuple[Run, Record]]:
    """The runs of the cell that is the base as it stands."""
    cells = (cell for cell in plan.study.cells if not changed(plan.base, cell))
    return next((done(plan.cells[cell.name]) for cell in cells), [])


def _cell(plan: Plan, cell: Cell, times: Mapping[str, Sequence[Estimate]]) -> CellOutcome:
    runs = plan.cells[cell.name]
    ended = done(runs)
    failed = {run.folder.name: record.error for run in runs if (record := run.record()) and record.status == "failed"}
    there = {run.folder for run, _ in ended}
    return CellOutcome(
        name=cell.name,
        values=cell.values,
        differences=changed(plan.base, cell),
        seeds=tuple(run.spec.training.seed for run in runs),
        runs=tuple(run.folder.name for run in runs),
        missing=tuple(r.folder.name for r in runs if r.folder not in there and r.folder.name not in failed),
        failed=failed,
        estimates=(*estimates(ended, _default(plan)), *times.get(cell.name, ())),
    )


def _claim(plan: Plan, sides: Sides, mark: str, looks: int) -> Verdict:
    claim = sides.claim
    left, right = done(sides.left), done(sides.right)
    records = [record for _, record in (*left, *right)]
    mark = records[0].data.mark if records and records[0].data else mark
    videos = int(records[0].protocol.get("videos", 0)) if records else 0
    asked = len(sides.left)
    if min(len(left), len(right)) < asked:
        missing = f"{len(left)} of {asked} runs on the left and {len(right)} of {asked} on the right are done"
        return verdict.not_run(claim, missing, margin=plan.margin, data=mark, seeds=asked, videos=videos)

    def side(runs: Sequence[tuple[Run, Record]]) -> Floats:
        return np.stack([replicates(run.folder, verdict.REPLICATES).mean(axis=1) for run, _ in runs])

    return verdict.judge(
        claim,
        side(left),
        side(right),
        margin=plan.margin,
        data=mark,
        videos=videos,
        own=plan.preset == "paper" and mark in verdict.OWN,
        looks=looks,
        gains=_gains(plan, claim),
        runs=[run.folder.name for run, _ in (*left, *right)],
    )


def _gains(plan: Plan, claim: Claim) -> list[float]:
    """What twice the schedule adds to each cell of a claim, in points, on the cells' own videos and seeds."""
    gains = []
    for pair in claim.settled:
        short, long = (done(plan.cells[plan.study.find(values).name]) for values in pair)
        if short and long:
            gains.append(_mean(long) - _mean(short))
    return gains


def _mean(runs: Sequence[tuple[Run, Record]]) -> float:
    figures = [record.figure(METRIC) for _, record in runs]
    return float(np.mean([figure.value for figure in figures if figure and figure.value is not None]))


def verdicts(plan: Plan, mark: str, looks: int) -> tuple[Verdict, ...]:
    """All claims judged, each on the variants too where they were run."""
    if not plan.claims:
        return ()
    found = []
    with bar("judging claims") as advance:
        for n, sides in enumerate(plan.claims):
            variants = [_claim(plan, s, mark, looks) for s in plan.variant_claims.get(sides.claim.name, ())]
            found.append(_claim(plan, sides, mark, looks).model_copy(update={"variants": tuple(variants)}))
            advance(n + 1, len(plan.claims), sides.claim.name)
    return tuple(found)


def diagnosis(plan: Plan, cells: Sequence[CellOutcome]) -> dict[str, dict[str, float]]:
    """What each kind of error costs the best and the worst cell, in points of average mAP; of their first seeds."""
    from etad import build
    from etad.data.annotations import read_blocked
    from etad.detections import read_detections
    from etad.diagnose import diagnose
    from etad.evaluate import class_agnostic

    known = [(e.value, c.name) for c in cells if (e := c.estimate(METRIC)) and e.value is not None]
    found = {}
    for _, name in dict.fromkeys((max(known), min(known))) if known else ():
        run = done(plan.cells[name])[0][0]
        corpus = build.build_corpus(run.spec)
        labelled = corpus.classifier is not None or run.spec.model.class_head is not None
        annotations = corpus.annotations if labelled else class_agnostic(corpus.annotations)
        blocked = read_blocked(run.spec.evaluation.blocked)[0] if run.spec.evaluation.blocked else frozenset()
        made = diagnose(
            annotations,
            read_detections(run.folder / "detections.json", annotations.classes),
            tiou=run.spec.evaluation.tiou,
            subset=run.spec.data.test_subset,
            blocked=blocked,
        )
        found[name] = {kind: 100 * float(np.mean(gain)) for kind, gain in made.gain.items()}
    return found


def answer(cells: Sequence[CellOutcome], found: Sequence[Verdict]) -> str:
    """The question answered in a sentence, with numbers."""
    known = [(e, c.name) for c in cells if (e := c.estimate(METRIC)) and e.value is not None]
    if not known:
        return "Not known: no run has ended."
    best, worst = max(known, key=lambda pair: pair[0].value or 0), min(known, key=lambda pair: pair[0].value or 0)

    def text(pair: tuple[Estimate, str]) -> str:
        estimate, name = pair
        return f"{name} at {estimate.value:.1f} ({estimate.low:.1f} to {estimate.high:.1f})"

    words = f"Best on {best[0].data}: {text(best)} average mAP"
    words += f"; worst: {text(worst)}" if best[1] != worst[1] else ""
    judged = [f"{v.claim}: {v.word}" + (f" ({v.difference:+.2f})" if v.difference is not None else "") for v in found]
    return f"{words}." + (f" Claims: {'; '.join(judged)}." if judged else "")


def conclude(
    plan: Plan, *, folder: Path, command: str, started: str, looks: int, times: Mapping[str, Sequence[Estimate]]
) -> StudyOutcome:
    """The outcome of the runs that are there."""
    cells = tuple(_cell(plan, cell, times) for cell in plan.study.cells)
    records = [record for runs in plan.cells.values() for _, record in done(runs)]
    mark = records[0].data.mark if records and records[0].data else plan.base.data.source.name
    found = verdicts(plan, mark, looks)
    notes = [*plan.study.notes, *_notes(plan, looks)]
    return StudyOutcome(
        name=plan.study.name,
        question=plan.study.question,
        answer=answer(cells, found),
        preset=plan.preset,
        data=mark,
        base=differences(plan.base),
        axes=plan.study.axes,
        cells=cells,
        verdicts=found,
        diagnosis=diagnosis(plan, cells),
        notes=tuple(notes),
        runs=_relative(plan.root, folder),
        command=command,
        started=started,
        finished=now(),
        environment=records[0].environment if records else {},
    )


def _notes(plan: Plan, looks: int) -> list[str]:
    notes = [
        f"Cells: {plan.seeds} seeds on the same videos; intervals over seeds and videos ({CELL_REPLICATES} replicates)."
    ]
    if plan.study.claims:
        notes.append(
            f"Claims: {plan.claim_seeds} seeds a side, {verdict.REPLICATES} replicates. Power was computed before the runs "
            f"from an assumed noise of {verdict.SEED_SD:g} points between seeds and {verdict.VIDEO_SD:g} between videos."
        )
        if plan.base.data.source.name == "synthetic" and not plan.variants:
            notes.append("Variants of the made-up set: not run (--variants).")
    if looks > 1:
        notes.append(
            f"Seeds were added in {looks} looks at most: each interval leaves out 1/{looks} of the error allowed."
        )
    return notes


def _relative(root: Path, folder: Path) -> str:
    return os.path.relpath(root.resolve(), folder.resolve())
