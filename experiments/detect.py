"""Detect in one video: a checkpoint, and the video or its features, are all that is needed."""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from etad.record import replacing, write_json
from experiments.command import Misuse, main, parser
from experiments.keys import checkpoint_of
from experiments.progress import bar, say

EXAMPLE = (
    "python -m experiments.detect v_abc.npy --checkpoint runs/laptop-KEY --duration 93.5 \\\n"
    "    --min-score 0.1 --out v_abc.json --timeline v_abc.png"
)
SHOWN = 20  # rows of the table and bars of the timeline unless --top says otherwise


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: a time above 0")
    return value


def _parser() -> argparse.ArgumentParser:
    made = parser("experiments.detect", __doc__ or "", EXAMPLE)
    made.add_argument(
        "source",
        type=Path,
        metavar="VIDEO_OR_FEATURES",
        help="a .npy file of features, or a video where it was trained on",
    )
    made.add_argument("--checkpoint", type=Path, required=True, help="of a run: its folder, or latest.pth")
    made.add_argument(
        "--layout", choices=("TC", "CT"), default="TC", help="TC: [snippets, channels]; CT: turned (default: TC)"
    )
    made.add_argument("--duration", type=seconds, metavar="S", help="how long the features' video lasts")
    made.add_argument("--stride-s", type=seconds, metavar="S", help="or the seconds between two columns of features")
    made.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    made.add_argument("--own-code", action="store_true", help="import components of its own, from a file you trust")
    made.add_argument("--min-score", type=float, default=0.0, help="leave out what scores lower")
    made.add_argument("--top", type=int, help=f"only the best so many (default: all; the table shows {SHOWN})")
    made.add_argument("--out", type=Path, help="x.json, the submission layout, or x.csv")
    made.add_argument("--timeline", type=Path, help="x.png, a picture of the detections")
    return made


def work(args: argparse.Namespace) -> dict[str, Any]:
    if args.out and args.out.suffix not in (".json", ".csv"):
        raise Misuse(f"--out {args.out}: name a .json or a .csv file")
    if args.timeline and args.timeline.suffix != ".png":
        raise Misuse(f"--timeline {args.timeline}: name a .png file")
    if args.top is not None and args.top < 1:
        raise Misuse(f"--top {args.top}: give 1 or more")
    checkpoint = checkpoint_of(args.checkpoint)
    say(f"loading {checkpoint}")
    from etad.detecting import load  # torch takes seconds to import

    trained = load(checkpoint, args.device, own_code=args.own_code)
    sequence = trained.read(args.source, layout=args.layout, duration_s=args.duration, stride_s=args.stride_s)
    with bar("detecting") as advance:
        found = trained.find(sequence, lambda done, total: advance(done, total, ""))
    rows = [d for d in found if d.score >= args.min_score][: args.top]
    result = {
        "id": args.source.stem,
        "duration_s": sequence.duration_s,
        "detections": [row._asdict() for row in rows],
        "found": len(found),
    }
    if args.out:
        write(args.out, result)
    if args.timeline:
        from reports.strip import draw_strip

        shown = rows if args.top else rows[:SHOWN]
        draw_strip(args.timeline, shown, sequence.duration_s, f"{args.source.stem}: the best {len(shown)} detections")
    return result


def write(path: Path, result: dict[str, Any]) -> None:
    rows = result["detections"]
    if path.suffix == ".csv":
        with replacing(path) as file:
            table = csv.DictWriter(file, ("start_s", "end_s", "label", "score"))
            table.writeheader()
            table.writerows(rows)
        return
    listed = [{"segment": [r["start_s"], r["end_s"]], "label": r["label"], "score": r["score"]} for r in rows]
    write_json(path, {"version": "VERSION 1.3", "results": {result["id"]: listed}, "external_data": {}})


def show(result: dict[str, Any]) -> None:
    rows = result["detections"]
    table = Table("start s", "end s", "label", "score")
    for column in (0, 1, 3):
        table.columns[column].justify = "right"
    for row in rows[:SHOWN]:
        table.add_row(f"{row['start_s']:.2f}", f"{row['end_s']:.2f}", Text(row["label"]), f"{row['score']:.3f}")
    Console().print(table)
    print(f"{result['id']}: {len(rows)} of {result['found']} detections in {result['duration_s']:.1f} s")


def run(argv: Sequence[str] | None = None) -> int:
    return main(_parser(), work, show, argv)


if __name__ == "__main__":
    sys.exit(run())
