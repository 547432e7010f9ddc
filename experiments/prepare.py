"""Check a set of your own, choose how it is laid out, pack its features, and write a spec that trains as it stands."""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from etad.data.annotations import Annotations, DataError, Video
from etad.data.classifier import check_labels, read_classifier
from etad.data.features import name_below
from etad.data.layout import Layout, lay_out
from etad.data.packed import open_packed
from etad.data.packing import write_packed
from etad.data.sources import with_features
from etad.data.survey import survey
from etad.record import write_json
from etad.spec import DataSpec, parse_spec, read_spec
from experiments.command import Misuse, console, main, parser
from experiments.origins import Plan, feature_source, plan_raw, plan_synthetic, read_truth, video_pattern
from experiments.surveyed import show_survey
from experiments.written_spec import encoder, sections, write_spec

EXAMPLE = "python -m experiments.prepare --annotations truth.csv --features feats --column-s 0.5 --out prepared/mine"


def arguments() -> argparse.ArgumentParser:
    made = parser("experiments.prepare", f"{__doc__} Killed, the same command goes on.", EXAMPLE)
    origin = made.add_mutually_exclusive_group(required=True)
    origin.add_argument("--features", type=Path, help="a folder of .npy files, or one HDF5 file")
    origin.add_argument("--videos", type=Path, help="a folder of video files, to train on end to end")
    origin.add_argument(
        "--synthetic", type=int, metavar="C", help="make features of C channels up over the annotations"
    )
    made.add_argument(
        "--annotations", type=Path, required=True, help="ground truth, ActivityNet layout or CSV id,start,end,label"
    )
    made.add_argument("--classifier", type=Path, help="video-level classes; without, the detector learns them itself")
    made.add_argument("--encoder", type=Path, help="weights of R(2+1)D-34; without, videos train a small one afresh")
    made.add_argument("--pattern", help="file or HDF5 dataset of a video, as in 'v_{id}.npy' (default: found out)")
    made.add_argument(
        "--layout", choices=("TC", "CT"), help="arrays are [snippets, channels] or turned (default: found out)"
    )
    made.add_argument("--column-s", type=float, help="seconds between two feature columns: durations for a CSV")
    made.add_argument("--out", type=Path, help="folder of the pack (default: prepared/, and the annotations' name)")
    made.add_argument("--name", help="names the runs, and the data beside every figure (default: the folder's name)")
    made.add_argument("--subsets", nargs="+", default=["training", "validation"], help="first trained, last tested on")
    made.add_argument("--tscale", type=int, help="columns a row (default: chosen)")
    made.add_argument("--whole", action="store_true", help="whole videos, resized, and no windows (default: chosen)")
    made.add_argument("--windows-stride-s", type=float, help="sliding windows; seconds between two feature columns")
    made.add_argument("--fitted", action="store_true", help="each video its own stride, its duration over its columns")
    made.add_argument("--overlap", type=float, help="share of a window in common with the next (default: 0.5)")
    made.add_argument("--missing", choices=("error", "skip"), default="error", help="videos without features")
    made.add_argument(
        "--workers", type=int, default=2, help="processes that read features (default: %(default)s; 0: this one)"
    )
    made.add_argument("--verify", action="store_true", help="read the finished pack and compare all checksums")
    return made


def asked(args: argparse.Namespace) -> DataSpec:
    """What the options say of the layout, the defaults where they do not. Raises Misuse, SpecError."""
    if args.windows_stride_s is None and (args.overlap is not None or args.fitted):
        raise Misuse("--overlap and --fitted belong to sliding windows; give --windows-stride-s too")
    if args.encoder and not args.videos:
        raise Misuse("--encoder belongs to --videos")
    if args.windows_stride_s is not None and args.whole:
        raise Misuse("--whole and --windows-stride-s exclude each other")
    data: dict[str, Any] = {"missing": args.missing, "train_subset": args.subsets[0], "test_subset": args.subsets[-1]}
    if args.tscale is not None:
        data["tscale"] = args.tscale
    if args.windows_stride_s is not None:
        data["windows"] = {"stride_s": args.windows_stride_s, "fitted": args.fitted}
        data["windows"] |= {} if args.overlap is None else {"overlap": args.overlap}
    return parse_spec({"data": data}, "arguments").data


def pack(args: argparse.Namespace, plan: Plan) -> dict[str, Any]:
    """Pack what is planned, and say what came of it. Raises DataError."""
    contents, videos, make = plan
    rows = sum(len(item.span_s) for item in videos)
    columns = (TextColumn("packing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("packing", total=rows)
        workers = 0 if args.features is None else args.workers  # made-up features: sending the truth costs more
        reused = write_packed(args.out, contents, videos, make, workers, lambda n: bar.advance(task, n))
    if args.verify:
        open_packed(args.out).verify()
    return {
        "rows": rows,
        "channels": contents.channels,
        "bytes": rows * contents.tscale * contents.channels * 2,
        "reused_videos": reused,
        "verified": args.verify,
    }


def draw(truth: Annotations, videos: Sequence[Video], folder: Path) -> list[str]:
    """The picture of the set; returns its files."""
    import pandas as pd  # these are slow to import, and --help must not wait

    from reports.survey import draw_survey

    counted = pd.DataFrame(
        [(v.duration_s, len(v.labels), v.subset) for v in videos], columns=["duration_s", "count", "subset"]
    )
    rows = [
        (end - start, (end - start) / v.duration_s, truth.classes[label], v.subset)
        for v in videos
        for (start, end), label in zip(v.segments_s.tolist(), v.labels.tolist(), strict=True)
    ]
    plot = draw_survey(counted, pd.DataFrame(rows, columns=["length_s", "share", "label", "subset"]), folder)
    return [str(folder / f"{plot.name}.{kind}") for kind in plot.kinds]


def source_of(args: argparse.Namespace, annotations: Path) -> dict[str, Any]:
    """The spec's data source; its paths are absolute, so that the spec can be inherited anywhere."""
    given = {"annotations": str(annotations.resolve())}
    if args.classifier:
        given["classifier"] = str(args.classifier.resolve())
    if args.features:
        return {"name": "packed", "args": {"features": str(args.out.resolve()), **given, "mark": args.name}}
    if args.videos:
        place = {"videos": str(args.videos.resolve()), "pattern": args.pattern}
        return {"name": "videos", "args": {**place, **given, "mark": args.name}}
    return {"name": "synthetic_over", "args": {"pack": str(args.out.resolve()), **given}}


@dataclass(frozen=True)
class Made:
    """What was made of a set: the videos that stay, their columns, the layout, what else the spec says of the data."""

    truth: Annotations
    data: dict[str, Any]
    layout: Layout | None
    columns: dict[str, int] | None
    result: dict[str, Any]
    encoder: tuple[dict[str, Any], str] | None = None  # and why


def videos_of(truth: Annotations, subsets: Sequence[str]) -> list[Video]:
    return [video for name in subsets for video in truth.subset(name)]


def from_features(args: argparse.Namespace, data: DataSpec, truth: Annotations) -> Made:
    ids = [video.id for video in videos_of(truth, args.subsets)]
    source = feature_source(args, ids)
    missing = source.missing(ids)
    truth = with_features(truth, args.subsets, frozenset(missing), args.missing)
    videos = videos_of(truth, args.subsets)
    columns = {video.id: source.shape(video.id)[0] for video in videos}
    layout = lay_out(
        videos, columns, train_subset=data.train_subset, tscale=args.tscale, whole=args.whole, windows=data.windows
    )
    data = data.model_copy(update={"tscale": layout.tscale, "windows": layout.windows})
    result = pack(args, plan_raw(source, data, truth, args.subsets, missing))
    return Made(truth, {"channels": result["channels"]}, layout, columns, {**result, "missing": len(missing)})


def from_videos(args: argparse.Namespace, data: DataSpec, truth: Annotations) -> Made:
    from etad.data.videos import inspect_all  # imports torch

    ids = [video.id for video in videos_of(truth, args.subsets)]
    args.pattern = video_pattern(args, ids)
    paths = {id: args.videos / name_below(args.videos, args.pattern, id) for id in ids}
    missing = [id for id, path in paths.items() if not path.is_file()]
    truth = with_features(truth, args.subsets, frozenset(missing), args.missing)
    _, broken = inspect_all(truth, args.subsets, paths)
    if broken:
        raise DataError(f"{len(broken)} videos cannot be used: {'; '.join([*broken.values()][:5])}")
    videos = videos_of(truth, args.subsets)
    settled: dict[str, Any] = {"tscale": args.tscale, "whole": args.whole, "windows": data.windows}
    layout = lay_out(videos, None, train_subset=data.train_subset, **settled)
    data_of, section, why = encoder(args.encoder)
    return Made(truth, data_of, layout, None, {"rows": len(videos), "missing": len(missing)}, (section, why))


def from_nothing(args: argparse.Namespace, data: DataSpec, truth: Annotations) -> Made:
    result = pack(args, plan_synthetic(args.synthetic, data, truth, args.subsets))
    return Made(truth, {"channels": args.synthetic}, None, None, {**result, "missing": 0})


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    args.subsets = list(dict.fromkeys(args.subsets))
    args.out = args.out or Path("prepared") / args.annotations.stem
    args.name = args.name or re.sub(r"[^A-Za-z0-9._-]+", "-", args.out.resolve().name).strip("-._") or "mine"
    data = asked(args)
    annotations, truth = read_truth(args)
    truth = with_features(truth, args.subsets, (), "error")  # each subset has videos
    if args.classifier:
        check_labels(read_classifier(args.classifier, truth.videos), truth.classes)
    made = (from_features if args.features else from_videos if args.videos else from_nothing)(args, data, truth)
    truth, videos = made.truth, videos_of(made.truth, args.subsets)
    found, layout = survey(truth, args.subsets, made.columns), made.layout
    if layout is not None:
        data = data.model_copy(update={"tscale": layout.tscale, "windows": layout.windows})
    tree: dict[str, Any] = {"name": args.name} if layout else {}
    tree["data"] = data.model_dump(mode="json") | made.data | {"source": source_of(args, annotations)}
    more, reasons = (
        sections(layout, classes=len(truth.classes), classifier=bool(args.classifier)) if layout else ({}, {})
    )
    if made.encoder:
        more["encoder"], reasons["encoder"] = made.encoder
    spec = write_spec(args.out / "spec.yaml", tree | more, reasons)
    read_spec(spec)  # what was written can be read
    write_json(args.out / "survey.json", asdict(found))
    return {
        "path": str(args.out),
        "spec": str(spec),
        "videos": {name: len(truth.subset(name)) for name in args.subsets},
        "tscale": data.tscale,
        "windows": data.windows and data.windows.model_dump(mode="json"),
        **made.result,
        "reach": layout and layout.reach,
        "reasons": reasons,
        "survey": asdict(found),
        "picture": draw(truth, videos, args.out),
        "flaws": truth.flaws,
        "policies": truth.policies,
    }


def show(result: dict[str, Any]) -> None:
    show_survey(console, result["survey"])
    for kind, count in result["flaws"].items():
        if count:
            text = f"{count:>8} {kind.replace('_', ' ')}: {result['policies'][kind]}"
            console.print(text, highlight=False, soft_wrap=True)
    for section, reason in result["reasons"].items():
        console.print(f"{section}: {reason}", highlight=False, markup=False, soft_wrap=True)
    videos = ", ".join(f"{count} {name}" for name, count in result["videos"].items())
    size = f" [{result['tscale']}, {result['channels']}]" if "channels" in result else ""
    text = f"{result['rows']} rows{size} of {videos} videos"
    if "bytes" in result:
        text += f", {result['bytes'] / 2**20:.1f} MiB; {result['reused_videos']} videos were packed before"
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    for line in (result["path"], result["picture"][-1], result["spec"]):
        print(line)


def run(argv: Sequence[str] | None = None) -> int:
    return main(arguments(), prepare, show, argv)


if __name__ == "__main__":
    sys.exit(run())
