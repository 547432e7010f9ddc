"""A trained detector put to use, on one video of any length: a checkpoint is all that it needs.

import etad
for found in etad.detect("video.npy", checkpoint="latest.pth", duration_s=93.5):
    print(f"{found.start_s:.1f} {found.end_s:.1f} {found.label} {found.score:.2f}")
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from etad import build
from etad.data.annotations import DataError, Video
from etad.data.features import FeatureSource, as_half, columns_and_width
from etad.data.samples import Samples
from etad.data.video import inspect
from etad.data.videos import video_samples
from etad.data.windows import make_rows, row_spans
from etad.end_to_end import encoded
from etad.evaluate import ACTION
from etad.gradients import SnippetEncoder
from etad.inference import Inference
from etad.spec import DataSpec, merge, parse_spec
from etad.weights import load_weights, read_checkpoint, stated_spec

Progress = Callable[[int, int], None]  # rows done, of how many


class Detection(NamedTuple):
    start_s: float
    end_s: float
    label: str  # `action` where the detector has no class head
    score: float


class Sequence(NamedTuple):
    """One video: what to call it, how long it lasts, and its rows of features."""

    name: str
    duration_s: float
    samples: Samples


@dataclass(frozen=True)
class Trained:
    """A detector with its checkpoint's rules: what it takes, how rows are cut, what its classes are called."""

    path: Path
    inference: Inference
    data: DataSpec
    classes: tuple[str, ...]
    sources: dict[str, str]  # what the features of its training were
    encoder: SnippetEncoder | None  # trained with it: it takes videos too

    def read(
        self,
        source: str | Path | NDArray[Any],
        *,
        layout: str = "TC",
        duration_s: float | None = None,
        stride_s: float | None = None,
    ) -> Sequence:
        """A video file, or features [t, C] (TC) or [C, t] (CT), an array or a .npy file, like those of the training.

        How long the features' video lasts: duration_s, or stride_s, the seconds between two columns; where the detector
        works in windows it knows the stride. Raises DataError on what is not like its training, or broken.
        """
        for what, value in (("duration_s", duration_s), ("stride_s", stride_s)):
            if value is not None and not 0 < value < math.inf:
                raise DataError(f"{what} is {value}; it is a time above 0")
        if not isinstance(source, np.ndarray) and Path(source).suffix != ".npy":
            if duration_s or stride_s:
                raise DataError(f"{source}: a video knows how long it lasts; leave out duration and stride")
            return self._video(Path(source))
        name, features = self._features(source, layout)
        duration_s = self._duration_s(name, len(features), duration_s, stride_s)
        rows = make_rows(features, self.data.tscale, self.data.windows)
        span_s = row_spans(len(features), duration_s, self.data.tscale, self.data.windows)
        return Sequence(name, duration_s, Samples((name,) * len(rows), span_s, rows))

    def find(self, sequence: Sequence, progress: Progress | None = None) -> list[Detection]:
        """Detections, best first; windows are merged."""
        ((_, scored),) = self.inference.videos(sequence.samples, progress)
        segments_s, labels, scores = self.inference.detections(scored, sequence.duration_s)
        ordered = np.argsort(-scores, kind="stable")
        columns = (segments_s[ordered].tolist(), labels[ordered].tolist(), scores[ordered].tolist())
        return [
            Detection(start_s, end_s, self.classes[label], score)
            for (start_s, end_s), label, score in zip(*columns, strict=True)
        ]

    def _video(self, path: Path) -> Sequence:
        """Rows that are decoded and encoded as the detector asks for them."""
        if self.encoder is None:
            made = f" ({self.sources['features']})" if "features" in self.sources else ""
            raise DataError(
                f"{path}: not a .npy file of features, and {self.path} was trained on features{made}, without an "
                "encoder of its own; extract this video's as those were and give that file"
            )
        shown = inspect(path, 0.0)
        none = np.empty((0, 2)), np.empty(0, np.int64)
        video = Video(str(path), "", shown.last_s + 1 / shown.frame_rate, *none)
        samples = video_samples(self.data, [video], {video.id: shown})
        inference = self.inference
        rows = encoded(samples, self.encoder, dtype=inference.dtype, device=inference.device)
        return Sequence(video.id, video.duration_s, rows)

    def _features(self, source: str | Path | NDArray[Any], layout: str) -> tuple[str, NDArray[np.float16]]:
        """What to call them, and the features [t, C]."""
        if isinstance(source, np.ndarray):
            name = "the array of features"
            try:
                columns_and_width(source, layout)
                features = as_half(source, layout)
            except ValueError as error:
                raise DataError(f"{name} {error}") from None
        else:
            path, name = Path(source), str(source)
            features = FeatureSource(path.parent, "{id}", layout).read(path.name)
        t, channels = features.shape
        if channels != self.data.channels:
            turned = "; for an array [C, t] say layout CT (--layout CT)" if t == self.data.channels else ""
            raise DataError(
                f"{name}: {channels} channels a column, {self.path} takes {self.data.channels}: these are other features "
                f"than those of its training{turned}"
            )
        return name, features

    def _duration_s(self, name: str, t: int, duration_s: float | None, stride_s: float | None) -> float:
        windows = self.data.windows
        if windows is not None:
            fits_s = stride_s or (duration_s / t if duration_s else windows.stride_s)
            if not 0.5 < windows.stride_s / fits_s < 2:
                raise DataError(
                    f"{name}: {t} columns {fits_s:.3g} s apart, {self.path} takes one every {windows.stride_s:g} s; "
                    "extract them alike, or mend the duration or stride"
                )
            return duration_s or t * (stride_s if stride_s and windows.fitted else windows.stride_s)
        if (duration_s is None) == (stride_s is None):
            raise DataError(
                f"{name}: say how long the video lasts, either duration_s (--duration) or stride_s (--stride-s), the "
                f"seconds between two of the {t} columns"
            )
        return t * stride_s if duration_s is None else duration_s  # type: ignore[operator]


def load(path: str | Path, device: str = "auto", *, own_code: bool = False) -> Trained:
    """The detector of a checkpoint, on a device: cpu, cuda, cuda:1 ...; auto: cuda where there is one. Raises ValueError.

    Where its spec names components as module:object, building it imports them: refused unless `own_code` allows it.
    """
    path = Path(path)
    meta = read_checkpoint(path)["meta"]
    tree = merge(stated_spec(meta, path, own_code=own_code), {"runtime": {"device": device}})
    end_to_end = tree.get("encoder") is not None
    if end_to_end:  # the encoder lies in this very file; the cache was the training machine's
        tree = merge(tree, {"encoder": {"checkpoint": str(path)}, "data": {"video": {"cache": None}}})
    spec = parse_spec(tree, f"{path}, its spec")
    detector = build.build_detector(spec)
    load_weights(detector, path)
    try:
        where = build.build_device(spec)
    except RuntimeError as error:
        raise ValueError(f"device {device!r}: {str(error).splitlines()[0]}") from None
    if where.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r}: this PyTorch sees no GPU; say cpu or auto")
    own, classes = detector.class_count, tuple(map(str, meta.get("classes", ())))
    if own and own != len(classes):
        raise ValueError(f"{path}: it names {len(classes)} classes, its class head has {own}")
    return Trained(
        path=path,
        inference=build.build_inference(spec, detector, where),
        data=spec.data,
        classes=classes if own else (ACTION,),
        sources=dict(meta.get("protocol", {}).get("sources", {})),
        encoder=build.build_encoder(spec) if end_to_end else None,
    )


def detect(
    source: str | Path | NDArray[Any],
    *,
    checkpoint: str | Path,
    layout: str = "TC",
    duration_s: float | None = None,
    stride_s: float | None = None,
    device: str = "auto",
    own_code: bool = False,
    progress: Progress | None = None,
) -> list[Detection]:
    """What a checkpoint's detector finds in one video, best first; see `Trained.read`. For several videos `load` it once."""
    trained = load(checkpoint, device, own_code=own_code)
    return trained.find(trained.read(source, layout=layout, duration_s=duration_s, stride_s=stride_s), progress)
