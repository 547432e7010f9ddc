"""Pages from record folders: HTML and Markdown from the same tables.

Beside them each table as CSV and LaTeX, each figure as SVG and PNG. Rendering reads folders only, takes seconds, and
the same folders give the same bytes.
"""

from collections.abc import Sequence
from pathlib import Path

from etad.record import RecordError
from reports.index_page import write_index
from reports.load import load_run, read_published
from reports.page import slugs
from reports.plots import draw
from reports.run_page import write_run

HOME = "../../index.html"  # from the page of a run or a study


def render_run(folder: Path, out: Path) -> list[Path]:
    """One run's page: index.html and index.md in `out`, with tables/ and figures/ beside them.

    Returns the written files, the two pages first. Raises RecordError where the folder's record cannot be read.
    """
    run = load_run(Path(folder))
    if run.record is None:
        raise RecordError(f"{folder}: {'; '.join(run.problems)}")
    return write_run(run, Path(out), read_published(), drawn=draw)


def render_studies(folders: Sequence[Path], out: Path) -> list[Path]:
    """An index over these folders in `out`, and a page each in runs/NAME.

    Failed and broken folders are shown as such. Returns the written files, the two pages of the index first.
    """
    published = read_published()
    runs = [load_run(Path(folder)) for folder in folders]
    written = write_index(runs, out, published)
    readable = [run for run in runs if run.record]
    for run, name in zip(readable, slugs([run.folder.name for run in readable]), strict=True):
        written += write_run(run, out / "runs" / name, published, drawn=draw, home=HOME)
    return written
