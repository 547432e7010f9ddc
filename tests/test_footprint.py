"""Traced memory of an end-to-end step against whole traces, real tensors and the paper's claims."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from conftest import ROOT
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from etad import build, footprint, measure
from etad.footprint import OwnedMemory, Parts, Steps
from etad.spec import Spec, parse_overrides, parse_spec, read_spec

GiB = 2**30
MODES: tuple[footprint.Mode, ...] = ("full", "checkpoint", "sampled")
CLIP = (4, 16, 16)


def small(*overrides: str) -> Spec:
    options = [
        "data.tscale=6",
        "cascade.thresholds=[0.7]",
        "data.channels=16",
        "model.aggregator.name=none",  # the LSTM's kernels keep workspaces that a trace does not see
        "encoder.network={name: r2plus1d-small, args: {planes: [8, 8, 16, 16]}}",
        "encoder.frozen_stages=1",
    ]
    return read_spec(ROOT / "experiments" / "specs" / "smoke.yaml", [*options, *overrides])


def steps(spec: Spec, videos: int = 2, clip: footprint.Clip = CLIP, device: torch.device | None = None) -> Steps:
    def make() -> footprint.Made:
        model = build.build_training(spec, build.build_detector(spec), ())
        return model, build.build_optimizer(spec, model)  # type: ignore[return-value]

    tscale, dtype = spec.data.tscale, build.DTYPES[spec.training.precision]
    return Steps(make, videos=videos, tscale=tscale, clip=clip, dtype=dtype, device=device)


def test_bytes_have_owners() -> None:
    with OwnedMemory() as memory:
        with memory.owning("input"):
            a = torch.zeros(100)
        b = torch.zeros(50)
        with memory.owning("detector"):
            c = torch.zeros(25)
        memory.give(b, "gradients")
        del c
        d = torch.zeros(10)
        assert +memory.owned == {"input": 400, "gradients": 200, "activations": 40}
        assert memory.at_peak == Parts(input=400, activations=200, detector=100)
        assert memory.at_peak.peak == memory.peak == 700
        del a, b, d
    assert not +memory.owned
    assert memory.now == 0


@pytest.mark.parametrize(
    ("mode", "precision", "chunk", "count"),
    [
        ("full", "float32", 1, 5),
        ("checkpoint", "float32", 1, 5),
        ("sampled", "float32", 1, 5),
        ("sampled", "bfloat16", 2, 6),
        ("sampled", "bfloat16", 4, 5),
    ],
)
def test_the_shortened_trace_is_the_whole_one(mode: footprint.Mode, precision: str, chunk: int, count: int) -> None:
    """Every chunk traced, every product counted."""
    made = steps(small(f"training.precision={precision}"))
    short = made.trace(mode, chunk=chunk, count=count)
    made._set(chunk, count)
    with made.fake, made.memory:
        footprint.step(made.made, made.batch, mode, made.dtype, made.memory)
    if mode == "checkpoint":  # the features of chunks left out are repeated ones, and have no gradients of their own
        assert short.parts.peak == pytest.approx(made.memory.peak, rel=0.003)
    else:
        assert short.parts == made.memory.at_peak
        assert short.parts.peak == made.memory.peak


@pytest.mark.parametrize("mode", MODES)
def test_the_trace_is_the_memory_of_real_tensors(mode: footprint.Mode) -> None:
    traced = steps(small()).trace(mode, chunk=1, count=5)
    real = steps(small(), device=torch.device("cpu"))
    real._set(1, 5)
    with real.memory:
        footprint.step(real.made, real.batch, mode, real.dtype, real.memory)
    assert traced.parts.peak == pytest.approx(real.memory.peak, rel=0.03)
    with FlopCounterMode(display=False, custom_mapping=measure.FLOPS) as counter:
        footprint.step(real.made, real.batch, mode, real.dtype)
    assert traced.flops == counter.get_total_flops()


def test_the_parts_are_what_they_are_called() -> None:
    spec = small()
    made, model = steps(spec), build.build_training(spec, build.build_detector(spec), ())
    found = made.trace("full", chunk=1, count=0).parts
    learning = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    assert found.input == pytest.approx(2 * 6 * 3 * 4 * 16 * 16, rel=0.01)  # and the segments
    assert found.parameters == pytest.approx(sum(t.nbytes for t in [*model.parameters(), *model.buffers()]), rel=0.02)
    assert found.optimizer == pytest.approx(2 * learning, rel=0.01)
    assert 0 <= found.gradients <= learning
    none = made.trace("sampled", chunk=4, count=0).parts
    assert none.gradients <= sum(p.nbytes for p in model.detector.parameters())


def test_a_step_leaves_nothing_behind() -> None:
    made = steps(small())
    first = made.trace("sampled", chunk=4, count=5)
    made.trace("full", chunk=1, count=0)
    assert made.trace("sampled", chunk=4, count=5) == first


def test_all_modes_take_the_same_step() -> None:
    """Full backpropagation, checkpoints, and every snippet sampled move every weight alike."""
    after = []
    for mode in MODES:
        torch.manual_seed(0)
        made = steps(small("training.lr=1e-3", "encoder.lr=1e-3"), device=torch.device("cpu"))
        made._set(2, 6)
        made.batch["frames"].random_(0, 256, generator=torch.Generator().manual_seed(0))
        footprint.step(made.made, made.batch, mode, made.dtype)
        held = made.made[1].state
        after.append({n: held[p]["exp_avg"] for n, p in made.made[0].named_parameters() if p in held})
    for other in after[1:]:
        for name, value in after[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5 * float(value.abs().max()) + 1e-12)


class Gpu:
    """A GPU's count over a step that is not on one."""

    def __init__(self, allocated: int, full: bool = False):
        self.allocated, self.full = allocated, full

    def put(self, monkeypatch: pytest.MonkeyPatch) -> None:
        @contextmanager
        def peak(device: torch.device) -> Iterator[list[int]]:
            if self.full:
                raise torch.OutOfMemoryError
            yield [self.allocated]

        monkeypatch.setattr(footprint, "peak_memory", peak)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)


def test_what_a_gpu_gives_out_is_tensors_and_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    made = steps(small(), device=torch.device("cpu"))
    Gpu(10**9).put(monkeypatch)
    found = made.measure("sampled", chunk=4, count=5)
    assert found is not None
    assert found.tensors == pytest.approx(steps(small()).trace("sampled", chunk=4, count=5).parts.peak, rel=0.03)
    assert found.workspace == 10**9 - found.tensors
    Gpu(0, full=True).put(monkeypatch)
    assert made.measure("sampled", chunk=4, count=5) is None


# --- at the paper's size


@cache
def paper(precision: str, videos: int) -> Steps:
    spec = parse_spec(parse_overrides([f"training.precision={precision}", "encoder={}"]))
    return steps(spec, videos, (16, 112, 112))


def encoder_alone(snippets: int, frozen: str) -> int:
    """Bytes of going through so many snippets and back, above the frames and the weights... and with them."""
    spec = parse_spec(parse_overrides([f"encoder={{frozen_stages: {frozen}}}"]))
    with FakeTensorMode(), OwnedMemory() as memory:
        encoder = build.build_encoder(spec)
        frames = torch.zeros(1, snippets, 3, 16, 112, 112, dtype=torch.uint8)
        features = encoder.encode(frames)
        features.backward(torch.zeros_like(features))
        return memory.peak


def test_the_encoder_alone_costs_what_the_references_say() -> None:
    """EVIDENCE: 128 snippets back 12 GiB, 4 snippets 0.65; ours keeps no copy between frozen convolutions and norms."""
    assert 0.8 * 12 < encoder_alone(128, "2") / GiB < 12
    assert encoder_alone(4, "2") / GiB == pytest.approx(0.65, rel=0.05)
    assert encoder_alone(128, "null") / GiB == pytest.approx(95, rel=0.05)


@pytest.mark.parametrize(("precision", "most"), [("float32", 1.0), ("bfloat16", 0.6)])
def test_the_papers_configuration_stays_small(precision: str, most: float) -> None:
    """Batch 4, 30 % of the snippets, chunk 4: per video at most 1.0 and 0.6 GiB, 90 % below full backpropagation."""
    made = paper(precision, 4)
    sampled = made.trace("sampled", chunk=4, count=38)
    full = made.trace("full", chunk=4, count=128)
    assert sampled.parts.peak / 4 <= most * GiB
    assert sampled.parts.peak <= 0.1 * full.parts.peak
    assert sampled.parts.parameters >= 4 * (63_491_975 + 10_343_450)
    assert sampled.flops < full.flops < made.flops("checkpoint", 128)
