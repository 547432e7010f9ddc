"""A detector over rows of features, without gradients, and what becomes of a video's rows. Source: METHOD 10."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from etad.data.samples import Samples
from etad.engine import autocast
from etad.model.detector import Detector, DetectorOutput
from etad.postprocess import Found, Scored, postprocess_video


def predict(
    detector: Detector,
    samples: Samples,
    anchors: Tensor,
    *,
    top_classes: int,
    dtype: torch.dtype,
    device: torch.device,
    share: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Scored]:
    """What the detector says of each row of samples, one at a time: proposals from anchors [M, 2], score IoU 1 x IoU 2.

    With a class head each proposal carries its `top_classes` likeliest classes. Of the anchors the
    best `share` is tested, by the product of the boundary probabilities at their ends.
    """
    assert samples.features is not None
    detector.to(device).eval()
    anchors = anchors.to(device)
    count = tested_count(len(anchors), share)
    for w, span in enumerate(samples.span_s):
        row = torch.from_numpy(np.array(samples.features[w], dtype=np.float32)).to(device)
        with torch.inference_mode(), autocast(device, dtype):
            features = row.t().unsqueeze(0)
            x = detector.features(features)
            boundary = detector.boundary(x).float()
            tested = anchors if share == 1.0 else anchors[_promising(boundary[0], anchors, count)]
            out = DetectorOutput(boundary, detector.cascade(x, tested.unsqueeze(0), features))
            segments, iou = out.proposals()
            classes = out.classes()
            best = None if classes is None else classes[0].topk(min(top_classes, classes.shape[-1]), dim=-1)
        yield Scored(
            segments[0].cpu().numpy(),
            iou[0].prod(-1).cpu().numpy(),
            boundary[0].cpu().numpy(),
            (span[0], span[1]),
            None if best is None else (best.indices.cpu().numpy(), best.values.cpu().numpy()),
        )
        if progress:
            progress(w + 1, len(samples.ids))


def tested_count(anchors: int, share: float) -> int:
    """How many of so many anchors are tested, at least one."""
    return max(1, math.floor(anchors * share))


def _promising(boundary: Tensor, anchors: Tensor, count: int) -> Tensor:
    """Indices, rising, of the `count` anchors [M, 2] with the largest product of start and end probability [2, T]."""
    ends = (anchors * boundary.shape[1]).floor().long().clamp(0, boundary.shape[1] - 1)
    score = boundary[0, ends[:, 0]] * boundary[1, ends[:, 1]]
    return score.topk(count).indices.sort().values


@dataclass(frozen=True, kw_only=True)
class Inference:
    """A detector with all that decides what it finds in a video: the one way from rows to detections."""

    detector: Detector
    anchors: Tensor  # [M, 2], fractions
    share: float  # of the anchors, the best by their boundaries
    top_classes: int
    sigma: float
    max_detections: int
    candidates: Literal["boundary", "all"]
    dtype: torch.dtype
    device: torch.device

    def videos(
        self, samples: Samples, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[str, list[Scored]]]:
        """Each video with what the detector says of its rows, which stand together in samples."""
        rows = predict(
            self.detector,
            samples,
            self.anchors,
            top_classes=self.top_classes,
            dtype=self.dtype,
            device=self.device,
            share=self.share,
            progress=progress,
        )
        held: list[Scored] = []
        for n, row in enumerate(rows):
            held.append(row)
            if n + 1 == len(samples.ids) or samples.ids[n + 1] != samples.ids[n]:
                yield samples.ids[n], held
                held = []

    def detections(
        self, rows: list[Scored], duration_s: float, classes: Sequence[tuple[int, float]] | None = None
    ) -> Found:
        """One video's detections; `classes` as (index, score), best first, from outside: see `postprocess_video`."""
        return postprocess_video(
            rows,
            duration_s,
            classes if classes is None else classes[: self.top_classes],
            sigma=self.sigma,
            max_detections=self.max_detections,
            candidates=self.candidates,
        )
