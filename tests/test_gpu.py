"""A GPU computes what the CPU does; skipped where there is none."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from conftest import ROOT

from etad import build, measure
from etad.data.samples import Samples
from etad.inference import predict
from etad.spec import Spec, read_spec

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
