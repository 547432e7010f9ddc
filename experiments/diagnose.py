"""Which errors a detection file makes, what each costs in mAP, and which instances it misses: a page and its figures."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from etad.diagnose import GROUPS, diagnose
from experiments.command import main, parser
from experiments.evaluate import judged, protocol_options


def work(args: argparse.Namespace) -> dict[str, Any]:
    annotations, detections, found, rules = judged(args)
    groups = args.groups or ("thumos" if "version" in found.protocol else "anet")
    diagnosis = diagnose(annotations, detections, groups=GROUPS[groups], **rules)
    result = {
        "name": Path(args.detections).stem,
        "mark": args.mark or Path(args.ground_truth).stem,
        "sizes": GROUPS[groups],
        "protocol": found.protocol,
        **asdict(diagnosis),
    }
    from reports.diagnose_page import render_diagnosis  # matplotlib is slow to import, and --help must not wait

    pages = render_diagnosis(result, args.out)
    return {**result, "average_mAP": found.average_mAP, "pages": [str(page) for page in pages[:2]]}


def show(result: dict[str, Any]) -> None:
    console = Console()
    table = Table("kind", "share %", "mAP gained without it", title=f"best {result['detections']:,} detections")
    for kind in (*result["shares"], "missed"):
        share, gain = result["shares"].get(kind, result["missed"]), result["gain"].get(kind)
        table.add_row(kind, *(f"{100 * sum(part) / len(part):.2f}" if part else "-" for part in (share, gain)))
    console.print(table)
    for name, groups in result["false_negatives"].items():
        table = Table(name, *groups)
        table.add_row("ground truths", *(f"{group['ground_truths']:,}" for group in groups.values()))
        missed = [group["missed"] for group in groups.values()]
        for title, values in (("missed %", missed), ("average mAP_N %", result["sensitivity"][name].values())):
            table.add_row(title, *("-" if value is None else f"{100 * value:.1f}" for value in values))
        console.print(table)
    print(f"average mAP {100 * result['average_mAP']:.2f} %, mAP_N {100 * result['average_mAP_N']:.2f} %")
    for page in result["pages"]:
        print(f"report: {page}")


def run(argv: Sequence[str] | None = None) -> int:
    made = protocol_options(
        parser(
            "experiments.diagnose",
            f"{__doc__} Detections of any tool will do.",
            "python -m experiments.diagnose activity_net.v1-3.json detections.json --out diagnosis",
        )
    )
    made.add_argument(
        "--groups", choices=sorted(GROUPS), help="sizes of instances (default: thumos for THUMOS-14's ids, else anet)"
    )
    made.add_argument("--mark", help="the data's name beside every figure (default: the annotations' file)")
    made.add_argument("--out", type=Path, default=Path("diagnosis"), help="the page's folder (default: %(default)s)")
    return main(made, work, show, argv)


if __name__ == "__main__":
    sys.exit(run())
