"""Training an encoder with its detector, and detecting from frames: the engine's step with gradient sampling around it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from mmengine.model import MMDistributedDataParallel
from numpy.typing import NDArray
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from etad.data.ahead import Ahead
from etad.data.batches import SNIPPETS
from etad.data.samples import Samples
from etad.engine import AutocastOptimWrapper, TrainingModel, autocast
from etad.gradients import Picks, SnippetDraw, SnippetEncoder
from etad.randomness import uniform

DetectorStep = Callable[[dict[str, Any], AutocastOptimWrapper], dict[str, Tensor]]


class EndToEndModel(TrainingModel):
    """The detector's training model with the encoder before it. A batch has `frames` in the place of `features`.

    count: snippets of a video that train the encoder in a step; 0: it stays as it is. weighted: see SnippetEncoder.
    """

    def __init__(
        self,
        *,
        encoder: SnippetEncoder,
        snippet_sampler: Callable[[SnippetDraw], Picks],
        count: int,
        weighted: bool,
        **detector: Any,
    ):
        super().__init__(**detector)
        if count and not encoder.trained():
            raise ValueError(
                "nothing of the encoder is left to train: lower encoder.frozen_stages, or set encoder.ratio=0"
            )
        self.encoder, self.snippet_sampler, self.count, self.weighted = encoder, snippet_sampler, count, weighted

    def draw(self, features: Tensor, batch: dict[str, Any]) -> Picks:
        row, device = batch["row"].to(features.device), features.device

        def numbers(count: int) -> Tensor:
            return uniform(self.seed, SNIPPETS, batch["epoch"], row, count=count, device=device)

        segments, present = batch["segments"].to(device), batch["present"].to(device)
        return self.snippet_sampler(SnippetDraw(self.count, numbers, features.detach(), segments, present))

    def train_step(self, data: dict[str, Any], optim_wrapper: AutocastOptimWrapper) -> dict[str, Tensor]:
        return three_steps(self, super().train_step, data, optim_wrapper)


class DistributedEndToEnd(MMDistributedDataParallel):
    """Synchronises the detector as usual; the encoder, which its forward pass never sees, after its own backward passes."""

    def __init__(self, module: EndToEndModel, **options: Any):
        own = [f"encoder.{name}" for name, _ in (*module.encoder.named_parameters(), *module.encoder.named_buffers())]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, own)
        super().__init__(module, **options)

    def train_step(self, data: dict[str, Any], optim_wrapper: AutocastOptimWrapper) -> dict[str, Tensor]:
        return three_steps(self.module, super().train_step, data, optim_wrapper)


EndToEndModel.wrapper = DistributedEndToEnd


def three_steps(
    model: EndToEndModel, detector_step: DetectorStep, data: dict[str, Any], optim_wrapper: AutocastOptimWrapper
) -> dict[str, Tensor]:
    """One iteration of METHOD 9; one optimiser step for the detector, then one for the encoder (METHOD 12).

    Both are steps of the same optimiser: a parameter without a gradient is left alone. Each is clipped by itself.
    """
    frames = data.pop("frames")
    with autocast(optim_wrapper.device, optim_wrapper.dtype):
        features = model.encoder(frames)
    features.requires_grad_()
    logged = detector_step({**data, "features": features}, optim_wrapper)
    if model.count and features.grad is not None:
        picks = model.draw(features, data)
        model.encoder.backward(frames, features.grad, picks, weighted=model.weighted, dtype=optim_wrapper.dtype)
        _average(model.encoder.trained())
        optim_wrapper.step()
        optim_wrapper.zero_grad()
    return logged


def _average(parameters: Sequence[nn.Parameter]) -> None:
    """Gradients as DDP leaves them: the mean over the processes."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        for parameter in parameters:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()


class EncodedRows:
    """Rows of features [T, C] made from rows of frames [T, 3, L, H, W] as they are asked for."""

    def __init__(self, frames: Ahead, encoder: SnippetEncoder, *, dtype: torch.dtype, device: torch.device):
        self.frames, self.encoder, self.dtype = frames, encoder.to(device), dtype

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, row: int) -> NDArray[np.float32]:
        frames = torch.from_numpy(self.frames[row]).unsqueeze(0)
        with autocast(self.encoder.mean.device, self.dtype):
            return self.encoder(frames)[0].cpu().numpy()


def encoded(
    samples: Samples, encoder: SnippetEncoder, *, dtype: torch.dtype, device: torch.device, ahead: int = 0
) -> Samples:
    """Samples of frames as samples of features, each row encoded when it is asked for, so many decoded ahead of it."""
    assert samples.frames is not None
    rows = EncodedRows(Ahead(samples.frames, ahead), encoder, dtype=dtype, device=device)
    return replace(samples, features=cast(Any, rows))
