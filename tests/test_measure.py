"""Traced memory against hand counts and real tensors, counted FLOPs against a formula."""

import math
from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from conftest import ROOT
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from etad import build, measure
from etad.spec import Spec, read_spec

GiB = 2**30


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def chain() -> None:
    a = torch.ones(1000)  # 4,000 B live
    b = a + 1  # 8,000
    view = b.view(10, 100)[2:4]  # shares b
    del a  # 4,000
    b.add_(1)  # in place
    c = torch.cat([b, b, b, b])  # 4,000 + 16,000
    del b  # the view keeps it
    d = view.double()  # + 200 x 8
    del view  # b goes: 17,600
    e = c[:1000].clone()  # 21,600, the peak is 16,000 + 4,000 + 1,600 = 21,600
    del c, d, e


@pytest.mark.parametrize("fake", [False, True])
def test_live_memory_is_the_hand_count(fake: bool) -> None:
    if fake:
        with FakeTensorMode(), measure.LiveMemory() as memory:
            chain()
    else:
        with measure.LiveMemory() as memory:
            chain()
    assert memory.peak == 21_600
    assert memory.now == 0


def test_memory_that_autograd_saves_stays_live() -> None:
    with measure.LiveMemory() as memory:
        x = torch.ones(1000, requires_grad=True)
        y = x.exp().sin().sum()  # exp saves its output, sin its input: the same 4,000 B; sin's output dies
        assert memory.now == 4000 + 4000 + 4
        assert memory.peak == 4000 + 4000 + 4000 + 4
        y.backward()
        del y
        assert memory.now == 4000 + 4000  # x and its gradient


def small(*overrides: str) -> Spec:
    return read_spec(ROOT / "experiments/specs/smoke.yaml", ["data.tscale=16", *overrides])


def maker(spec: Spec) -> Callable[[], measure.Made]:
    def make() -> measure.Made:
        model = build.build_training(spec, build.build_detector(spec), ())
        return model, build.build_optimizer(spec, model)

    return make


@cache
def trace(videos: int, dtype: torch.dtype = torch.float32, overrides: tuple[str, ...] = ()) -> measure.StepMemory:
    spec = small(*overrides)
    data = spec.data
    return measure.trace_step(maker(spec), videos=videos, tscale=data.tscale, channels=data.channels, dtype=dtype)


def test_the_parts_of_a_step_are_what_they_are_called() -> None:
    spec = small()
    model, _ = maker(spec)()
    tensors = list(model.parameters())
    count = sum(p.numel() for p in tensors)
    traced = trace(8)
    assert traced.parameters == traced.gradients == 4 * count
    assert traced.optimizer == 8 * count + 4 * len(tensors)  # two moments, and a step count a tensor
    assert traced.peak == traced.parameters + traced.gradients + traced.optimizer + traced.activations
    assert traced.activations >= 8 * spec.data.tscale * spec.data.channels * (2 + 4)  # the input, and in float32


def test_activations_grow_with_the_batch_alone() -> None:
    few, many = trace(8), trace(16)
    assert few.parameters == many.parameters
    assert few.optimizer == many.optimizer
    assert 1.5 * few.activations < many.activations < 3 * few.activations
    assert many.flops == 2 * few.flops


def test_nothing_but_the_size_matters() -> None:
    others = ("training.seed=3", "training.lr=0.5", "loss.offset_weight=1.0", "training.epochs=9")
    assert trace(8) == trace(8, overrides=others)


class WithoutWorkspaces(measure.LiveMemory):
    """Leaves out what oneDNN keeps for its LSTM, the only bytes (uint8) of a step; see trace_step."""

    def add(self, tensor: Tensor) -> None:
        if tensor.dtype is not torch.uint8:
            super().add(tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_trace_is_the_memory_of_a_real_step(dtype: torch.dtype) -> None:
    spec = small()
    with WithoutWorkspaces() as memory:
        made = maker(spec)()
        batch = measure.made_up_batch(8, spec.data.tscale, spec.data.channels)
        measure.step(made, batch, dtype)
        memory.peak = memory.now
        measure.step(made, batch, dtype)
    assert trace(8, dtype).peak == pytest.approx(memory.peak, rel=0.05)


@pytest.mark.parametrize(("precision", "most"), [("float32", 0.62), ("bfloat16", 0.35)])
def test_a_step_at_the_papers_size_stays_small(precision: str, most: float) -> None:
    spec = read_spec(ROOT / "experiments/specs/paper.yaml")
    assert (spec.data.tscale, spec.data.channels, spec.training.batch) == (128, 512, 16)
    traced = measure.trace_step(maker(spec), videos=16, tscale=128, channels=512, dtype=build.DTYPES[precision])
    assert traced.parameters == 4 * 10_343_450
    assert traced.peak <= most * GiB


class Line(nn.Module):
    """One linear layer in the place of a training model."""

    graphs = None

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.linear = nn.Linear(channels, out, bias=False)
        self.steps = 0

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        self.steps += 1
        return {"loss": self.linear(batch["features"].float()).square().sum()}


def line(channels: int, out: int) -> measure.Made:
    model = Line(channels, out)
    return model, torch.optim.AdamW(model.parameters())  # type: ignore[return-value]


def test_flops_are_counted_exactly() -> None:
    videos, tscale, channels, out = 3, 8, 20, 7
    traced = measure.trace_step(
        lambda: line(channels, out), videos=videos, tscale=tscale, channels=channels, dtype=torch.float32
    )
    product = 2 * videos * tscale * channels * out
    assert traced.flops == 2 * product  # forward, and the weights' gradient: the input needs none
    assert traced.parameters == 4 * channels * out


def test_flops_of_a_product_added_in_place() -> None:
    total, a, b = torch.zeros(3, 5), torch.randn(3, 7), torch.randn(7, 5)
    with FlopCounterMode(display=False, custom_mapping=measure.FLOPS) as counted:
        total.addmm_(a, b)
    assert counted.get_total_flops() == 2 * 3 * 7 * 5


def test_a_step_multiplies_as_much_in_either_precision() -> None:
    assert trace(8).flops == trace(8, torch.bfloat16).flops


@pytest.mark.parametrize("attention", [False, True])
def test_flops_of_what_a_cpu_computes_in_one_operation(attention: bool) -> None:
    videos, steps, width = 3, 8, 16
    layer = nn.MultiheadAttention(width, 2, batch_first=True) if attention else nn.LSTM(width, width, batch_first=True)
    x = torch.randn(videos, steps, width, requires_grad=True)
    with FlopCounterMode(display=False, custom_mapping=measure.FLOPS) as counted:
        out = layer(x, x, x, need_weights=False)[0] if attention else layer(x)[0]
        out.sum().backward()
    rows = 2 * videos * steps  # a multiplication and an addition
    linear = 4 * rows * width * width if attention else rows * 2 * 4 * width * width
    products = rows * steps * width if attention else 0  # queries with keys; as much for weights with values
    # Backward: the gradients of input and weight; attention's keeps no weights and multiplies queries with keys again.
    assert counted.get_total_flops() == 3 * linear + 7 * products


def test_a_step_takes_time_and_warm_up_is_left_out() -> None:
    made = line(20, 7)
    seconds = measure.step_seconds(made, measure.made_up_batch(3, 8, 20), torch.float32, steps=3, warm_up=2)
    assert 0 < seconds < math.inf
    assert made[0].steps == 5


def test_other_work_on_the_cores_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"wall": 10.0, "own": 3.0}
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock["wall"])
    monkeypatch.setattr(measure.time, "process_time", lambda: clock["own"])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)

    def notes(own: float, device: str = "cpu") -> list[str]:
        with measure.watch_cores(torch.device(device)) as busy:
            clock["wall"], clock["own"] = clock["wall"] + 5.0, clock["own"] + own
            assert busy == []
        return busy

    assert notes(18.0) == []
    assert notes(12.0) == ["the machine was busy: 60 % of the cores' time was this process's"]
    assert notes(1.0, "cuda") == []


def test_peak_memory_is_the_allocators_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with measure.peak_memory(torch.device("cpu")) as peak:
        torch.ones(10)
    assert peak == []
    counted = [7]  # an allocator that held 7 bytes at most so far
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: counted.append(2))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: counted[-1])
    with measure.peak_memory(torch.device("cuda", 0)) as peak:
        counted.append(5)
        assert peak == []
    counted.append(9)
    assert peak == [5]


def test_the_environment_is_plain_text() -> None:
    found = measure.environment(torch.device("cpu"))
    assert found["torch"] == torch.__version__
    assert all(isinstance(value, str) and value for value in found.values())
    assert found["device"].endswith(", 1 thread")
