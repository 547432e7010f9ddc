"""Render the report of one or more run folders: HTML and Markdown, from the folders alone."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.command import Failure, main, parser


def _folders(given: Sequence[Path]) -> list[Path]:
    """The folders to read: those given, or every one in runs/. Raises Failure where there is none."""
    absent = [folder for folder in given if not folder.is_dir()]
    if absent:
        raise Failure(f"{absent[0]}: no such run folder")
    found = list(given) or sorted(
        p for p in Path("runs").glob("*") if p.is_dir() and p.name[0] != "." and p.name != "trained"
    )
    if not found:
        raise Failure("no run folder in runs/; make one with: python -m experiments.reproduce")
    return found


def work(args: argparse.Namespace) -> dict[str, Any]:
    from etad.record import RecordError
    from reports.render import (  # matplotlib and pandas are slow to import, --help must not wait
        render_run,
        render_studies,
    )

    folders = _folders(args.folders)
    try:
        written = render_run(folders[0], args.out) if len(args.folders) == 1 else render_studies(folders, args.out)
    except RecordError:
        written = render_studies(folders, args.out)
    return {
        "page": str(written[0]),
        "markdown": str(written[1]),
        "runs": [str(f) for f in folders],
        "files": len(written),
    }


def show(result: dict[str, Any]) -> None:
    print(result["page"])


def run(argv: Sequence[str] | None = None) -> int:
    made = parser("experiments.report", __doc__ or "", "python -m experiments.report runs/laptop --out site")
    made.add_argument("folders", nargs="*", type=Path, metavar="RUN", help="run folders; none: every one in runs/")
    made.add_argument("--out", type=Path, default=Path("site"), help="where the page goes (default: site)")
    return main(made, work, show, argv)


if __name__ == "__main__":
    sys.exit(run())
