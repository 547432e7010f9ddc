"""Memory and products of one end-to-end training step, traced on fake tensors or measured on a GPU.

A step goes through many chunks of snippets that cost the same. Traced are the first two, the second of which finds the
gradients of the first, and the last, which may be smaller; products are counted once a clip and multiplied.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from etad.end_to_end import EndToEndModel, three_steps
from etad.engine import AutocastOptimWrapper, autocast
from etad.gradients import Picks, SnippetEncoder
from etad.measure import FLOPS, LiveMemory, made_up_batch, peak_memory

Mode = Literal["full", "checkpoint", "sampled"]
Made = tuple[EndToEndModel, torch.optim.Optimizer]
Clip = tuple[int, int, int]  # L, H, W


@dataclass(frozen=True)
class Parts:
    """Bytes at the moment of the peak, and whose they are."""

    input: int = 0  # the frames, as bytes
    parameters: int = 0  # of encoder and detector, buffers included
    gradients: int = 0  # of parameters
    optimizer: int = 0  # AdamW's two moments
    detector: int = 0  # what its forward and backward pass keep
    activations: int = 0  # all the rest: the encoder's, and what going back makes

    @property
    def peak(self) -> int:
        return sum(getattr(self, f.name) for f in fields(self))


class OwnedMemory(LiveMemory):
    """Live bytes by owner: `owner` at the time that a storage was made, unless it is given to another."""

    def __init__(self) -> None:
        super().__init__()
        self.owner = "activations"
        self.owned: Counter[str] = Counter()
        self.at_peak = Parts()
        self._owners: dict[int, str] = {}

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._owners:
            return
        self._owners[key] = self.owner
        self.owned[self.owner] += size
        weakref.finalize(storage, self._gone, key, size)
        peak = self.peak
        super().add(tensor)
        if self.peak > peak:
            self.at_peak = Parts(**self.owned)

    def _gone(self, key: int, size: int) -> None:
        self.owned[self._owners.pop(key)] -= size

    def give(self, tensor: Tensor, owner: str) -> None:
        key, size = id(tensor.untyped_storage()), tensor.untyped_storage().nbytes()
        if (old := self._owners.get(key)) is not None:
            self.owned[old] -= size
            self.owned[owner] += size
            self._owners[key] = owner

    @contextmanager
    def owning(self, owner: str) -> Iterator[None]:
        before, self.owner = self.owner, owner
        yield
        self.owner = before


def make_frames(videos: int, tscale: int, clip: Clip, device: torch.device | str = "cpu") -> dict[str, Any]:
    """A batch of grey frames uint8 [B, T, 3, L, H, W] with made-up segments, in the layout of TrainingRows."""
    batch = made_up_batch(videos, tscale, 1, device)
    batch["features"] = torch.zeros(0)
    return {**batch, "frames": torch.full((videos, tscale, 3, *clip), 128, dtype=torch.uint8, device=device)}


def step(made: Made, batch: dict[str, Any], mode: Mode, dtype: torch.dtype, memory: OwnedMemory | None = None) -> None:
    """One end-to-end training step: as the engine takes it (sampled), or by full backpropagation, checkpointed or not.

    Full: all clips at once. Checkpoint: chunk by chunk, each one's activations made again on the way back.
    """
    model, optimizer = made
    encoder, device = model.encoder, model.anchors.device
    owning = memory.owning if memory else lambda owner: nullcontext()

    def detector_step(data: dict[str, Any], wrapper: AutocastOptimWrapper) -> dict[str, Tensor]:
        with owning("detector"):
            _detector(model, data, dtype)
        optimizer.step()
        optimizer.zero_grad()
        return {}

    if mode == "sampled":
        three_steps(
            model, detector_step, dict(batch), AutocastOptimWrapper(device=device, dtype=dtype, optimizer=optimizer)
        )
        return
    frames = batch["frames"]
    with autocast(device, dtype):
        if mode == "full":
            features = encoder.encode(frames)
        else:
            chunks = [
                checkpoint(encoder.encode, frames[:, span], use_reentrant=False, preserve_rng_state=False)
                for span in encoder.spans(frames.shape[1])
            ]
            features = torch.cat(chunks, 1)
    kept = features.detach().requires_grad_()
    with owning("detector"):
        _detector(model, {**batch, "features": _as_long_as(kept, frames.shape[1])}, dtype)
    features.backward(kept.grad)
    optimizer.step()
    optimizer.zero_grad()


def _detector(model: EndToEndModel, data: dict[str, Any], dtype: torch.dtype) -> None:
    """The detector forward and back."""
    with autocast(model.anchors.device, dtype):
        loss = model.losses(data)["loss"]
    loss.backward()


def _as_long_as(features: Tensor, tscale: int) -> Tensor:
    """Features of fewer chunks, repeated over the whole video: where the chunks between were left out."""
    missing = tscale - features.shape[1]
    return torch.cat((features, features[:, -1:].expand(-1, missing, -1)), 1) if missing else features


def _shortened(encoder: SnippetEncoder, count: int) -> list[slice]:
    spans = list(SnippetEncoder.spans(encoder, count))
    return spans if len(spans) <= 3 else [*spans[:2], spans[-1]]


@dataclass(frozen=True)
class Footprint:
    parts: Parts
    flops: int  # multiplications and additions of the products really computed, of the whole step


@dataclass(frozen=True)
class Measured:
    """Of one step on a GPU, bytes: what its allocator gave out at most, and the tensors in it."""

    allocated: int
    tensors: int

    @property
    def workspace(self) -> int:
        """What cuDNN and its like take for themselves, and the allocator's rounding."""
        return self.allocated - self.tensors


class Steps:
    """End-to-end steps of one model in any mode, with any chunk and count of sampled snippets.

    make: builds model and optimiser. clip: L, H, W of a snippet's frames. device: None traces, nothing is allocated.
    """

    def __init__(
        self,
        make: Callable[[], Made],
        *,
        videos: int,
        tscale: int,
        clip: Clip,
        dtype: torch.dtype,
        device: torch.device | None = None,
    ):
        self.videos, self.tscale, self.dtype = videos, tscale, dtype
        self.memory, self.fake = OwnedMemory(), FakeTensorMode() if device is None else nullcontext()
        with self.fake, self.memory:
            with self.memory.owning("parameters"):
                self.made = made = make()
            self._start(*made)
            with self.memory.owning("input"):
                self.batch = make_frames(videos, tscale, clip, device or "cpu")

    def _start(self, model: EndToEndModel, optimizer: torch.optim.Optimizer) -> None:
        """Brings AdamW's state about, and lets gradients be known as such."""
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.register_post_accumulate_grad_hook(lambda p: self.memory.give(p.grad, "gradients"))
                p.grad = torch.zeros_like(p)
        with self.memory.owning("optimizer"):
            optimizer.step()
        optimizer.zero_grad()

    def _set(self, chunk: int, count: int) -> EndToEndModel:
        model, memory = self.made[0], self.memory
        model.count, model.encoder.chunk = count, chunk
        memory.peak, memory.at_peak = 0, Parts(**memory.owned)
        return model

    def trace(self, mode: Mode, *, chunk: int, count: int) -> Footprint:
        model = self._set(chunk, count)
        model.encoder.spans = partial(_shortened, model.encoder)  # type: ignore[assignment, method-assign]
        with self.fake, self.memory:
            step(self.made, self.batch, mode, self.dtype, self.memory)
        del model.encoder.spans
        return Footprint(self.memory.at_peak, self.flops(mode, count))

    def measure(self, mode: Mode, *, chunk: int, count: int) -> Measured | None:
        """Of one step; None where the GPU's memory does not suffice."""
        self._set(chunk, count)
        device = self.batch["frames"].device
        try:
            with peak_memory(device) as allocated, self.memory:
                step(self.made, self.batch, mode, self.dtype, self.memory)
        except torch.OutOfMemoryError:
            self.made[1].zero_grad()
            torch.cuda.empty_cache()
            return None
        return Measured(allocated[0], self.memory.peak)

    def flops(self, mode: Mode, count: int) -> int:
        """Of a step: the forward pass of all snippets, with gradient sampling or checkpoints forward and back once more."""
        ahead, both, detector = self._unit_flops
        if mode == "full":
            return detector + self.videos * self.tscale * both
        again = count if mode == "sampled" else self.tscale
        return detector + self.videos * (self.tscale * ahead + again * both)

    @cached_property
    def _unit_flops(self) -> tuple[int, int, int]:
        """Of a snippet forward, of one forward and back, and of the detector's step."""
        model, frames = self.made[0], self.batch["frames"][:1, :1]
        with self.fake:
            once = Picks(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1))
            up = torch.zeros(1, 1, model.encoder.channels)
            features = torch.zeros(self.videos, self.tscale, model.encoder.channels, requires_grad=True)
            parts = (
                _flops(lambda: model.encoder(frames)),
                _flops(lambda: model.encoder.backward(frames, up, once, weighted=False)),
                _flops(lambda: _detector(model, {**self.batch, "features": features}, self.dtype)),
            )
        self.made[1].zero_grad()
        return parts


def _flops(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False, custom_mapping=FLOPS) as counter:
        work()
    return counter.get_total_flops()
