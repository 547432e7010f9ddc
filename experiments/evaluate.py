"""Evaluate any tool's detections against ground truth, both in the ActivityNet layout."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from etad.data.annotations import Annotations, read_annotations, read_blocked
from etad.detections import Detections, read_detections
from etad.evaluate import PROFILES, Evaluation, class_agnostic, evaluate, merge_labels
from experiments.command import main, parser

AN = (1, 5, 10, 100)


def tiou_values(text: str) -> tuple[float, ...]:
    """`0.5:0.05:0.95` (both ends counted) or `0.5,0.75` as thresholds."""
    try:
        if ":" not in text:
            values = tuple(float(part) for part in text.split(","))
        else:
            start, step, stop = (float(part) for part in text.split(":"))
            values = tuple(round(start + i * step, 10) for i in range(round((stop - start) / step) + 1))
            if abs(values[-1] - stop) > 1e-9:
                raise ValueError
        if not all(0 < value <= 1 for value in values) or list(values) != sorted(set(values)):
            raise ValueError
    except (ValueError, ZeroDivisionError, IndexError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r}: write rising thresholds in (0, 1] as 0.5:0.05:0.95 or 0.5,0.75"
        ) from None
    return values


def protocol_options(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """What is judged against what, and by which rules."""
    made.add_argument("ground_truth", help="annotations, ActivityNet layout")
    made.add_argument("detections", help="detections, ActivityNet submission layout")
    made.add_argument("--subset", default="validation", help="subset evaluated (default: %(default)s)")
    made.add_argument(
        "--tiou",
        type=tiou_values,
        default="0.5:0.05:0.95",
        help="thresholds, start:step:end or a,b,c (default: %(default)s)",
    )
    made.add_argument("--blocked", help="ids left out: a JSON list, or one shipped by name: anet-79")
    made.add_argument(
        "--profile",
        choices=sorted(PROFILES),
        default="official",
        help="official: linspace thresholds, 0/0 tIoU matches, detections in unknown videos are false positives; "
        "strict: decimal thresholds, 0/0 never matches, unknown videos are left out (default: %(default)s)",
    )
    made.add_argument("--mend", action="store_true", help="drop and clip flawed ground truth, as training does")
    made.add_argument("--class-agnostic", action="store_true", help="ignore labels; copies of a segment are merged")
    return made


def judged(args: argparse.Namespace) -> tuple[Annotations, Detections, Evaluation, dict[str, Any]]:
    """Both files, their evaluation, and its rules as `evaluate` and `diagnose` take them. Raises ValueError."""
    annotations = read_annotations(args.ground_truth, mend=args.mend)
    blocked, sha256 = read_blocked(args.blocked) if args.blocked else (frozenset[str](), None)
    if args.class_agnostic:
        annotations = class_agnostic(annotations)
        detections = merge_labels(read_detections(args.detections))
    else:
        detections = read_detections(args.detections, annotations.classes)
    rules: dict[str, Any] = {"tiou": args.tiou, "subset": args.subset, "blocked": blocked, "profile": args.profile}
    return annotations, detections, evaluate(annotations, detections, blocked_sha256=sha256, **rules), rules


def work(args: argparse.Namespace) -> dict[str, Any]:
    _, _, found, _ = judged(args)
    return {
        "mAP": found.mAP.tolist(),
        "average_mAP": found.average_mAP,
        "tiou": list(found.tiou),
        "AR": {str(an): float(found.recall[an - 1]) for an in AN},
        "AR_area": found.area,
        "AP": dict(zip(found.classes, found.ap.tolist(), strict=True)),
        "protocol": found.protocol,
    }


def show(result: dict[str, Any]) -> None:
    console, protocol = Console(), result["protocol"]
    table = Table("tIoU", "mAP %")
    for tiou, value in zip(result["tiou"], result["mAP"], strict=True):
        table.add_row(f"{tiou:.2f}", f"{100 * value:.2f}")
    table.add_section()
    table.add_row("average", f"{100 * result['average_mAP']:.2f}")
    console.print(table)
    table = Table("proposals a video", *result["AR"], "area")
    table.add_row("recall %", *(f"{100 * value:.2f}" for value in (*result["AR"].values(), result["AR_area"])))
    console.print(table)
    console.print(
        f"{protocol['videos']} videos, {protocol['ground_truths']} ground truths, {protocol['classes']} classes; "
        f"{protocol['detections']} detections and {protocol['detections_outside']} outside ({protocol['outside']}); "
        f"profile {protocol['profile']}",
        highlight=False,
    )
    if "version" in protocol:
        console.print(protocol["version"], highlight=False, markup=False, soft_wrap=True)


def run(argv: Sequence[str] | None = None) -> int:
    made = parser(
        "experiments.evaluate",
        "mAP and AR@AN of a detection file, by the rules of the official ActivityNet evaluator.",
        "python -m experiments.evaluate activity_net.v1-3.json detections.json --blocked anet-79 --json",
    )
    return main(protocol_options(made), work, show, argv)


if __name__ == "__main__":
    sys.exit(run())
