"""Render the report of studies and runs: HTML and Markdown, from their folders alone."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.command import Failure, main, parser

PUBLISHED = Path(__file__).parent.parent / "reports" / "published"


def _folders(given: Sequence[Path]) -> list[Path]:
    """The folders to read: those given, or every one in studies/ and runs/. Raises Failure where there is none."""
    absent = [folder for folder in given if not folder.is_dir()]
    if absent:
        raise Failure(f"{absent[0]}: no such folder of a run or a study")
    found = list(given) or [
        folder
        for root in ("studies", "runs")
        for folder in sorted(Path(root).glob("*"))
        if folder.is_dir() and folder.name[0] != "." and folder.name != "trained"
    ]
    if not found:
        raise Failure("nothing in studies/ or runs/; make a run with: python -m experiments.reproduce")
    return found


def work(args: argparse.Namespace) -> dict[str, Any]:
    from etad.record import RecordError
    from reports import render  # matplotlib and pandas are slow to import, --help must not wait

    folders = _folders(args.folders)
    if args.published:
        written = render.render_published(folders, PUBLISHED, None if args.folders else "laptop")
    elif len(args.folders) == 1 and not render.is_study(folders[0]):
        try:
            written = render.render_run(folders[0], args.out)
        except RecordError:
            written = render.render_studies(folders, args.out)  # which says what is wrong with it
    else:
        written = render.render_studies(folders, args.out)
    return {
        "page": str(written[0]),
        "markdown": str(next(path for path in written if path.suffix == ".md")),
        "folders": [str(f) for f in folders],
        "files": len(written),
    }


def show(result: dict[str, Any]) -> None:
    print(result["page"])


def run(argv: Sequence[str] | None = None) -> int:
    made = parser("experiments.report", __doc__ or "", "python -m experiments.report studies/cascade_depth --out site")
    given = "folders of studies or runs; none: every one in studies/ and runs/"
    made.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help=given)
    made.add_argument("--out", type=Path, default=Path("site"), help="where the pages go (default: site)")
    markdown = "write the studies (by default those at the laptop preset) as Markdown into reports/published instead"
    made.add_argument("--published", action="store_true", help=markdown)
    return main(made, work, show, argv)


if __name__ == "__main__":
    sys.exit(run())
