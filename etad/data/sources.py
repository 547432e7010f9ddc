"""The data sets that a spec can name: features packed by `experiments.prepare`, and raw ones resized in memory."""

import hashlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from etad.data.annotations import Annotations, DataError, Video, read_annotations
from etad.data.classifier import check_labels, read_classifier
from etad.data.features import FeatureSource
from etad.data.packed import PackedFeatures, WindowRule, open_packed
from etad.data.packing import Planned
from etad.data.samples import Corpus, Samples
from etad.data.windows import RowMaker, row_spans
from etad.registry import DATASETS
from etad.spec import DataSpec, WindowSpec

LEFT_OUT = "left out of training, detection and evaluation, as data.missing=skip asks"


def packed(
    spec: DataSpec, *, features: str, annotations: str, classifier: str | None = None, mark: str = "custom"
) -> Corpus:
    """Features that `experiments.prepare` packed; paths are relative to the current directory. Raises DataError."""
    pack, truth = open_packed(features), read_annotations(annotations)
    check_pack(pack, spec)
    subsets = tuple(dict.fromkeys((spec.train_subset, spec.test_subset)))
    truth = with_features(truth, subsets, truth.videos.keys() - pack.rows.keys(), spec.missing)
    rows = {name: pack.samples(video.id for video in truth.subset(name)) for name in subsets}
    if spec.windows is None:
        for name in subsets:
            _check_durations(pack, truth.subset(name), rows[name])
    origin = {"features": f"{pack.path.name} sha256:{pack.sha256}"}
    origin |= {f"features, {what}": text for what, text in pack.index.sources.items()}
    return make_corpus(truth, rows, origin, annotations, classifier, mark)


def raw_features(
    spec: DataSpec,
    *,
    features: str,
    pattern: str,
    layout: str,
    annotations: str,
    classifier: str | None = None,
    mark: str = "custom",
) -> Corpus:
    """Raw features, resized or cut in memory at each start: for small sets; others are packed once. Raises DataError."""
    source, truth = FeatureSource(Path(features), pattern, layout), read_annotations(annotations)
    maker = RowMaker(source, spec.tscale, spec.windows)
    subsets = tuple(dict.fromkeys((spec.train_subset, spec.test_subset)))
    missing = set(source.missing(video.id for name in subsets for video in truth.subset(name)))
    truth = with_features(truth, subsets, missing, spec.missing)
    rows = {}
    for name in subsets:
        planned, channels = plan_rows(truth.subset(name), maker)
        if channels != spec.channels:
            raise DataError(f"{features}: {channels} channels, the spec's data.channels is {spec.channels}; change it")
        ids = tuple(item.id for item in planned for _ in item.span_s)
        made = np.concatenate([maker(item.id) for item in planned])
        rows[name] = Samples(ids, np.concatenate([item.span_s for item in planned]), made)
    return make_corpus(truth, rows, {"features": source.description}, annotations, classifier, mark)


def plan_rows(videos: Sequence[Video], maker: RowMaker) -> tuple[list[Planned], int]:
    """The rows of each video in seconds, and the one width C of all features, from their headers. Raises DataError."""
    source, planned, filled = maker.source, [], []
    widths: dict[int, str] = {}
    for video in videos:
        t, width = source.shape(video.id)
        widths.setdefault(width, video.id)
        span_s = row_spans(t, video.duration_s, maker.tscale, maker.windows)
        planned.append(Planned(video.id, span_s, f"{t} {source.state(video.id)}"))
        filled.append(t / video.duration_s)
    if len(widths) != 1:
        found = ", ".join(f"{width} in {source.name(id)}" for width, id in list(widths.items())[:4])
        raise DataError(
            f"{source.path}: features of different width: {found}; mend the odd ones, or declare the layout"
        )
    if maker.windows is not None:
        stride_s, fits_s = maker.windows.stride_s, 1 / float(np.median(filled))
        if not 0.5 < stride_s / fits_s < 2:
            raise DataError(
                f"{source.path}: a window stride of {stride_s} s does not fit the videos' durations: the features have "
                f"a column every {fits_s:.3g} s (median); mend windows.stride_s"
            )
    return planned, next(iter(widths))


def with_features(
    annotations: Annotations, subsets: Sequence[str], missing: Container[str], policy: str, what: str = "features"
) -> Annotations:
    """The annotations less the videos of these subsets that miss their features; an error unless the policy is to skip."""
    videos = [video for name in subsets for video in annotations.subset(name)]
    lost = {video.id: None for video in videos if video.id in missing}
    if lost and policy != "skip":
        first = ", ".join([*lost][:5]) + (" ..." if len(lost) > 5 else "")
        raise DataError(
            f"{len(lost)} of {len(videos)} videos have no {what}: {first}; "
            "add them, or leave them out on purpose (data.missing=skip; prepare: --missing skip)"
        )
    return less(annotations, subsets, [*lost], f"without_{what}", LEFT_OUT)


def less(annotations: Annotations, subsets: Sequence[str], lost: Sequence[str], flaw: str, policy: str) -> Annotations:
    """The annotations less these videos, counted as a flaw. Raises DataError where a subset has no video left."""
    kept = {id: video for id, video in annotations.videos.items() if id not in set(lost)}
    left = {video.subset for video in kept.values()}
    if absent := [name for name in subsets if name not in left]:
        known = ", ".join(sorted({video.subset for video in annotations.videos.values()}))
        raise DataError(f"no video of the subset {', '.join(absent)} has all that it needs; annotated: {known}")
    return replace(
        annotations,
        videos=kept,
        flaws={**annotations.flaws, flaw: len(lost)},
        policies={**annotations.policies, flaw: policy},
    )


def window_rule(windows: WindowSpec | None) -> WindowRule | None:
    return None if windows is None else WindowRule(**windows.model_dump(exclude={"min_inside"}))


def check_pack(pack: PackedFeatures, spec: DataSpec) -> None:
    """Raises DataError where a pack's rows are not those that the spec asks for."""
    asked = {"tscale": spec.tscale, "channels": spec.channels, "windows": window_rule(spec.windows)}
    wrong = [
        f"{knob} is {getattr(pack.index, knob) or 'null'}, the spec's data.{knob} {value or 'null'}"
        for knob, value in asked.items()
        if getattr(pack.index, knob) != value
    ]
    if wrong:
        raise DataError(f"{pack.path}: this pack's {'; its '.join(wrong)}; prepare again, or change the spec")


def _check_durations(pack: PackedFeatures, videos: Sequence[Video], rows: Samples) -> None:
    off = [v.id for v, span_s in zip(videos, rows.span_s, strict=True) if abs(span_s[1] - v.duration_s) > 1e-6]
    if off:
        raise DataError(
            f"{pack.path}: packed with other durations of {len(off)} videos ({', '.join(off[:5])}); "
            "prepare again with these annotations"
        )


def make_corpus(
    truth: Annotations,
    rows: Mapping[str, Samples],
    origin: dict[str, str],
    annotations: str,
    classifier: str | None,
    mark: str,
) -> Corpus:
    """A corpus of files: their classifier read and checked, their hashes noted. Raises DataError."""
    sources = {**origin, "annotations": f"{Path(annotations).name} sha256:{truth.sha256}"}
    scores = None
    if classifier is not None:
        scores = read_classifier(classifier, truth.videos)
        check_labels(scores, truth.classes)
        sources["classifier"] = (
            f"{Path(classifier).name} sha256:{hashlib.sha256(Path(classifier).read_bytes()).hexdigest()}"
        )
    return Corpus(mark, truth, rows, scores, sources)


DATASETS.register_module(name="packed", module=packed)
DATASETS.register_module(name="features", module=raw_features)
