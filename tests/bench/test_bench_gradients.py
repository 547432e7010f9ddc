"""Time of an end-to-end step over its floor: every snippet forward, the sampled ones forward and back, the detector's step.

The floor is taken in the same run, chunk by chunk, from plain calls of the same network. Goal: at most 1.10 times it.
Both in seconds of the processor, which other programs on it disturb less.
"""

import time
from collections.abc import Callable

import pytest
import torch
from mmengine.optim import OptimWrapper

from etad import build, measure
from etad.end_to_end import EndToEndModel
from etad.engine import AutocastOptimWrapper, autocast
from etad.footprint import make_frames
from etad.spec import Spec, read_spec

VIDEOS, CLIP = 4, (8, 48, 48)


def laptop(precision: str) -> Spec:
    overrides = ["encoder.checkpoint=null", f"training.precision={precision}"]
    return read_spec("experiments/specs/end_to_end_laptop.yaml", overrides)


def best(work: Callable[[], object], times: int = 5) -> float:
    seconds = []
    for _ in range(times):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def floor(model: EndToEndModel, spec: Spec, dtype: torch.dtype) -> float:
    """Seconds: T / chunk chunks forward without gradient, n / chunk forward and back, a detector's step."""
    assert spec.encoder is not None
    network, chunk = model.encoder.network, spec.encoder.chunk
    clips = torch.randn(VIDEOS * chunk, 3, *CLIP)

    def ahead() -> None:
        with torch.no_grad(), autocast(clips.device, dtype):
            network(clips)

    def both() -> None:
        with autocast(clips.device, dtype):
            out = network(clips)
        out.backward(torch.ones_like(out))

    made = model, build.build_optimizer(spec, model)
    batch = measure.made_up_batch(VIDEOS, spec.data.tscale, spec.data.channels)
    alone = best(lambda: measure.step(made, batch, dtype))
    return spec.data.tscale / chunk * best(ahead) + model.count / chunk * best(both) + alone


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_end_to_end_step(benchmark, precision: str) -> None:
    spec, dtype = laptop(precision), build.DTYPES[precision]
    model = build.build_training(spec, build.build_detector(spec), tuple("abcd"))
    assert isinstance(model, EndToEndModel)
    wrapper: OptimWrapper = AutocastOptimWrapper(
        device=torch.device("cpu"), dtype=dtype, optimizer=build.build_optimizer(spec, model)
    )
    batch = make_frames(VIDEOS, spec.data.tscale, CLIP)

    def step() -> None:
        model.train_step(dict(batch), wrapper)

    benchmark.pedantic(step, rounds=5, warmup_rounds=1)
    turns = [(best(step, 2), floor(model, spec, dtype)) for _ in range(3)]
    steps, floors = zip(*turns, strict=True)
    benchmark.extra_info["over_the_floor"] = round(min(steps) / min(floors), 3)


def test_frozen_layers_without_a_copy(benchmark) -> None:
    """A forward pass without gradient, over one whose convolutions and norms go one after the other."""
    from etad.model import encoder

    network = encoder.r2plus1d_small().eval()
    clips = torch.randn(16, 3, *CLIP)

    @torch.no_grad()
    def ahead() -> None:
        network(clips)

    benchmark.pedantic(ahead, rounds=10, warmup_rounds=2)
    one = best(ahead, 10)
    folded, encoder.normed = encoder.normed, lambda conv, norm, x: norm(conv(x))
    plain = best(ahead, 10)
    encoder.normed = folded
    benchmark.extra_info["over_the_plain_one"] = round(one / plain, 3)
