"""Write a made-up set as plain files, to try the rest on: a table of instances, and an array of features a video."""

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from etad.record import replacing
from etad.spec import DataSpec
from experiments.command import main, parser
from experiments.progress import bar


def work(args: argparse.Namespace) -> dict[str, Any]:
    from etad.data.synthetic import make_rows_over  # slow to import, and --help must not wait
    from etad.data.synthetic_truth import draw_annotations, read_statistics

    held = max(1, args.videos // 5)
    counts = {"training": args.videos - held, "validation": held}
    truth = draw_annotations(read_statistics("anet13"), counts, args.classes, args.seed)
    make = make_rows_over(DataSpec(channels=args.channels), truth, seed=args.seed)
    table = io.StringIO(newline="")
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["id", "start", "end", "label", "subset"])
    with bar("writing") as advance:
        for n, video in enumerate(truth.videos.values(), 1):
            columns = max(1, round(video.duration_s / args.column_s))
            with replacing(args.out / "features" / f"{video.id}.npy", "wb") as file:
                np.save(file, make.sequence(video.id, columns, args.column_s))
            for (start, end), label in zip(video.segments_s.tolist(), video.labels.tolist(), strict=True):
                rows.writerow([video.id, f"{start:.3f}", f"{end:.3f}", truth.classes[label], video.subset])
            advance(n, len(truth.videos), "")
    with replacing(args.out / "truth.csv") as file:
        file.write(table.getvalue())
    return {
        "annotations": str(args.out / "truth.csv"),
        "features": str(args.out / "features"),
        "videos": counts,
        "column_s": args.column_s,
    }


def show(result: dict[str, Any]) -> None:
    print(result["annotations"])
    print(result["features"])


def count(text: str) -> int:
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"{text}: give 2 or more")
    return value


def run(argv: Sequence[str] | None = None) -> int:
    made = parser("experiments.example_set", __doc__ or "", "python -m experiments.example_set example --videos 60")
    made.add_argument("out", type=Path, help="the set's folder")
    made.add_argument("--videos", type=count, default=60, help="a fifth of them to test on (default: %(default)s)")
    made.add_argument("--classes", type=count, default=5, help="default: %(default)s")
    made.add_argument("--channels", type=int, default=64, help="of the features, 32 or more (default: %(default)s)")
    made.add_argument("--column-s", type=float, default=1.0, help="seconds a column (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0)
    return main(made, work, show, argv)


if __name__ == "__main__":
    sys.exit(run())
