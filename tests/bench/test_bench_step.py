"""Speed of a training step and of detection at the paper's size, as rates of a large matrix product in the same run.

The numerator is fixed: what a plain implementation multiplies (28.6 GFLOP a video and step), whatever ours computes.
Floor of a step: 11.5 GFLOP a video are left to multiply, so at the matrix product's rate a step takes 40 % of the plain one.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from etad import build, measure, roi
from etad.data.samples import Samples
from etad.inference import predict
from etad.model import head
from etad.processes import make_ready
from etad.spec import Spec, parse_overrides, parse_spec

VIDEOS = 4
# One anchor, one stage, forward: the layers over the RoI and its quarters, five small heads, the interpolation.
ANCHOR_FLOPS = 2 * (3072 * 512 + 2 * 768 * 512) + 2 * (5 * (512 * 128 + 2 * 128 * 128) + 8 * 128) + 2 * 24 * 128 * 128


def paper(precision: str) -> Spec:
    return parse_spec(parse_overrides([f"training.precision={precision}", f"inference.precision={precision}"]))


def best(work: Callable[[], object], times: int = 5) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def product_rate(dtype: torch.dtype) -> float:
    """FLOP/s of a 4096 x 4096 matrix product."""
    a = torch.randn(4096, 4096).to(dtype)
    return 2 * 4096**3 / best(lambda: a @ a)


@pytest.fixture(params=("float32", "bfloat16"))
def spec(request: pytest.FixtureRequest) -> Spec:
    return paper(request.param)


def step_of(spec: Spec, videos: int) -> tuple[measure.Made, dict[str, Any], torch.dtype]:
    """What measure.step takes."""
    make_ready()
    model = build.build_training(spec, build.build_detector(spec), ())
    made = model, build.build_optimizer(spec, model)
    return made, measure.made_up_batch(videos, 128, 512), build.DTYPES[spec.training.precision]


def test_training_step(benchmark, spec: Spec) -> None:
    """Goal: at least 85 % of the product's rate in float32, 65 % in bfloat16."""
    made, batch, dtype = step_of(spec, VIDEOS)
    benchmark.pedantic(measure.step, args=(made, batch, dtype), rounds=5, warmup_rounds=2)
    rate = VIDEOS * measure.PAPER_STEP_FLOPS / benchmark.stats.stats.min
    benchmark.extra_info["rate_of_matrix_product"] = round(rate / product_rate(dtype), 3)


class Inside:
    """Wall time spent in the functions that it wraps; what one calls of another counts once."""

    def __init__(self) -> None:
        self.seconds, self.entered = 0.0, False

    def __call__(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            if self.entered:
                return work(*args)
            self.entered, start = True, time.perf_counter()
            try:
                return work(*args)
            finally:
                self.entered, self.seconds = False, self.seconds + time.perf_counter() - start

        return timed


@pytest.mark.parametrize("videos", [VIDEOS, 16])
def test_roi_share_of_step(benchmark, spec: Spec, videos: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """RoIAlign's part of a step, forward and backward; goal, at batch 4: at most 15 %.

    RoIAlign is one product with the layers after it, so `fused` is the time in both. `roialign` is its own: listing what
    every bin reads, turning the list round for the backward pass, and the weighted sums, added up over the quarters. RoIs
    first would read a quarter as wide rows, but multiply three times as much after it; `plain` is the time of that step, as a
    share of ours. docs/speed.md has what two cores took.
    """
    made, batch, dtype = step_of(spec, videos)
    fused, own = Inside(), Inside()
    for method in ("forward", "backward"):
        monkeypatch.setattr(roi._RoILinear, method, staticmethod(fused(getattr(roi._RoILinear, method))))
    for name in ("_gather", "_add_sums", "list_reading", "list_readers", "_by_quarter"):
        monkeypatch.setattr(roi, name, own(getattr(roi, name)))
    measure.step(made, batch, dtype)
    fused.seconds = own.seconds = 0.0
    start = time.perf_counter()
    benchmark.pedantic(measure.step, args=(made, batch, dtype), rounds=15)
    whole = time.perf_counter() - start
    parts = {"fused": fused, "roialign": own}
    benchmark.extra_info.update({f"{name}_share": round(part.seconds / whole, 3) for name, part in parts.items()})
    monkeypatch.undo()
    ours = best(lambda: measure.step(made, batch, dtype))
    monkeypatch.setattr(head, "roi_linear", plain_roi_linear)
    measure.step(made, batch, dtype)
    benchmark.extra_info["plain_share"] = round(best(lambda: measure.step(made, batch, dtype)) / ours, 3)


def plain_roi_linear(
    x: Tensor, anchors: Tensor, weight: Tensor, bias: Tensor, bins: int, extend: float
) -> tuple[Tensor, ...]:
    """RoIs first, kept for the backward pass, then three linear layers over them."""
    pooled = roi.roi_align(x.transpose(1, 2), anchors, bins, extend).flatten(0, 1)
    quarter = bins // 4
    parts = pooled, pooled[..., :quarter], pooled[..., -quarter:]
    layers = weight.to(x.dtype).split((bins, quarter, quarter), 1)
    products = (p.flatten(1) @ w.flatten(0, 1) for p, w in zip(parts, layers, strict=True))
    return tuple((made + b).relu() for made, b in zip(products, bias.to(x.dtype), strict=True))


def test_detection(benchmark, spec: Spec) -> None:
    """One video, all 8,256 proposals, without post-processing."""
    dtype = build.DTYPES[spec.inference.precision]
    detector = build.build_detector(spec)
    batch = measure.made_up_batch(1, 128, 512)
    samples = Samples(("v",), torch.tensor([[0.0, 100.0]]).double().numpy(), batch["features"].numpy())
    anchors = build.build_test_anchors(spec)

    def detect() -> None:
        list(predict(detector, samples, anchors, top_classes=1, dtype=dtype, device=torch.device("cpu")))

    benchmark.pedantic(detect, rounds=5, warmup_rounds=1)
    rate = 3 * len(anchors) * ANCHOR_FLOPS / benchmark.stats.stats.min
    benchmark.extra_info["rate_of_matrix_product"] = round(rate / product_rate(dtype), 3)


def test_loading(benchmark) -> None:
    """A batch of 16 rows from an array in memory, as a share of a training step of the same size (goal: below 3 %)."""
    import numpy as np

    from etad.data.annotations import Annotations, Video
    from etad.data.batches import TrainingRows

    ids = tuple(f"v{n}" for n in range(64))
    videos = {id: Video(id, "training", 100.0, np.array([[10.0, 60.0]]), np.zeros(1, np.int64)) for id in ids}
    features = np.random.default_rng(0).standard_normal((64, 128, 512), np.float32).astype(np.float16)
    samples = Samples(ids, np.tile([0.0, 100.0], (64, 1)), features)
    rows = TrainingRows(
        samples, Annotations(videos, ("a",), {}, {}, ""), min_length=0.01, drop_short=False, min_inside=0.0
    )
    benchmark.pedantic(rows.__getitems__, args=([(0, 0, n) for n in range(16)],), rounds=20, warmup_rounds=2)
    seconds = measure.step_seconds(*step_of(paper("bfloat16"), 16), steps=2)
    benchmark.extra_info["share_of_step"] = round(benchmark.stats.stats.min / seconds, 4)
