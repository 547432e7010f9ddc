"""Pages from record folders: HTML and Markdown from the same tables.

Beside them each table as CSV and LaTeX, each figure as SVG and PNG. Rendering reads folders only, takes seconds, and
the same folders give the same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path

from etad.record import RecordError
from reports.cores import each
from reports.index_page import values_of
from reports.load import Run, load_run, read_published
from reports.page import slugs, write_markdown, write_page
from reports.plots import draw
from reports.run_page import write_run
from reports.sketches import sketch
from reports.studies import FILE, Study, load_study
from reports.study_page import view_of, write_study

HOME = "../../index.html"  # from the page of a run or a study
BLOCK = 10  # runs whose pages are one piece of work


@dataclass(frozen=True)
class Found:
    """What some folders hold; `runs` are those given and those that the studies name, each once."""

    studies: list[Study]
    runs: list[Run]


def is_study(folder: Path) -> bool:
    return (folder / FILE).exists()


def find(folders: Sequence[Path]) -> Found:
    """Reads studies (folders with a study.json) and runs (all others)."""
    load = cache(load_run)

    def once(folder: Path) -> Run:
        return load(folder.resolve())

    given = [Path(folder) for folder in folders]
    studies = [load_study(folder, once) for folder in given if is_study(folder)]
    runs = [once(folder) for folder in given if not is_study(folder)]
    runs += [run for study in studies for run in study.runs.values()]
    return Found(studies, list({run.folder: run for run in runs}.values()))


def render_run(folder: Path, out: Path) -> list[Path]:
    """One run's page: index.html and index.md in `out`, with tables/ and figures/ beside them.

    Returns the written files, the two pages first. Raises RecordError where the folder's record cannot be read.
    """
    run = load_run(Path(folder))
    if run.record is None:
        raise RecordError(f"{folder}: {'; '.join(run.problems)}")
    return write_run(run, Path(out), read_published(), drawn=draw)


def render_studies(folders: Sequence[Path], out: Path) -> list[Path]:
    """An index over these studies and runs in `out`, a page a study in studies/NAME and a page a run in runs/NAME.

    Failed and broken folders are shown as such. Returns the written files, the two pages of the index first.
    """
    found, published = find(folders), read_published()
    readable = [run for run in found.runs if run.record]
    pages = dict(zip((run.folder for run in readable), slugs([r.folder.name for r in readable]), strict=True))
    whole = [study for study in found.studies if study.outcome]
    names = dict(zip(map(id, whole), slugs([study.name for study in whole]), strict=True))

    leads = [(study, f"studies/{names[id(study)]}/index.html" if study.outcome else "") for study in found.studies]
    values, tables = values_of(
        leads, found.runs, published, {f: f"runs/{page}/index.html" for f, page in pages.items()}
    )

    def study_page(study: Study) -> list[Path]:
        links = {n: f"../../runs/{pages[r.folder]}/index.html" for n, r in study.runs.items() if r.folder in pages}
        name = names[id(study)]
        return write_study(study, out / "studies" / name, published, name=name, links=links, home=HOME)

    def run_pages(some: Sequence[Run]) -> list[Path]:
        where = {run.folder: out / "runs" / pages[run.folder] for run in some}
        return [p for r in some for p in write_run(r, where[r.folder], published, drawn=sketch, home=HOME)]

    work = [partial(study_page, study) for study in whole]
    work += [partial(run_pages, readable[i : i + BLOCK]) for i in range(0, len(readable), BLOCK)]
    return write_page(out, "index", values, tables) + list(chain.from_iterable(each(work)))


def render_published(folders: Sequence[Path], out: Path, preset: str | None = None) -> list[Path]:
    """The studies among these folders as Markdown for a repository: README.md, a page a study, figures as SVG.

    With `preset`, those alone that ran at it.
    Pages and figures that `out` holds of other studies are removed. Returns the written files, README.md first.
    Raises RecordError where no study can be read.
    """
    found, published = find([folder for folder in map(Path, folders) if is_study(folder)]), read_published()
    whole = [study for study in found.studies if study.outcome and preset in (None, study.outcome.preset)]
    if not whole:
        raise RecordError("no study to publish; run one with: python -m experiments.ablate --study NAME")
    names = slugs([study.name for study in whole])
    leads = [(study, f"{name}.html") for study, name in zip(whole, names, strict=True)]
    runs = list({run.folder: run for study in whole for run in study.runs.values()}.values())
    values, _ = values_of(leads, runs, published, None)
    written = [write_markdown(out / "README.md", "index", values)]
    for study, name in zip(whole, names, strict=True):
        view = view_of(study, published, name=name, figures=out / "figures", links={}, kinds=("svg",))
        values = {"title": study.name, "view": view, "home": "README.md"}
        written.append(write_markdown(out / f"{name}.md", "study", values))
        written += [out / "figures" / f"{plot.name}.svg" for plot in view.plots]
    for stale in {*out.glob("*.md"), *out.glob("figures/*.svg")} - set(written):
        stale.unlink()
    return written
