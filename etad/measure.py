"""What a training step costs: time measured, memory measured or traced, FLOPs counted."""

import os
import platform
import subprocess
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmengine
import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from etad.engine import TrainingModel, autocast

Made = tuple[TrainingModel, torch.optim.Optimizer]

# Source: the paper's detector (T 128, C 512, 495 proposals, three stages), one video, forward and backward. What a plain
# implementation multiplies: it stays the numerator of every rate, whatever an implementation really computes.
PAPER_STEP_FLOPS = 28.6e9


def _lstm_flops(inputs: tuple[int, ...], ahead: tuple[int, ...], back: tuple[int, ...], *_: Any, **__: Any) -> int:
    """inputs [T, B, C], weights [4 D, C] and [4 D, D]: one product a step with each."""
    return 2 * inputs[0] * inputs[1] * (ahead[0] * ahead[1] + back[0] * back[1])


# What PyTorch's counter does not know: what a CPU computes in one operation (a backward pass multiplies twice), and a
# product that is added in place.
_aten = torch.ops.aten
FLOPS = {
    _aten.addmm_: lambda total, a, b, **_: 2 * a[0] * a[1] * b[1],
    _aten.mkldnn_rnn_layer: _lstm_flops,
    _aten.mkldnn_rnn_layer_backward: lambda *shapes, **more: 2 * _lstm_flops(*shapes, **more),
    _aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(
        g, q, k, v
    ),
}


class LiveMemory(TorchDispatchMode):
    """Follows the bytes of all live storages that operations make, on real or fake tensors; nothing need be allocated."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if id(storage) in self._seen:
            return
        size = storage.nbytes()
        key = id(storage)

        def gone(_: Any) -> None:
            self.now -= size
            self._seen.pop(key, None)

        self._seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return out


@dataclass(frozen=True)
class StepMemory:
    """Peak bytes of one training step, and what stands in them; activations: all that is no other part, input included."""

    peak: int
    parameters: int
    gradients: int
    optimizer: int
    activations: int
    flops: int  # multiplications and additions of the products really computed


def made_up_batch(
    videos: int, tscale: int, channels: int, device: torch.device | str = "cpu", segments: int = 2
) -> dict[str, Any]:
    """A batch of noise of the given size, in the layout of TrainingRows."""
    generator = torch.Generator().manual_seed(0)
    ends = torch.rand(videos, segments, 2, generator=generator).sort(-1).values
    return {
        "features": torch.randn(videos, tscale, channels, generator=generator).half().to(device),
        "segments": ends.to(device),
        "labels": torch.zeros(videos, segments, dtype=torch.int64, device=device),
        "present": torch.ones(videos, segments, dtype=torch.bool, device=device),
        "row": torch.arange(videos, device=device),
        "epoch": 0,
        "iteration": 0,
    }


def step(made: Made, batch: dict[str, Any], dtype: torch.dtype) -> None:
    """One training step as the engine takes it: forward, backward, AdamW."""
    model, optimizer = made
    if model.graphs is not None:
        model.graphs(batch)
    else:
        with autocast(batch["features"].device, dtype):
            loss = model.losses(batch)["loss"]
        loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _bytes(tensors: Any) -> int:
    return sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor))


def trace_step(make: Callable[[], Made], *, videos: int, tscale: int, channels: int, dtype: torch.dtype) -> StepMemory:
    """Peak memory of a training step, traced on fake tensors: no such memory is allocated, and any machine gives the same.

    The second of two steps is traced, when AdamW's state exists. What a library keeps for itself is left out, as fake
    tensors know nothing of it: oneDNN's workspace of the two LSTMs (2 x 31 MiB at the paper's size in float32, 2 x 22
    in bfloat16).
    """
    with FakeTensorMode(), LiveMemory() as memory, FlopCounterMode(display=False, custom_mapping=FLOPS) as flops:
        model, optimizer = made = make()
        batch = made_up_batch(videos, tscale, channels)
        step(made, batch, dtype)
        memory.peak, flops.flop_counts = memory.now, type(flops.flop_counts)(flops.flop_counts.default_factory)
        step(made, batch, dtype)
        state = _bytes(value for held in optimizer.state.values() for value in held.values())
        parameters = _bytes(model.parameters())
    rest = memory.peak - 2 * parameters - state
    return StepMemory(memory.peak, parameters, parameters, state, rest, flops.get_total_flops())


def step_seconds(made: Made, batch: dict[str, Any], dtype: torch.dtype, *, steps: int, warm_up: int = 1) -> float:
    """Median wall time of a training step, warm-up left out."""
    device, seconds = batch["features"].device, []
    for n in range(warm_up + steps):
        start = time.perf_counter()
        step(made, batch, dtype)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if n >= warm_up:
            seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


BUSY = 0.85  # of its cores' time: a process that computes alone got 0.97 and more, beside one other 0.6 to 0.74


@contextmanager
def watch_cores(device: torch.device) -> Iterator[list[str]]:
    """The list says after the block, which computes with all threads, if other work took part of their time.

    It stays empty on a quiet machine, and for a GPU, whose time is its own.
    """
    found: list[str] = []
    wall, own = time.perf_counter(), time.process_time()
    yield found
    share = (time.process_time() - own) / (time.perf_counter() - wall) / torch.get_num_threads()
    if device.type == "cpu" and share < BUSY:
        found.append(f"the machine was busy: {100 * share:.0f} % of the cores' time was this process's")


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[int]]:
    """The list holds the block's peak after it: bytes of the GPU's allocator, all that lay there before included.

    It stays empty on a CPU, which keeps no such count.
    """
    found: list[int] = []
    if device.type == "cuda":
        torch.cuda.init()  # the count cannot be set back before
        torch.cuda.reset_peak_memory_stats(device)
    yield found
    if device.type == "cuda":
        found.append(torch.cuda.max_memory_allocated(device))


def device_name(device: torch.device) -> str:
    """What a reader calls the device: the GPU's name, or the processor's with the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        name = models[0] if models else name
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def environment(device: torch.device) -> dict[str, str]:
    """Versions, device and commit, for a record."""
    root = Path(__file__).resolve().parent.parent

    def git(*args: str) -> str:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *args], capture_output=True, text=True, timeout=10, check=True
            )
            return done.stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return ""

    commit = git("rev-parse", "--short=12", "HEAD")
    return {
        "device": device_name(device),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "mmengine": mmengine.__version__,
        "numpy": np.__version__,
        "commit": (commit + (" with uncommitted changes" if git("status", "--porcelain", "-uno") else ""))
        or "not a git checkout",
    }
