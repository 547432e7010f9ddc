"""A GPU computes what the CPU does; skipped where there is none."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from etad import build, measure
from etad.data.samples import Samples
from etad.engine import AutocastOptimWrapper, record_steps
from etad.graphs import StepGraphs
from etad.inference import predict
from etad.proposals import proposal_map
from etad.spec import Entry, Spec, read_spec
from etad.taps import lay_bins, weigh_columns
from experiments.bench import training

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = (torch.device("cpu"), torch.device("cuda", 0))


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


@pytest.fixture
def spec() -> Spec:
    return read_spec(ROOT / "experiments/specs/smoke.yaml")


def test_losses_and_gradients(spec: Spec) -> None:
    found = []
    for device in DEVICES:
        model = build.build_training(spec, build.build_detector(spec), ()).to(device)
        parts = model.losses(measure.made_up_batch(8, spec.data.tscale, spec.data.channels, device))
        parts["loss"].backward()
        grads = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
        found.append(({name: float(part) for name, part in parts.items()}, grads))
    (losses, grads), (gpu_losses, gpu_grads) = found
    assert gpu_losses == pytest.approx(losses, rel=1e-4)
    assert gpu_grads.keys() == grads.keys()
    for name, grad in grads.items():
        assert (gpu_grads[name] - grad).norm() <= 1e-3 * grad.norm() + 1e-6, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_lower_the_loss_and_memory_is_measured(spec: Spec, dtype: torch.dtype) -> None:
    device = DEVICES[1]
    model = build.build_training(spec, build.build_detector(spec), ()).to(device)
    made = model, build.build_optimizer(spec, model)
    batch = measure.made_up_batch(8, spec.data.tscale, spec.data.channels, device)
    before = float(model.losses(batch)["loss"])
    with measure.peak_memory(device) as peak:
        for _ in range(10):
            measure.step(made, batch, dtype)
    assert float(model.losses(batch)["loss"]) < before
    assert peak[0] > sum(p.nbytes for p in model.parameters())


def test_detection(spec: Spec) -> None:
    data = spec.data
    features = np.random.default_rng(0).standard_normal((2, data.tscale, data.channels), np.float32).astype(np.float16)
    samples = Samples(("a", "b"), np.array([[0.0, 9.0], [0.0, 5.0]]), features)
    anchors = build.build_test_anchors(spec)
    rows = [
        list(predict(build.build_detector(spec), samples, anchors, top_classes=1, dtype=torch.float32, device=device))
        for device in DEVICES
    ]
    for cpu, gpu in zip(*rows, strict=True):
        np.testing.assert_allclose(gpu.segments, cpu.segments, atol=1e-4)
        np.testing.assert_allclose(gpu.scores, cpu.scores, atol=1e-4)
        np.testing.assert_allclose(gpu.boundary, cpu.boundary, atol=1e-4)


@pytest.mark.parametrize(("tscale", "bins", "extend"), [(128, 24, 0.5), (16, 8, 0.0), (1, 4, 1.0)])
def test_dense_weights(tscale: int, bins: int, extend: float) -> None:
    """Of any anchors, lost ones too: the kernel's numbers are the CPU's."""
    anchors = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)).sort(-1).values * 0.8 + 0.3
    anchors[0], anchors[1, 1], anchors[2] = math.nan, math.inf, 0.5
    want, made = (weigh_columns(lay_bins(anchors.to(device), tscale, bins, extend), tscale) for device in DEVICES)
    torch.testing.assert_close(made.cpu(), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("tscale", "bins"), [(128, 24), (100, 24), (128, 28)])
def test_samples_on_the_edges_are_the_same(tscale: int, bins: int) -> None:
    """Anchors of a map put samples on the very ends of it."""
    anchors = proposal_map(tscale, tscale).anchors
    want, made = (lay_bins(anchors.to(device), tscale, bins, 0.5).samples[2] for device in DEVICES)
    torch.testing.assert_close(made.cpu(), want, rtol=0, atol=0)


@pytest.mark.parametrize("sampler", ["random", "label-guided", "block"])
def test_replayed_steps_are_the_steps(spec: Spec, sampler: str) -> None:
    """Recorded once: later batches, epochs and iterations reach the replay, and the optimiser its gradients."""
    device, found = DEVICES[1], []
    wanted = spec.model_copy(update={"proposals": spec.proposals.model_copy(update={"sampler": Entry(name=sampler)})})
    for graph in (False, True):
        model = build.build_training(wanted, build.build_detector(wanted), ("v",) * 8).to(device)
        optimizer = build.build_optimizer(wanted, model)
        if graph:
            record_steps(model, device, torch.float32)
        wrapper = AutocastOptimWrapper(device=device, dtype=torch.float32, optimizer=optimizer)
        losses = []
        for n in range(5):
            batch = measure.made_up_batch(8, spec.data.tscale, spec.data.channels, device)
            batch |= {"features": batch["features"].roll(n, 1), "epoch": n // 2, "iteration": n}
            losses.append(float(model.train_step(batch, wrapper)["loss"]))
        found.append((losses, [p.detach().cpu() for p in model.parameters()]))
    (losses, weights), (replayed, replayed_weights) = found
    assert len(set(losses)) == 5
    assert replayed == pytest.approx(losses, rel=1e-4)
    for a, b in zip(weights, replayed_weights, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)


def test_a_timed_step_is_the_replayed_one(spec: Spec) -> None:
    """With runtime.graph the step benchmark times what a run does: the same weights after it, recorded or not."""
    wanted = spec.model_copy(update={"runtime": spec.runtime.model_copy(update={"graph": True})})
    assert training(wanted, DEVICES[1]).args[0][0].graphs is not None
    weights = []
    for given in (spec, wanted):
        made = build.build_step(given, DEVICES[1])
        batch = measure.made_up_batch(8, spec.data.tscale, spec.data.channels, DEVICES[1])
        for _ in range(3):
            measure.step(made, batch, torch.float32)
        weights.append([p.detach().cpu() for p in made[0].parameters()])
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)


def test_a_step_that_waits_for_the_host_is_refused(spec: Spec) -> None:
    device = DEVICES[1]
    model = build.build_training(spec, build.build_detector(spec), ()).to(device)

    def losses(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert float(batch["features"].sum()) != 1e30
        return model.losses(batch)

    batch = measure.made_up_batch(8, spec.data.tscale, spec.data.channels, device)
    with pytest.raises(ValueError, match=r"set runtime\.graph=false"):
        StepGraphs(losses, model.parameters())(batch)
    float(model.losses(batch)["loss"])  # the GPU is as usable as before


def test_a_run_trains_with_graphs(spec: Spec, tmp_path: Path) -> None:
    """The command, on the GPU, with and without."""
    found = []
    for graph in ("true", "false"):
        command = ["-m", "experiments.run", "--spec", "experiments/specs/smoke.yaml", "--json", "--set"]
        done = subprocess.run(
            [sys.executable, *command, f"runtime.graph={graph}", "--runs", str(tmp_path / graph)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(json.loads(done.stdout))
    assert found[0].keys() == found[1].keys()
