"""A run's page: what it reached, how it was trained, a few videos, and where all of it comes from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reports import charts, published_tables, run_tables
from reports.load import PublishedFile, Run
from reports.page import named, slug, write_page
from reports.plots import Plot
from reports.table import Cell, Table
from reports.timelines import Timeline, timeline

VIDEOS = 6  # timelines a run
Draw = Callable[[charts.Chart, Path], Plot]


@dataclass(frozen=True)
class View:
    """A readable run, done or failed, as its page shows it."""

    run: Run
    headline: list[str | Cell]
    tiles: list[tuple[str, Cell]]
    gauge: tuple[Cell, Cell, Cell, float] | None  # floor, own, ceiling, right end of the scale
    main: list[Table]
    provenance: list[Table]
    figures: list[Table]  # all of them, for the page; `other` holds those that no table above has
    other: list[Table]
    judged: list[Plot]  # of the results
    curves: list[Plot]  # of the training
    timelines: list[Timeline]

    @property
    def tables(self) -> list[Table]:
        return [*self.main, *self.provenance, *self.figures]


def _judged(run: Run, name: str, published: PublishedFile) -> list[charts.Chart]:
    """mAP by tIoU between its bounds or beside published points; none where the record has no mAP."""
    tious = run_tables.thresholds([run])

    def points(kind: str = "") -> tuple[list[float], list[float]]:
        found = [(float(t), f.value) for t in tious if (f := run.figure(f"mAP@{t}{kind}")) and f.value is not None]
        return [x for x, _ in found], [y for _, y in found]

    x, y = points()
    if not x:
        return []
    lines = [charts.Line(run.name, x, y, "strong")]
    for bound in ("floor", "ceiling"):
        x, y = points(f"_{bound}")
        lines += [charts.Line(bound, x, y, "bound")] if x else []
    caption = f"mAP by tIoU on {run.mark}" + (", with floor and ceiling." if len(lines) > 1 else ".")
    if published_tables.comparable(run, published):
        for row in published.of(run.mark or ""):
            pairs = sorted((float(k), v) for k, v in row.mAP.items() if k != "average")
            if pairs and row.method == "ETAD":
                label = f"{row.source}, {row.setting}"
                x, y = [a for a, _ in pairs], [b for _, b in pairs]
                lines.append(charts.Line(label, x, y, "points", len(lines)))
        caption += " Diamonds: published."
    return [charts.accuracy(lines, name, caption)]


def _curves(run: Run, name: str) -> list[charts.Chart]:
    out = [] if run.losses is None else [charts.losses(run.losses, name)]
    return out if run.timings is None else [*out, charts.step_times(run.timings, name)]


def _gauge(run: Run) -> tuple[Cell, Cell, Cell, float] | None:
    low, own, high = (run_tables.cell(run, f"average_mAP{kind}") for kind in ("_floor", "", "_ceiling"))
    values = [c.value for c in (low, own, high) if c.value is not None]
    return (low, own, high, max(values) * 1.12) if len(values) == 3 and max(values) > 0 else None


def _view(run: Run, name: str, published: PublishedFile, figures: Path, drawn: Draw) -> View:
    assert run.record is not None
    done, beside, main = run.record.status == "done", published_tables.comparable(run, published), []
    if done:
        first = published_tables.comparison([run], published) if beside else run_tables.accuracy(run)
        main = [t for t in (first, run_tables.costs(run), run_tables.proposals(run)) if t]
    protocol = run_tables.pairs("protocol", "Protocol of the evaluation", run.record.protocol)
    environment = run_tables.pairs("environment", "Machine and versions", run.record.environment)
    changed = run_tables.changed(run)
    provenance = [t for t in (*run_tables.data_tables(run), protocol, environment) if t.rows]
    prefix = f"{name}-"
    return View(
        run,
        run_tables.headline(run, published_tables.compared(run, published) if beside else None),
        run_tables.tiles(run),
        _gauge(run) if done else None,
        named(main, prefix),
        named([*provenance, *([changed] if changed else [])], prefix),
        named([run_tables.all_figures(run)] if run.record.figures else [], prefix),
        [t for t in [run_tables.all_figures(run, shown=False)] if t.rows],
        [drawn(chart, figures) for chart in (_judged(run, name, published) if done else [])],
        [drawn(chart, figures) for chart in _curves(run, name)],
        [timeline(video) for video in run.examples[:VIDEOS]],
    )


def write_run(run: Run, out: Path, published: PublishedFile, *, drawn: Draw, home: str | None = None) -> list[Path]:
    """The page of a readable run. With `home`, the index that it belongs to, it leaves other people's figures to that."""
    view = _view(run, slug(run.folder.name), published, out / "figures", drawn)
    beside = {run.mark} if published_tables.comparable(run, published) else set()
    apart = [m for m in published.marks if m not in beside and home is None]
    others = named(published_tables.alone(published, mark) for mark in apart)
    values = {"title": run.name, "view": view, "published": others, "compared": bool(beside), "home": home}
    written = write_page(out, "run", values, [*view.tables, *others])
    return written + [out / "figures" / f"{p.name}.{k}" for p in view.judged + view.curves for k in p.kinds]
