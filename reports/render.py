"""Pages from record folders: HTML and Markdown from the same tables.

Beside them each table as CSV and LaTeX, each figure as SVG and PNG. Rendering reads folders only, takes seconds, and
the same folders give the same bytes.
"""

import base64
import hashlib
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from etad.record import replacing
from reports import plots, run_tables
from reports.load import PublishedFile, Run, load_run, read_published
from reports.table import MARKS, Cell, Table, markdown_text, to_csv, to_latex, to_markdown
from reports.timelines import Timeline, drawn, timeline

TEMPLATES = Path(__file__).parent / "templates"
VIDEOS = 6  # timelines a run
WIDTH = 76  # characters of a Markdown line
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class View:
    """One readable run, done or failed, as its page shows it."""

    run: Run
    slug: str
    headline: list[str | Cell]
    tiles: list[tuple[str, Cell]]
    gauge: tuple[Cell, Cell, Cell, float] | None  # floor, own, ceiling, right end of the scale
    main: list[Table]
    provenance: list[Table]
    figures: list[Table]  # all of them, for the page; `other` holds those that no table above has
    other: list[Table]
    judged: list[plots.Plot]  # of the results
    curves: list[plots.Plot]  # of the training
    timelines: list[Timeline]


@dataclass(frozen=True)
class Page:
    views: list[View]
    broken: list[Run]
    overviews: list[Table]
    published: list[Table]  # those that stand apart from the runs
    compared: bool  # some run stands beside published figures

    @property
    def own(self) -> list[str]:
        return [view.run.name for view in self.views]

    @property
    def tables(self) -> list[Table]:
        return [
            *self.overviews,
            *(t for v in self.views for t in (*v.main, *v.provenance, *v.figures)),
            *self.published,
        ]

    @property
    def summary(self) -> str:
        done = sum(view.run.record is not None and view.run.record.status == "done" for view in self.views)
        parts = [(done, "finished"), (len(self.views) - done, "failed"), (len(self.broken), "unreadable")]
        return "Runs: " + ", ".join(f"{n} {what}" for n, what in parts if n) + "."


def _slugs(runs: Sequence[Run]) -> list[str]:
    """Names safe in paths and ids, one a run."""
    plain = [re.sub(r"[^A-Za-z0-9._-]+", "-", run.folder.name).strip("-.") or "run" for run in runs]
    return [slug if plain.count(slug) == 1 else f"{slug}-{i}" for i, slug in enumerate(plain, 1)]


def _judged(run: Run, slug: str, published: PublishedFile, folder: Path) -> list[plots.Plot]:
    """mAP by tIoU between its bounds or beside published points; none where the record has no mAP."""
    tious = run_tables.thresholds([run])

    def series(label: str, kind: str = "", quiet: bool = False) -> list[plots.Series]:
        points = [(float(t), f.value) for t in tious if (f := run.figure(f"mAP@{t}{kind}")) and f.value is not None]
        return [plots.Series(label, [x for x, _ in points], [y for _, y in points], quiet)] if points else []

    own = series(run.name)
    if not own:
        return []
    others = series("floor", "_floor", True) + series("ceiling", "_ceiling", True)
    caption = f"mAP by tIoU on {run.mark}" + (", with floor and ceiling." if others else ".")
    if run_tables.comparable(run, published):
        for row in published.of(run.mark or ""):
            points = sorted((float(k), v) for k, v in row.mAP.items() if k != "average")
            if points and row.method == "ETAD":
                label = f"{row.source}, {row.setting}"
                others.append(plots.Series(label, [x for x, _ in points], [y for _, y in points], points_only=True))
        caption += " Diamonds: published."
    return [plots.accuracy(own + others, folder, f"{slug}-accuracy", caption)]


def _curves(run: Run, slug: str, folder: Path) -> list[plots.Plot]:
    out = [] if run.losses is None else [plots.losses(run.losses, folder, f"{slug}-losses")]
    return out if run.timings is None else [*out, plots.step_times(run.timings, folder, f"{slug}-steps")]


def _gauge(run: Run) -> tuple[Cell, Cell, Cell, float] | None:
    low, own, high = (run_tables.cell(run, f"average_mAP{kind}") for kind in ("_floor", "", "_ceiling"))
    values = [c.value for c in (low, own, high) if c.value is not None]
    return (low, own, high, max(values) * 1.12) if len(values) == 3 and max(values) > 0 else None


def _view(run: Run, slug: str, published: PublishedFile, figures: Path) -> View:
    assert run.record is not None
    done = run.record.status == "done"
    main = []
    if done:
        beside = run_tables.comparable(run, published)
        main = [run_tables.comparison([run], published) if beside else run_tables.accuracy(run), run_tables.costs(run)]
        main += [t for t in [run_tables.proposals(run)] if t]
    protocol = run_tables.pairs("protocol", "Protocol of the evaluation", run.record.protocol)
    environment = run_tables.pairs("environment", "Machine and versions", run.record.environment)
    changed = run_tables.changed(run)
    provenance = [t for t in (*run_tables.data_tables(run), protocol, environment) if t.rows]
    return View(
        run,
        slug,
        run_tables.headline(run, published),
        run_tables.tiles(run),
        _gauge(run) if done else None,
        _named(main, f"{slug}-"),
        _named([*provenance, *([changed] if changed else [])], f"{slug}-"),
        _named([run_tables.all_figures(run)] if run.record.figures else [], f"{slug}-"),
        [t for t in [run_tables.all_figures(run, shown=False)] if t.rows],
        _judged(run, slug, published, figures) if done else [],
        _curves(run, slug, figures),
        [timeline(video) for video in run.examples[:VIDEOS]],
    )


def _page(runs: Sequence[Run], published: PublishedFile, figures: Path) -> Page:
    readable = [run for run in runs if run.record]
    views = [_view(run, slug, published, figures) for run, slug in zip(readable, _slugs(readable), strict=True)]
    marks = list(dict.fromkeys(run.mark for run in readable))
    groups = [[run for run in readable if run.mark == mark] for mark in marks] if len(readable) > 1 else []
    compared = {run.mark for run in readable if run_tables.comparable(run, published)}
    apart = [m for m in dict.fromkeys(row.data for row in published.figures) if m not in compared]
    return Page(
        views,
        [run for run in runs if run.record is None],
        _named([run_tables.overview(group) for group in groups]),
        _named([run_tables.published_table(published, mark) for mark in apart]),
        bool(compared),
    )


def _named(tables: Sequence[Table], prefix: str = "") -> list[Table]:
    """The tables under names that are safe and unique as files' names and as ids on the page."""
    return [replace(t, name=re.sub(r"[^A-Za-z0-9._-]+", "-", f"{prefix}{t.name}")) for t in tables]


def _clean(text: object) -> str:
    """Without control characters, which a terminal would obey."""
    return _CONTROL.sub("", str(text))


def _code(text: str) -> Markup:
    """An indented block: nothing inside it can end it."""
    return Markup("\n".join(f"    {line}" for line in _clean(text).splitlines()))


def _wrap(parts: Sequence[str | Cell], first: str = "", rest: str = "") -> Markup:
    text = markdown_text(_clean("".join(p if isinstance(p, str) else p.suffixed() for p in parts)))
    return Markup(
        textwrap.fill(
            text, WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
        )
    )


def _markdown_environment() -> Environment:
    def finalize(value: object) -> object:
        return value if isinstance(value, Markup) else markdown_text(_clean(value))

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # finalize escapes every expression for Markdown instead
    )
    made.filters["verbatim"] = Markup
    made.globals.update(
        wrap=_wrap,
        code=_code,
        drawn=drawn,
        item=lambda parts: _wrap(parts, "- ", "  "),
        grid=lambda table: Markup(_clean(to_markdown(table, WIDTH))),
    )
    return made


def _html_environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    made.globals.update(
        style=(TEMPLATES / "style.css").read_text(encoding="utf-8"), script=script, script_hash=f"sha256-{digest}"
    )
    return made


def _write(path: Path, text: str) -> Path:
    with replacing(path) as file:
        file.write(text)
    return path


def render_run(folders: Sequence[Path], out: Path) -> list[Path]:
    """One page over these runs: index.html and index.md in `out`, with tables/ and figures/ beside them.

    Failed and broken folders are shown as such. Returns the written files, the two pages first.
    """
    published = read_published()
    page = _page([load_run(Path(folder)) for folder in folders], published, out / "figures")
    title = page.views[0].run.name if len(page.views) == 1 and not page.broken else "Runs of the detector"
    values = {"page": page, "marks": MARKS, "title": title}
    html = _html_environment().get_template("run.html.j2").render(values)
    markdown = _markdown_environment().get_template("run.md.j2").render(values)
    markdown = re.sub(r"\n{3,}", "\n\n", markdown).strip() + "\n"
    written = [_write(out / "index.html", html), _write(out / "index.md", markdown)]
    for table in page.tables:
        written.append(_write(out / "tables" / f"{table.name}.csv", to_csv(table)))
        written.append(_write(out / "tables" / f"{table.name}.tex", to_latex(table)))
    written += [
        out / "figures" / f"{p.name}.{kind}" for v in page.views for p in v.judged + v.curves for kind in ("svg", "png")
    ]
    return written
