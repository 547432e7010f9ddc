"""A study's page: the question, the answer with its numbers, and all that it rests on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ablations.outcome import StudyOutcome, Verdict
from etad.record import Evidence
from reports import claim_tables, curves, published_tables, run_tables, study_plots, study_runs, study_tables
from reports.load import PublishedFile
from reports.page import named, write_page
from reports.plots import KINDS, Plot
from reports.studies import JUDGED, Study, made_up
from reports.table import Cell, Table

COSTS = {  # estimate -> what mAP is drawn against, where it differs between cells
    "training_time": "training time",
    "step_time": "time of a step",
    "detect_time_video": "detection time of a video",
    "peak_memory": "peak memory of a step",
    "steps": "training steps",
    "proposals_seen": "proposals seen in training",
}


@dataclass(frozen=True)
class Claim:
    """A verdict in words."""

    verdict: Verdict
    word: str
    tone: str
    numbers: list[str | Cell]  # the sentences that the word never stands without


@dataclass(frozen=True)
class View:
    study: Study
    outcome: StudyOutcome
    made_up: bool
    claims: list[Claim]
    judged: list[Table]  # the claims in numbers
    main: list[Table]
    curves: list[Plot]
    costs: list[Plot]
    by_tiou: list[Table]
    accuracy: list[Plot]
    diagnosis: list[Table]
    errors: list[Plot]
    published: list[Table]
    unavailable: Sequence[str]
    runs: list[Table]
    provenance: list[Table]

    @property
    def tables(self) -> list[Table]:
        own = (*self.judged, *self.main, *self.by_tiou, *self.diagnosis, *self.runs, *self.provenance)
        return [*own, *self.published]

    @property
    def plots(self) -> list[Plot]:
        return [*self.curves, *self.costs, *self.accuracy, *self.errors]


def _claim(outcome: StudyOutcome, verdict: Verdict) -> Claim:
    mark: Evidence | None = claim_tables.evidence(outcome, verdict) if verdict.word in JUDGED else None
    parts: list[str | Cell] = []
    if verdict.difference is not None:
        parts += ["Difference ", Cell(verdict.difference, "points", mark, verdict.low, verdict.high)]
        parts.append(f" ({100 * verdict.confidence:.0f} % interval)")
        parts += ["; margin ", Cell(verdict.margin, "points")] if verdict.margin is not None else []
        parts += [f"; power {100 * verdict.power:.0f} %, stated before the runs"] if verdict.power is not None else []
        parts.append(f"; {verdict.seeds} seeds on {verdict.videos:,} videos of {verdict.data}.")
    elif mark:
        parts.append(Cell(label=verdict.reason, evidence=mark))
    return Claim(verdict, claim_tables.said(verdict), claim_tables.TONES.get(verdict.word, ""), parts)


def _plots(outcome: StudyOutcome, folder: Path, name: str, kinds: Sequence[str]) -> tuple[list[Plot], list[Plot]]:
    """The curves, and mAP against what it costs."""
    lines = [curves.curve(outcome, panel, folder, name, kinds) for panel in curves.panels(outcome)]
    known = {e.name for cell in outcome.cells for e in cell.estimates if e.value is not None}
    left_out = {"step_time"} if "training_time" in known else set()
    if study_tables.constant(outcome, "steps"):
        left_out.add("proposals_seen")  # which then says no more than the curve
    if study_tables.constant(outcome, "anchors_testing"):
        left_out.add("detect_time_video")
    costs = {n: what for n, what in COSTS.items() if n in known - left_out and not study_tables.constant(outcome, n)}
    drawn = [study_plots.tradeoff(outcome, cost, what, folder, name, kinds) for cost, what in costs.items()]
    return lines, [plot for plot in drawn if plot]


def _provenance(outcome: StudyOutcome) -> list[Table]:
    base = run_tables.pairs("base", "The base: differences from the default spec", outcome.base, "knob")
    said = {
        cell.name: "; ".join(f"{knob} {run_tables.plain(value)}" for knob, value in cell.differences.items())
        for cell in outcome.cells
        if cell.differences
    }
    differences = run_tables.pairs("differences", "Each cell's differences from the base", said, "cell")
    environment = run_tables.pairs("environment", "Machine and versions", outcome.environment)
    return [table for table in (base, differences, environment) if table.rows]


def view_of(
    study: Study,
    published: PublishedFile,
    *,
    name: str,
    figures: Path,
    links: Mapping[str, str],
    kinds: Sequence[str] = KINDS,
) -> View:
    """All that a study's page shows; draws its figures into `figures`. `links`: run -> its page."""
    outcome = study.outcome
    assert outcome is not None
    lines, costs = _plots(outcome, figures, name, kinds)
    accuracy = study_plots.accuracy(outcome, figures, name, kinds)
    errors = study_plots.errors(outcome, figures, name, kinds)
    of_claims = study_runs.of_claims(study, links) if links else None  # without pages they would be names alone
    prefix = f"{name}-"

    def few(*tables: Table | None) -> list[Table]:
        return named([table for table in tables if table], prefix)

    return View(
        study=study,
        outcome=outcome,
        made_up=made_up(outcome.data),
        claims=[_claim(outcome, verdict) for verdict in outcome.verdicts],
        judged=few(claim_tables.verdicts(outcome, {row[0].id for row in of_claims.rows} if of_claims else set())),
        main=few(study_tables.main(outcome, links), study_tables.besides(outcome)),
        curves=lines,
        costs=costs,
        by_tiou=few(study_tables.thresholds(outcome)),
        accuracy=[accuracy] if accuracy else [],
        diagnosis=few(study_tables.diagnosis(outcome)),
        errors=[errors] if errors else [],
        published=few(*(published_tables.of_method(published, mark, "ETAD") for mark in published.marks)),
        unavailable=published.unavailable,
        runs=few(study_runs.of_cells(study, links), of_claims),
        provenance=few(*_provenance(outcome)),
    )


def write_study(
    study: Study, out: Path, published: PublishedFile, *, name: str, links: Mapping[str, str], home: str
) -> list[Path]:
    """The page of a readable study: index.html and index.md in `out`, tables/ and figures/ beside them."""
    view = view_of(study, published, name=name, figures=out / "figures", links=links)
    values = {"title": study.name, "view": view, "home": home}
    written = write_page(out, "study", values, view.tables)
    return written + [out / "figures" / f"{plot.name}.{kind}" for plot in view.plots for kind in plot.kinds]
