"""Evaluate any tool's detections against ground truth, both in the ActivityNet layout."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from etad.data.annotations import read_annotations, read_blocked
from etad.detections import read_detections
from etad.diagnose import GROUPS, diagnose
from etad.evaluate import PROFILES, class_agnostic, evaluate, merge_labels
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


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "experiments.evaluate",
        "mAP, AR@AN and error diagnosis of a detection file, by the rules of the official ActivityNet evaluator.",
        "python -m experiments.evaluate activity_net.v1-3.json detections.json --blocked anet-79 --json",
    )
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
    made.add_argument("--diagnose", action="store_true", help="add the kinds of error and what each costs")
    made.add_argument(
        "--groups", choices=sorted(GROUPS), default="anet", help="sizes in the diagnosis (default: %(default)s)"
    )
    return made


def work(args: argparse.Namespace) -> dict[str, Any]:
    annotations = read_annotations(args.ground_truth, mend=args.mend)
    blocked, sha256 = read_blocked(args.blocked) if args.blocked else (frozenset[str](), None)
    if args.class_agnostic:
        annotations = class_agnostic(annotations)
        detections = merge_labels(read_detections(args.detections))
    else:
        detections = read_detections(args.detections, annotations.classes)
    common: dict[str, Any] = {"tiou": args.tiou, "subset": args.subset, "blocked": blocked, "profile": args.profile}
    found = evaluate(annotations, detections, blocked_sha256=sha256, **common)
    result: dict[str, Any] = {
        "mAP": found.mAP.tolist(),
        "average_mAP": found.average_mAP,
        "tiou": list(found.tiou),
        "AR": {str(an): float(found.recall[an - 1]) for an in AN},
        "AR_area": found.area,
        "AP": dict(zip(found.classes, found.ap.tolist(), strict=True)),
        "protocol": found.protocol,
    }
    if args.diagnose:
        result["diagnosis"] = asdict(diagnose(annotations, detections, groups=GROUPS[args.groups], **common))
    return result


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
    if "diagnosis" in result:
        _show_diagnosis(console, result["diagnosis"])


def _show_diagnosis(console: Console, diagnosis: dict[str, Any]) -> None:
    table = Table("kind", "share %", "mAP gained without it", title=f"best {diagnosis['detections']} detections")
    for kind in (*diagnosis["shares"], "missed"):
        share, gain = diagnosis["shares"].get(kind, diagnosis["missed"]), diagnosis["gain"].get(kind)
        mean = [f"{100 * sum(part) / len(part):.2f}" if part else "-" for part in (share, gain)]
        table.add_row(kind, *mean)
    console.print(table)
    for name, groups in diagnosis["false_negatives"].items():
        table = Table(name, *groups)
        table.add_row("ground truths", *(str(group["ground_truths"]) for group in groups.values()))
        missed = [group["missed"] for group in groups.values()]
        table.add_row("missed %", *("-" if value is None else f"{100 * value:.1f}" for value in missed))
        console.print(table)


def run(argv: Sequence[str] | None = None) -> int:
    return main(_parser(), work, show, argv)


if __name__ == "__main__":
    sys.exit(run())
