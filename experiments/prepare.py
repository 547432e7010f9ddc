"""Pack features once: resized or cut into windows, float16, memory-mapped, with checksums."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from etad.data.annotations import Annotations, read_annotations
from etad.data.features import FeatureSource
from etad.data.packed import Contents, open_packed
from etad.data.packing import Make, Planned, write_packed
from etad.data.sources import plan_rows, window_rule, with_features
from etad.data.synthetic import plan_over
from etad.data.windows import RowMaker
from etad.record import replacing
from etad.spec import DataSpec, parse_spec
from experiments.command import Misuse, console, main, parser

EXAMPLE = (
    "python -m experiments.prepare --features tsp --pattern 'v_{id}.npy' --layout TC \\\n"
    "    --annotations activity_net.v1-3.json --out prepared/anet"
)


def arguments() -> argparse.ArgumentParser:
    made = parser("experiments.prepare", f"{__doc__} Killed, the same command goes on.", EXAMPLE)
    origin = made.add_mutually_exclusive_group(required=True)
    origin.add_argument("--features", type=Path, help="a folder of .npy files, or one HDF5 file")
    origin.add_argument(
        "--synthetic", type=int, metavar="C", help="make features of C channels up over the annotations"
    )
    made.add_argument("--annotations", type=Path, required=True, help="ground truth in the ActivityNet layout")
    made.add_argument("--pattern", help="file or HDF5 dataset of a video, for example 'v_{id}.npy'")
    made.add_argument("--layout", choices=("TC", "CT"), help="arrays are [snippets, channels] or turned")
    made.add_argument("--out", type=Path, required=True, help="folder of the pack")
    made.add_argument("--subsets", nargs="+", default=["training", "validation"], help="first trained, last tested on")
    made.add_argument("--tscale", type=int, default=128, help="columns a row (default: %(default)s)")
    made.add_argument("--windows-stride-s", type=float, help="sliding windows; seconds between two feature columns")
    made.add_argument("--fitted", action="store_true", help="each video its own stride, its duration over its columns")
    made.add_argument("--overlap", type=float, help="share of a window in common with the next (default: 0.5)")
    made.add_argument("--missing", choices=("error", "skip"), default="error", help="videos without features")
    made.add_argument(
        "--workers", type=int, default=2, help="processes that read features (default: %(default)s; 0: this one)"
    )
    made.add_argument("--verify", action="store_true", help="read the finished pack and compare all checksums")
    return made


def spec_tree(args: argparse.Namespace) -> dict[str, Any]:
    """The spec that trains on the pack, its width aside; paths are absolute, so that it can be inherited anywhere."""
    name, pack = ("packed", "features") if args.synthetic is None else ("synthetic_over", "pack")
    paths = {pack: str(args.out.resolve()), "annotations": str(args.annotations.resolve())}
    windows = None
    if args.windows_stride_s is not None:
        windows = {"stride_s": args.windows_stride_s, "overlap": 0.5 if args.overlap is None else args.overlap}
        windows["fitted"] = args.fitted
    elif args.overlap is not None or args.fitted:
        raise Misuse("--overlap and --fitted belong to sliding windows; give --windows-stride-s too")
    return {
        "source": {"name": name, "args": paths},
        "tscale": args.tscale,
        "windows": windows,
        "train_subset": args.subsets[0],
        "test_subset": args.subsets[-1],
        "missing": args.missing,
    }


Plan = tuple[Annotations, Contents, list[Planned], Make]  # with the videos that stay, what write_packed takes


def plan_raw(args: argparse.Namespace, data: DataSpec, truth: Annotations) -> Plan:
    """To pack raw features. Raises Misuse, DataError."""
    if args.pattern is None or args.layout is None:
        raise Misuse("--features needs --pattern, the name of a video's features, and --layout, their axes")
    source = FeatureSource(args.features, args.pattern, args.layout)
    missing = tuple(source.missing(video.id for name in args.subsets for video in truth.subset(name)))
    truth = with_features(truth, args.subsets, frozenset(missing), args.missing)
    maker = RowMaker(source, data.tscale, data.windows)
    plan, channels = plan_rows([video for name in args.subsets for video in truth.subset(name)], maker)
    contents = Contents(
        tscale=data.tscale,
        channels=channels,
        windows=window_rule(data.windows),
        sources={"raw": source.description},
        missing=missing,
    )
    return truth, contents, plan, maker


def plan_synthetic(args: argparse.Namespace, data: DataSpec, truth: Annotations) -> Plan:
    """To pack features made up over the annotations; this process makes them. Raises ValueError."""
    args.workers = 0  # each of the others would be sent the ground truth of all videos with every video
    truth = with_features(truth, args.subsets, (), args.missing)
    return truth, *plan_over(data.model_copy(update={"channels": args.synthetic}), truth, args.subsets)


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    args.subsets = list(dict.fromkeys(args.subsets))
    tree = spec_tree(args)
    data = parse_spec({"data": tree}, "arguments").data
    planned = (plan_raw if args.synthetic is None else plan_synthetic)(args, data, read_annotations(args.annotations))
    truth, contents, plan, make = planned
    rows = sum(len(item.span_s) for item in plan)
    columns = (TextColumn("packing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("packing", total=rows)
        reused = write_packed(args.out, contents, plan, make, args.workers, lambda n: bar.advance(task, n))
    if args.verify:
        open_packed(args.out).verify()
    return {
        "path": str(args.out),
        "spec": str(write_spec(args.out / "spec.yaml", tree | {"channels": contents.channels})),
        "videos": {name: len(truth.subset(name)) for name in args.subsets},
        "rows": rows,
        "tscale": data.tscale,
        "channels": contents.channels,
        "bytes": rows * data.tscale * contents.channels * 2,
        "reused_videos": reused,
        "verified": args.verify,
        "missing": len(contents.missing),
        "flaws": truth.flaws,
        "policies": truth.policies,
    }


def write_spec(path: Path, data: dict[str, Any]) -> Path:
    """Write a spec of what differs from the defaults, for others to inherit with `_base_`."""
    default = DataSpec().model_dump(mode="json")
    changed = {key: value for key, value in data.items() if value != default[key]}
    changed |= {key: data[key] for key in ("tscale", "channels")}  # stated: they are properties of the pack
    with replacing(path) as file:
        file.write("# Written by experiments.prepare; inherit from it with _base_.\n")
        file.write(yaml.safe_dump({"data": changed}, sort_keys=False, allow_unicode=True))
    return path


def show(result: dict[str, Any]) -> None:
    flaws = [(kind, count) for kind, count in result["flaws"].items() if count]
    for kind, count in flaws:
        console.print(
            f"{count:>8} {kind.replace('_', ' ')}: {result['policies'][kind]}", highlight=False, soft_wrap=True
        )
    videos = ", ".join(f"{count} {name}" for name, count in result["videos"].items())
    console.print(
        f"{result['rows']} rows [{result['tscale']}, {result['channels']}] of {videos} videos, "
        f"{result['bytes'] / 2**20:.1f} MiB; {result['reused_videos']} videos were packed before",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    print(result["path"])
    print(result["spec"])


def run(argv: Sequence[str] | None = None) -> int:
    return main(arguments(), prepare, show, argv)


if __name__ == "__main__":
    sys.exit(run())
