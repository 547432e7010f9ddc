"""Where `experiments.prepare` takes a set from: its ground truth, and its features, video files or neither."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from etad.data.annotations import Annotations, DataError, read_annotations
from etad.data.features import FeatureSource, name_below
from etad.data.folders import find_layout, find_pattern
from etad.data.packed import Contents
from etad.data.packing import Make, Planned
from etad.data.sources import plan_rows, window_rule
from etad.data.tabular import TableVideo, layout, read_table
from etad.data.video import inspect
from etad.data.windows import RowMaker
from etad.record import write_json
from etad.spec import DataSpec

Plan = tuple[Contents, list[Planned], Make]  # what write_packed takes
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".flv")


def feature_source(args: argparse.Namespace, ids: Sequence[str]) -> FeatureSource:
    """The features of these videos; their names and axes are found out where they are not said. Raises DataError."""
    pattern = args.pattern or find_pattern(args.features, ids)
    source = FeatureSource(args.features, pattern, args.layout or "TC")
    if args.layout:
        return source
    missing = set(source.missing(ids))
    return replace(source, layout=find_layout(args.features, pattern, [id for id in ids if id not in missing]))


def video_pattern(args: argparse.Namespace, ids: Sequence[str]) -> str:
    """How the video files are named. Raises DataError."""
    if not args.videos.is_dir():
        raise DataError(f"{args.videos}: no such folder of videos")
    return args.pattern or find_pattern(args.videos, ids, VIDEO_SUFFIXES)


def read_truth(args: argparse.Namespace) -> tuple[Path, Annotations]:
    """The annotations and their file; a table is turned into the ActivityNet layout, beside the pack. Raises DataError."""
    if args.annotations.suffix.lower() != ".csv":
        return args.annotations, read_annotations(args.annotations)
    table = read_table(args.annotations)
    tree = layout(table, _durations(args, table), train=args.subsets[0], test=args.subsets[-1])
    path: Path = args.out / "annotations.json"
    write_json(path, tree)
    return path, read_annotations(path)


def _durations(args: argparse.Namespace, table: Mapping[str, TableVideo]) -> dict[str, float]:
    """Durations in seconds that a table lacks, from the features' columns or the video files; some may stay unknown."""
    unknown = [id for id, video in table.items() if video.duration_s is None]
    if unknown and args.videos:
        pattern = video_pattern(args, [*table])
        paths = {id: args.videos / name_below(args.videos, pattern, id) for id in unknown}
        shown = {id: inspect(path, 0.0) for id, path in paths.items() if path.is_file()}
        found = {id: video.last_s + 1 / video.frame_rate for id, video in shown.items()}
    elif unknown and args.features and (column_s := args.column_s or args.windows_stride_s):
        source = feature_source(args, [*table])
        missing = set(source.missing(unknown))
        found = {id: source.shape(id)[0] * column_s for id in unknown if id not in missing}
    else:
        return {}
    if args.missing == "skip":  # a video without its file is left out later, whatever it would last
        found |= {id: max([1.0, *(end for _, end, _ in table[id].instances)]) for id in unknown if id not in found}
    return found


def plan_raw(
    source: FeatureSource, data: DataSpec, truth: Annotations, subsets: Sequence[str], missing: list[str]
) -> Plan:
    """To pack raw features. Raises DataError."""
    maker = RowMaker(source, data.tscale, data.windows)
    plan, channels = plan_rows([video for name in subsets for video in truth.subset(name)], maker)
    contents = Contents(
        tscale=data.tscale,
        channels=channels,
        windows=window_rule(data.windows),
        sources={"raw": source.description},
        missing=tuple(missing),
    )
    return contents, plan, maker


def plan_synthetic(channels: int, data: DataSpec, truth: Annotations, subsets: Sequence[str]) -> Plan:
    """To pack features made up over the annotations. Raises ValueError."""
    from etad.data.synthetic import plan_over  # slow to import, and --help must not wait

    return plan_over(data.model_copy(update={"channels": channels}), truth, subsets)
