"""Claims in tables: each verdict with its numbers, on the study's data and on variants of it."""

from collections.abc import Sequence, Set

from ablations.outcome import StudyOutcome, Verdict
from etad.record import Evidence
from reports.page import slug
from reports.studies import JUDGED, Study, made_up
from reports.table import Cell, Column, Table, words

TONES = {"holds": "yes", "reproduced": "yes", "does not hold": "no", "not reproduced": "no", "undecided": "open"}
COMPARED = "Difference: left minus right of the criterion, in brackets its interval. Power: stated before the runs."
MADE_UP = "A verdict on made-up data is a property of its generator too."


def said(verdict: Verdict) -> str:
    """The verdict's word, and on which set where the word means nothing without it."""
    own = verdict.word in ("holds", "does not hold", "undecided")
    return f"{verdict.word} on {verdict.data}" if own else verdict.word


def evidence(outcome: StudyOutcome, verdict: Verdict) -> Evidence:
    """Where the figures that a verdict compares come from."""
    found = [e.evidence for cell in outcome.cells for e in cell.estimates if e.name == verdict.metric]
    return found[0] if found else "measured"


def anchor_of(claim: str, verdict: Verdict) -> str:
    """Where the runs of a verdict stand in the table of runs."""
    return f"runs-{slug(f'{claim}-{verdict.data}')}"


def _numbers(outcome: StudyOutcome, verdict: Verdict, href: str = "") -> tuple[Cell, ...]:
    judged = verdict.word in JUDGED
    mark = evidence(outcome, verdict) if judged else None
    note = f"{verdict.criterion}; confidence {100 * verdict.confidence:.0f} %"
    note += f", interval widened for {verdict.looks} looks" if verdict.looks > 1 else ""
    bare = verdict.difference is None and judged
    word = f"{said(verdict)}: {verdict.reason}" if bare else said(verdict)  # never without its numbers
    return (
        Cell(label=word, evidence=mark if bare else None, tone=TONES.get(verdict.word, ""), note=verdict.reason),
        Cell(verdict.difference, "points", mark, verdict.low, verdict.high, verdict.runs, note=note, href=href),
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


def claims(studies: Sequence[tuple[Study, str]]) -> list[Table]:
    """The claims of studies with their verdicts and numbers, a table for each data set; the links lead to the studies."""
    found = [
        (study, study.outcome, v, href) for study, href in studies if study.outcome for v in study.outcome.verdicts
    ]
    tables = []
    for mark in dict.fromkeys(v.data for _, _, v, _ in found):
        rows = [
            (
                words(v.claim, v.sentence, href),
                *_numbers(o, v),
                *([_alike(v)] if made_up(mark) else []),
                words(study.name, o.question, href),
            )
            for study, o, v, href in found
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
                    *([COMPARED] if any(v.difference is not None for *_, v, _ in found if v.data == mark) else []),
                    *([MADE_UP] if made_up(mark) else []),
                ),
                listed=True,
            ).dense()
        )
    return tables


def _alike(verdict: Verdict) -> Cell:
    """On how many variants of the set the same word was found."""
    if not verdict.variants:
        return Cell()
    alike = sum(v.word == verdict.word for v in verdict.variants)
    return words(f"alike on {alike} of {len(verdict.variants)} variants", "of the set, with one ingredient out")


def verdicts(outcome: StudyOutcome, anchors: Set[str]) -> Table | None:
    """The claims in numbers, each on the study's data and on variants of it: what the verdict hangs on.

    `anchors` are the places on the page where runs of claims stand.
    """

    def lead(claim: str, verdict: Verdict) -> str:
        place = anchor_of(claim, verdict)
        return f"#{place}" if place in anchors else ""

    rows = [
        (words(claim.claim), words(verdict.data), *_numbers(outcome, verdict, lead(claim.claim, verdict)))
        for claim in outcome.verdicts
        for verdict in (claim, *claim.variants)
    ]
    columns = (Column("claim", numeric=False), Column("set", numeric=False, named=False), *_NUMBERS)
    varied = any(claim.variants for claim in outcome.verdicts)
    title = "The claims in numbers" + (", on the set and on variants with one ingredient out" if varied else "")
    notes = (MADE_UP,) if any(made_up(claim.data) for claim in outcome.verdicts) else ()
    return Table("claims", title, columns, tuple(rows), notes=notes, listed=True).dense() if rows else None
