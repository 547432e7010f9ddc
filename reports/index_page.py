"""The index: the claims with their verdicts, what each study found, the runs, and what could not be read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reports import claim_tables, published_tables, run_tables, study_tables
from reports.load import PublishedFile, Run
from reports.page import named
from reports.studies import Study, made_up
from reports.table import Cell, Column, Table, words


def counted(states: Sequence[str]) -> str:
    """`3 finished, 1 failed`, or none."""
    counts = Counter(states)
    return ", ".join(f"{n} {state}" for state in ("finished", "failed", "unreadable") if (n := counts[state])) or "none"


def summary(studies: Sequence[Study], runs: Sequence[Run]) -> str:
    """How many studies and runs there are, by what became of them."""
    finished = {"done": "finished", "failed": "failed"}
    of_runs = counted([finished[run.record.status] if run.record else "unreadable" for run in runs])
    of_studies = counted(["finished" if study.outcome else "unreadable" for study in studies])
    doubts = sum(bool(study.outcome and study.problems) for study in studies)
    more = f", {doubts} of them in part" if doubts else ""
    return (f"Studies: {of_studies}{more}. " if studies else "") + f"Runs: {of_runs}."


def _glance_row(study: Study, href: str) -> tuple[Cell, ...]:
    outcome = study.outcome
    assert outcome is not None
    ranked, row = study_tables.ranked(outcome), []
    for cell in ranked[:1] + ranked[1:][-1:]:  # best and worst
        row += [words(cell.name), study_tables.shown(cell.estimate("average_mAP"))]
    row += [Cell()] * (4 - len(row))
    row += [study_tables.shown(ranked[0].estimate(n)) for n in ("training_time", "peak_memory")]
    done = sum(len(cell.runs) - len(cell.missing) - len(cell.failed) for cell in outcome.cells)
    return (words(study.name, outcome.question, href), Cell(len(outcome.cells)), Cell(done), *row)


def glance(studies: Sequence[tuple[Study, str]]) -> list[Table]:
    """One row a study of mAP, a table for each data set: its best and worst cell, and the price of the best."""
    of_mAP = [(s, href, s.outcome.data) for s, href in studies if s.outcome and study_tables.ranked(s.outcome)]
    columns = (
        Column("study", numeric=False),
        Column("cells"),
        Column("runs"),
        Column("best cell", numeric=False),
        Column("its mAP", "%"),
        Column("worst cell", numeric=False),
        Column("its mAP", "%"),
        Column("training of the best", "s"),
        Column("its peak memory", "B"),
    )
    return [
        Table(
            f"studies-{mark}",
            f"Studies on {mark}{', a made-up set' if made_up(mark) else ''}",
            columns,
            tuple(_glance_row(study, href) for study, href, data in of_mAP if data == mark),
            notes=("mAP: average over the thresholds, mean over the seeds, in brackets its 95 % interval.",),
            listed=True,
        )
        for mark in dict.fromkeys(data for *_, data in of_mAP)
    ]


def values_of(
    studies: Sequence[tuple[Study, str]],
    runs: Sequence[Run],
    published: PublishedFile,
    links: Mapping[Path, str] | None,
) -> tuple[dict[str, Any], list[Table]]:
    """What the index shows, and its tables.

    `studies` come with where they lead; `links`: a run's folder -> its page, None: runs are counted, not listed.
    """
    claims, main = named(claim_tables.claims(studies)), named(glance(studies))
    listed = [(run, links[run.folder]) for run in runs if run.record] if links else []
    overviews, compared = [], set()
    for mark in dict.fromkeys(run.mark for run, _ in listed):
        group = [(run, link) for run, link in listed if run.mark == mark]
        overviews.append(run_tables.overview(*zip(*group, strict=True)))
        if beside := [run for run, _ in group if published_tables.comparable(run, published)]:
            overviews.append(published_tables.comparison(beside, published))
            compared.add(mark)
    tables = named(overviews)
    others = named(published_tables.alone(published, mark) for mark in published.marks if mark not in compared)
    unread = [(s.folder, s.problems) for s, _ in studies if not s.outcome]
    unread += [(run.folder, tuple(run.problems)) for run in runs if not run.record]
    values = {
        "title": "Studies of the detector" if studies else "Runs of the detector",
        "summary": summary([study for study, _ in studies], runs),
        "broken": [f"{folder.name}: {'; '.join(problems)}" for folder, problems in unread],
        "claims": claims,
        "main": main,
        "studies": [(study, href) for study, href in studies if study.outcome],
        "overviews": tables,
        "published": others,
        "compared": bool(compared),
        "committed": links is None,
    }
    return values, [*claims, *main, *tables, *others]
