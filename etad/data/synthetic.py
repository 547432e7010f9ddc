"""The synthetic set: ground truth and features made up, or features made up over real ground truth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from etad.data.annotations import Annotations, DataError, Video, read_annotations
from etad.data.classifier import check_labels, read_classifier
from etad.data.packed import Contents, open_packed
from etad.data.packing import Planned
from etad.data.samples import Corpus, Samples, VideoScores
from etad.data.sources import check_pack, window_rule
from etad.data.synthetic_bounds import ceiling_detections, floor_detections, make_scores
from etad.data.synthetic_features import (
    SYNTHETIC_1,
    Patterns,
    Scene,
    SyntheticModel,
    Variant,
    make_patterns,
)
from etad.data.synthetic_truth import draw_annotations, read_statistics
from etad.data.windows import make_rows, row_spans
from etad.registry import DATASETS
from etad.spec import DataSpec

Floats = NDArray[np.float64]
NAME = "synthetic-1"


def mark(variant: Variant, noise: float | None = None, statistics: str = "anet13") -> str:
    """Evidence mark; a set of another difficulty is not synthetic-1, one of other statistics is named after them."""
    name = NAME if noise is None else f"synthetic, noise {noise:g}"
    name = name if statistics == "anet13" else f"{name}/{statistics}"
    return name if variant == "full" else f"{name}/{variant}"


@dataclass(frozen=True)
class RowMaker:
    """The made-up rows of videos: whole, or of each window where the spec has windows."""

    spec: DataSpec
    videos: Mapping[str, Video]
    patterns: Patterns
    model: SyntheticModel
    seed: int
    variant: Variant

    def columns(self, id: str) -> int:
        """Columns of a video before it is cut into windows: T itself, or one each stride."""
        windows = self.spec.windows
        return max(1, round(self.videos[id].duration_s / windows.stride_s)) if windows else self.spec.tscale

    def span_s(self, id: str) -> Floats:
        """Seconds [W, 2] that the rows cover."""
        return row_spans(self.columns(id), self.videos[id].duration_s, self.spec.tscale, self.spec.windows)

    def __call__(self, id: str) -> NDArray[np.float16]:
        """Rows [W, T, C]."""
        columns, windows = self.columns(id), self.spec.windows
        width = windows.stride_s if windows and not windows.fitted else self.videos[id].duration_s / columns
        whole = self.sequence(id, columns, width)
        return make_rows(whole, self.spec.tscale, windows) if windows else whole[None]

    def sequence(self, id: str, columns: int, width_s: float) -> NDArray[np.float16]:
        """Features [columns, C] of a video from its start on, a column every width_s."""
        times = (np.arange(columns, dtype=np.float64) + 0.5) * width_s
        return Scene(self.model, self.videos[id], self.seed, self.variant).features(self.patterns, times, width_s)

    def samples(self, subset: str) -> Samples:
        ids = [v.id for v in self.videos.values() if v.subset == subset]
        spans = [self.span_s(id) for id in ids]
        return Samples(
            tuple(id for id, span in zip(ids, spans, strict=True) for _ in span),
            np.concatenate(spans),
            np.concatenate([self(id) for id in ids]),
        )


def make_rows_over(
    spec: DataSpec,
    annotations: Annotations,
    *,
    model: SyntheticModel = SYNTHETIC_1,
    seed: int = 0,
    variant: Variant = "full",
) -> RowMaker:
    """Made-up rows for every video of these annotations. Raises ValueError."""
    patterns = make_patterns(model, seed, len(annotations.classes), spec.channels, variant)
    return RowMaker(spec, annotations.videos, patterns, model, seed, variant)


def plan_over(
    spec: DataSpec, annotations: Annotations, subsets: Sequence[str], *, seed: int = 0, variant: Variant = "full"
) -> tuple[Contents, list[Planned], RowMaker]:
    """What `write_packed` takes to pack made-up rows of these subsets, for `synthetic_over` to read."""
    make = make_rows_over(spec, annotations, seed=seed, variant=variant)
    contents = Contents(
        tscale=spec.tscale,
        channels=spec.channels,
        windows=window_rule(spec.windows),
        resize="none: made up at T columns",
        sources=_pack_sources(make, annotations),
    )
    return contents, [Planned(v.id, make.span_s(v.id)) for name in subsets for v in annotations.subset(name)], make


def _pack_sources(make: RowMaker, annotations: Annotations) -> dict[str, str]:
    made = f"{mark(make.variant)}, seed {make.seed}, numpy {np.__version__}"
    return {
        "features": f"{made}, over annotations sha256:{annotations.sha256}",
        "model": make.model.model_dump_json(),
    }


def _read_pack(path: str, make: RowMaker, annotations: Annotations) -> Callable[[str], Samples]:
    """A subset's rows from a pack. Raises DataError where it was not planned as this very pack."""
    pack = open_packed(path)
    check_pack(pack, make.spec)
    lost = annotations.videos.keys() - pack.rows.keys()
    if lost or pack.index.sources != _pack_sources(make, annotations):
        what = f"lacks {len(lost)} videos" if lost else "was not made up over these annotations, seed and variant"
        raise DataError(f"{path}: this pack {what}; prepare it again (experiments.prepare --synthetic)")
    return lambda subset: pack.samples(video.id for video in annotations.subset(subset))


def _corpus(
    annotations: Annotations,
    make: RowMaker,
    *,
    name: str,
    sources: Mapping[str, str],
    statistics: str,
    classifier: VideoScores | None = None,
    rows: Callable[[str], Samples] | None = None,
) -> Corpus:
    rows = rows or make.samples
    spec, model, seed, classes = make.spec, make.model, make.seed, annotations.classes
    test = annotations.subset(spec.test_subset)
    scores = classifier or {v.id: make_scores(model, v, classes, seed) for v in test}
    made = f"{name}, seed {seed}, numpy {np.__version__}"
    return Corpus(
        mark=name,
        annotations=annotations,
        subsets={s: rows(s) for s in (spec.train_subset, spec.test_subset)},
        classifier=scores,
        sources={**sources, "features": made, "model": model.model_dump_json()},
        bounds={
            "floor": floor_detections(test, classes, scores, np.array(read_statistics(statistics).windows)),
            "ceiling": ceiling_detections(test, classes, scores, model, seed),
        },
    )


def synthetic(
    spec: DataSpec,
    *,
    train_videos: int = 400,
    test_videos: int = 200,
    classes: int = 25,
    seed: int = 0,
    variant: Variant = "full",
    statistics: str = "anet13",
    noise: float | None = None,
) -> Corpus:
    """Videos drawn from a table of statistics, with made-up features and classifier. Raises ValueError.

    `noise` takes another difficulty than the frozen one, for calibrating: the set is not synthetic-1 then.
    """
    if min(train_videos, test_videos, classes - 1) < 1 or seed < 0:
        raise ValueError(
            "synthetic needs train_videos and test_videos of 1 or more, 2 or more classes, a seed of 0 or more"
        )
    if noise is not None and noise < 0:
        raise ValueError(f"synthetic needs a noise of 0 or more, not {noise}")
    table = read_statistics(statistics)
    videos = {spec.train_subset: train_videos, spec.test_subset: test_videos}
    annotations = draw_annotations(table, videos, classes, seed)
    model = SYNTHETIC_1 if noise is None else SYNTHETIC_1.model_copy(update={"noise": noise})
    make = make_rows_over(spec, annotations, model=model, seed=seed, variant=variant)
    sources = {"ground truth": f"drawn: {table.source}"}
    return _corpus(annotations, make, name=mark(variant, noise, statistics), sources=sources, statistics=statistics)


def synthetic_over(
    spec: DataSpec,
    *,
    annotations: str,
    classifier: str | None = None,
    pack: str | None = None,
    seed: int = 0,
    variant: Variant = "full",
    statistics: str = "anet13",
    train_videos: int | None = None,
    test_videos: int | None = None,
) -> Corpus:
    """A real annotation file with made-up features; the classifier is made up too unless its file is given.

    `pack`: the folder where `experiments.prepare --synthetic` put the features; without it they are made in memory.
    `statistics` names the table whose fixed windows are the floor. `train_videos` and `test_videos` take that many,
    evenly spread over the file; null: all. Raises DataError.
    """
    path = Path(annotations)
    truth = read_annotations(path)
    kept: dict[str, Video] = {}
    for subset, count in ((spec.train_subset, train_videos), (spec.test_subset, test_videos)):
        found = truth.subset(subset)
        if not found:
            raise DataError(
                f"{path}: no videos in the subset {subset!r}; name another as data.train_subset or data.test_subset"
            )
        chosen = (
            range(len(found)) if count is None else np.unique(np.linspace(0, len(found) - 1, count).round().astype(int))
        )
        kept |= {found[i].id: found[i] for i in chosen}
    sources = {"ground truth": f"{path.name}, sha256 {truth.sha256}"}
    scores = None
    if classifier is not None:
        scores = read_classifier(classifier, kept)
        check_labels(scores, truth.classes)
        sources["classifier"] = Path(classifier).name
    truth = replace(truth, videos=kept)
    make, name = make_rows_over(spec, truth, seed=seed, variant=variant), f"{mark(variant)} over {path.name}"
    rows = _read_pack(pack, make, truth) if pack is not None else None
    return _corpus(truth, make, name=name, sources=sources, statistics=statistics, classifier=scores, rows=rows)


DATASETS.register_module(name="synthetic", module=synthetic)
DATASETS.register_module(name="synthetic_over", module=synthetic_over)
