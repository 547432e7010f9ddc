"""The runs behind a study: what became of each, by cell and by claim."""

from collections.abc import Mapping, Sequence

from etad.record import Record
from reports.claim_tables import anchor_of
from reports.run_tables import cell as run_cell
from reports.studies import Study
from reports.study_tables import anchor, short
from reports.table import Cell, Column, Table, words

_COLUMNS = (
    Column("run", numeric=False),
    Column("cell", numeric=False),
    Column("seed"),
    Column("state", numeric=False),
    Column("average mAP", "%"),
    Column("error", numeric=False),
)


def _row(
    study: Study, name: str, of: str, link: str, *, state: str, error: str, seed: int | None, id: str
) -> tuple[Cell, ...]:
    """A run by its folder's name; `state` and `error` are what the study says of one that has no folder here."""
    run = study.runs.get(name)
    record: Record | None = run.record if run else None
    if run:
        state = record.status if record else "unreadable"
        error = error or (record.error if record else "; ".join(run.problems))
    own = run is not None and study.outcome is not None and run.mark == study.outcome.data
    return (
        Cell(label=name, href=link, id=id),
        words(of),
        Cell(seed),
        words(state),
        run_cell(run, "average_mAP") if run and own else Cell(),
        words(error) if error else Cell(),
    )


def _table(name: str, title: str, rows: Sequence[tuple[Cell, ...]]) -> Table:
    whole = Table(name, title, _COLUMNS, tuple(rows))
    return whole if any(not row[-1].missing for row in rows) else whole.without(len(_COLUMNS) - 1)


def of_cells(study: Study, links: Mapping[str, str]) -> Table:
    """One row a run of a cell. `links`: run -> its page."""
    assert study.outcome is not None
    rows = []
    for cell in study.outcome.cells:
        seeds = dict(zip(cell.runs, cell.seeds, strict=False))
        for n, name in enumerate(dict.fromkeys((*cell.runs, *cell.failed, *cell.missing))):
            gone = "failed" if name in cell.failed else "missing" if name in cell.missing else "not here"
            id = anchor(cell) if n == 0 else ""
            error = cell.failed.get(name, "")
            rows.append(
                _row(
                    study, name, short(cell), links.get(name, ""), state=gone, error=error, seed=seeds.get(name), id=id
                )
            )
    return _table("runs", "Runs of the cells", rows)


def of_claims(study: Study, links: Mapping[str, str]) -> Table | None:
    """One row a run that a claim rests on and no cell has; None where there is none."""
    assert study.outcome is not None
    rows, seen = [], {name for cell in study.outcome.cells for name in cell.runs}
    for claim in study.outcome.verdicts:
        for verdict in (claim, *claim.variants):
            first = anchor_of(claim.claim, verdict)
            for name in verdict.runs:
                if name not in seen:
                    of = f"{claim.claim}, {verdict.data}"
                    rows.append(
                        _row(study, name, of, links.get(name, ""), state="not here", error="", seed=None, id=first)
                    )
                    seen.add(name)
                    first = ""
    return _table("claim-runs", "Runs of the claims", rows).without(2) if rows else None
