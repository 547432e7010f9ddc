"""The synthetic set: ground truth and features made up, or features made up over real ground truth."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from etad.data.annotations import Annotations, DataError, Video, read_annotations
from etad.data.classifier import check_labels, read_classifier
from etad.data.packed import Contents, WindowRule
from etad.data.packing import Planned, write_packed
from etad.data.samples import Corpus, Samples, VideoScores
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


def mark(variant: Variant, noise: float | None = None) -> str:
    """Evidence mark; a set of another difficulty is not synthetic-1."""
    name = NAME if noise is None else f"synthetic, noise {noise:g}"
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
        video, columns, windows = self.videos[id], self.columns(id), self.spec.windows
        width = windows.stride_s if windows else video.duration_s / columns
        times = (np.arange(columns, dtype=np.float64) + 0.5) * width
        whole = Scene(self.model, video, self.seed, self.variant).features(self.patterns, times, width)
        return make_rows(whole, self.spec.tscale, windows) if windows else whole[None]

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


def pack_over(
    path: str | Path,
    spec: DataSpec,
    annotations: Annotations,
    *,
    seed: int = 0,
    variant: Variant = "full",
    progress: Callable[[int], None] = lambda rows: None,
) -> int:
    """Pack made-up rows for the videos of both subsets of the spec, to be read as `packed`; see `write_packed`."""
    make = make_rows_over(spec, annotations, seed=seed, variant=variant)
    windows = WindowRule(stride_s=spec.windows.stride_s, overlap=spec.windows.overlap) if spec.windows else None
    made = f"{mark(variant)}, seed {seed}, numpy {np.__version__}, over annotations sha256:{annotations.sha256}"
    sources = {"features": made, "model": make.model.model_dump_json()}
    contents = Contents(
        tscale=spec.tscale,
        channels=spec.channels,
        windows=windows,
        resize="none: made up at T columns",
        sources=sources,
    )
    subsets = dict.fromkeys((spec.train_subset, spec.test_subset))
    plan = [Planned(v.id, make.span_s(v.id)) for name in subsets for v in annotations.subset(name)]
    return write_packed(path, contents, plan, make, progress=progress)


def _corpus(
    annotations: Annotations,
    make: RowMaker,
    *,
    name: str,
    sources: Mapping[str, str],
    statistics: str,
    classifier: VideoScores | None = None,
) -> Corpus:
    spec, model, seed, classes = make.spec, make.model, make.seed, annotations.classes
    test = annotations.subset(spec.test_subset)
    scores = classifier or {v.id: make_scores(model, v, classes, seed) for v in test}
    made = f"{name}, seed {seed}, numpy {np.__version__}"
    return Corpus(
        mark=name,
        annotations=annotations,
        subsets={s: make.samples(s) for s in (spec.train_subset, spec.test_subset)},
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
    return _corpus(annotations, make, name=mark(variant, noise), sources=sources, statistics=statistics)


def synthetic_over(
    spec: DataSpec,
    *,
    annotations: str,
    classifier: str | None = None,
    seed: int = 0,
    variant: Variant = "full",
    train_videos: int | None = None,
    test_videos: int | None = None,
) -> Corpus:
    """A real annotation file with made-up features; the classifier is made up too unless its file is given.

    `train_videos` and `test_videos` take that many, evenly spread over the file; null: all. Raises DataError.
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
    return _corpus(truth, make, name=name, sources=sources, statistics="anet13", classifier=scores)


DATASETS.register_module(name="synthetic", module=synthetic)
DATASETS.register_module(name="synthetic_over", module=synthetic_over)
