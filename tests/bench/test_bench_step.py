"""Speed of a training step and of detection at the paper's size, as rates of a large matrix product in the same run.

The numerator is fixed: what a plain implementation multiplies (28.6 GFLOP a video and step), whatever ours computes.
Floor of a step: 8.9 GFLOP a video are left to multiply, so at the matrix product's rate a step takes 31 % of the plain one.
"""

import time
from collections.abc import Callable

import pytest
import torch

from etad import build, measure
from etad.data.samples import Samples
from etad.inference import predict
from etad.roi import roi_linear
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


def test_training_step(benchmark, spec: Spec) -> None:
    """Goal: at least 85 % of the product's rate in float32, 65 % in bfloat16."""
    dtype = build.DTYPES[spec.training.precision]
    model = build.build_training(spec, build.build_detector(spec), ())
    made = model, build.build_optimizer(spec, model)
    batch = measure.made_up_batch(VIDEOS, 128, 512)
    benchmark.pedantic(measure.step, args=(made, batch, dtype), rounds=5, warmup_rounds=2)
    rate = VIDEOS * measure.PAPER_STEP_FLOPS / benchmark.stats.stats.min
    benchmark.extra_info["rate_of_matrix_product"] = round(rate / product_rate(dtype), 3)


def test_roi_share_of_step(benchmark, spec: Spec) -> None:
    """RoIAlign with the linear layers over it, forward and backward, three stages, as a share of the whole step."""
    dtype = build.DTYPES[spec.training.precision]
    model = build.build_training(spec, build.build_detector(spec), ())
    made = model, build.build_optimizer(spec, model)
    batch = measure.made_up_batch(VIDEOS, 128, 512)
    measure.step(made, batch, dtype)
    step = best(lambda: measure.step(made, batch, dtype))
    stage = model.detector.stages[0]
    anchors = model.anchors[torch.stack([torch.randperm(len(model.anchors))[:495] for _ in range(VIDEOS)])]
    x = torch.randn(VIDEOS, 128, 128).to(dtype).requires_grad_()

    def three() -> None:
        for _ in range(3):
            torch.cat(roi_linear(x, anchors, stage.roi_weight, stage.roi_bias, 24, 0.5)).sum().backward()

    benchmark.pedantic(three, rounds=5, warmup_rounds=1)
    benchmark.extra_info["share_of_step"] = round(benchmark.stats.stats.min / step, 3)


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
    spec = paper("bfloat16")
    model = build.build_training(spec, build.build_detector(spec), ())
    made = model, build.build_optimizer(spec, model)
    batch = measure.made_up_batch(16, 128, 512)
    seconds = measure.step_seconds(made, batch, torch.bfloat16, steps=2)
    benchmark.extra_info["share_of_step"] = round(benchmark.stats.stats.min / seconds, 4)
