"""Encoder gradient sampling: train an encoder through a detector's loss with the memory of a few snippets.

One iteration (METHOD 9): the features of all snippets without gradient, chunk by chunk; the detector's own step, which
leaves the loss's gradient with respect to the features; then for a sampled part of the snippets, chunk by chunk, the
encoder again with gradient, going back from there. With every snippet sampled that is full backpropagation.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

import torch
from torch import Tensor, nn

from etad.registry import SNIPPET_SAMPLERS

UNITS = 1 << 24  # random numbers are multiples of 1 / UNITS, and so are the probabilities that a draw follows


def snippet_count(tscale: int, ratio: float, rounding: str, chunk: int) -> int:
    """Snippets of a video that carry gradient: the ratio rounded half up, at least one unless the ratio is 0.

    `released`: whole chunks, floor(T * ratio / chunk + 0.99) of them. Source: METHOD 9.
    """
    if rounding == "released":
        return min(tscale, int(tscale * ratio / chunk + 0.99) * chunk)
    exact = Decimal(str(ratio)) * tscale  # as it was written: 0.145 of 100 is 14.5
    return max(int(exact.to_integral_value(ROUND_HALF_UP)), math.ceil(ratio))


@dataclass(frozen=True)
class Picks:
    """The snippets of a draw, and for each the probability with which such a draw holds it (conditional on the features)."""

    index: Tensor  # [B, n], each once a video
    probability: Tensor  # [B, n], in (0, 1]


@dataclass(frozen=True)
class SnippetDraw:
    """What a sampler may look at: B videos, the count wanted of each, and their own random numbers."""

    count: int  # n, of T
    uniform: Callable[[int], Tensor]  # count -> [B, count] in [0, 1), the same whenever asked
    features: Tensor  # [B, T, C]
    segments: Tensor  # [B, N, 2], fractions
    present: Tensor  # [B, N]

    @property
    def tscale(self) -> int:
        return self.features.shape[1]

    def evenly(self, index: Tensor) -> Picks:
        """Picks of a draw that holds every snippet with the same probability n / T."""
        return Picks(index, torch.full_like(index, self.count / self.tscale, dtype=torch.float32))


@SNIPPET_SAMPLERS.register_module(name="random")
def random(draw: SnippetDraw) -> Picks:
    """Without replacement. Each snippet with probability n / T."""
    return draw.evenly(draw.uniform(draw.tscale).topk(draw.count, dim=1, largest=False).indices)


@SNIPPET_SAMPLERS.register_module(name="grid")
def grid(draw: SnippetDraw) -> Picks:
    """Every T / n-th snippet, from a random phase. Each snippet with probability n / T. The phase is ours."""
    phase = (draw.uniform(1) * UNITS).long()
    steps = torch.arange(draw.count, device=phase.device) * UNITS + phase
    return draw.evenly(steps * draw.tscale // (draw.count * UNITS))


@SNIPPET_SAMPLERS.register_module(name="block")
def block(draw: SnippetDraw) -> Picks:
    """n neighbours, their start uniform: a snippet's probability is the share of the T - n + 1 starts that reach it."""
    T, n = draw.tscale, draw.count
    starts = T - n + 1
    index = (draw.uniform(1) * starts).long() + torch.arange(n, device=draw.features.device)
    reached = index.clamp_max(T - n) - (index - n + 1).clamp_min(0) + 1
    return Picks(index, reached / starts)


@SNIPPET_SAMPLERS.register_module(name="label-guided")
def label_guided(draw: SnippetDraw, *, reach: float = 2.0) -> Picks:
    """Half of the picks where a segment's boundary lies within `reach` snippets (centre to boundary), half elsewhere.

    Inside either half every snippet has the same probability. Where a half has fewer snippets than it should give, all of
    it is taken and the other half gives the rest. Ours: the paper names the strategy, the released code lacks it.
    """
    T, n = draw.tscale, draw.count
    centres = torch.arange(T, device=draw.segments.device) + 0.5
    away = (draw.segments.flatten(1).unsqueeze(1) * T - centres.view(1, T, 1)).abs()
    away = torch.where(draw.present.repeat_interleave(2, 1).unsqueeze(1), away, math.inf)
    near = away.amin(-1) <= reach
    size = near.sum(1, keepdim=True).double()
    mass = torch.minimum(torch.maximum(torch.full_like(size, n / 2), n - (T - size)), size)
    probability = torch.where(near, mass / size.clamp_min(1), (n - mass) / (T - size).clamp_min(1))
    return systematic(probability, n, draw.uniform(T + 1))


def systematic(probability: Tensor, count: int, draws: Tensor) -> Picks:
    """A draw of exactly `count` that holds snippet t with probability[b, t]; [B, T], each row sums to `count`.

    Systematic sampling in random order: lay the probabilities end to end in that order and take every snippet in whose
    stretch a point u + k falls, u uniform. Whatever the order, t is taken with probability[t]; in whole numbers of
    1 / UNITS nothing is lost to rounding. draws [B, T + 1]: the order's keys, and u.
    """
    T = probability.shape[1]
    order = draws[:, :T].argsort(1)
    units = (probability.gather(1, order) * UNITS).round().long().clamp(1, UNITS)
    # rounding leaves a few units over: they go to, or come from, the snippets that can give or take them
    total = units.cumsum(1)
    excess = total[:, -1:] - count * UNITS
    room = torch.where(excess > 0, units - 1, UNITS - units)
    before = room.cumsum(1) - room
    units = units - excess.sign() * torch.minimum(room, (excess.abs() - before).clamp_min(0))
    ends = units.cumsum(1) + (draws[:, T:] * UNITS).long()
    taken = ends // UNITS > (ends - units) // UNITS
    first = taken.long().argsort(stable=True, dim=1, descending=True)[:, :count]
    return Picks(order.gather(1, first), units.gather(1, first) / UNITS)


@SNIPPET_SAMPLERS.register_module(name="feature-guided")
def feature_guided(draw: SnippetDraw) -> Picks:
    """Farthest-point sampling of the features from a start drawn at random.

    All T starts are followed, so that a snippet's probability is known: the share of the starts that lead to it, at least
    1 / T. Ours: the paper names the strategy, the released code lacks it.
    """
    B, T, _ = draw.features.shape
    x = draw.features.float()
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    pick = torch.arange(T, device=x.device).expand(B, T)  # of every start
    nearest = torch.full_like(distance, math.inf)  # [B, start, T]
    picks = []
    for _ in range(draw.count):
        picks.append(pick)
        nearest = torch.minimum(nearest, distance.gather(1, pick.unsqueeze(-1).expand(-1, -1, T)))
        nearest.scatter_(2, pick.unsqueeze(-1), -1.0)
        pick = nearest.argmax(2)
    every = torch.stack(picks, 2)  # [B, start, n]
    share = torch.zeros(B, T, device=x.device).scatter_add_(
        1, every.flatten(1), torch.ones_like(every.flatten(1), dtype=x.dtype)
    )
    start = (draw.uniform(1)[:, 0] * T).long()
    index = every[torch.arange(B, device=x.device), start]
    return Picks(index, share.gather(1, index) / T)


class SnippetEncoder(nn.Module):
    """Frames to features and gradients back, chunk by chunk; always in evaluation mode, its normalisation frozen.

    network: any module [N, 3, L, H, W] -> [N, C]. Its batch normalisation and its first stages get no gradient: with
    frozen_stages 2 the first three of `network.stages`, the stem and two; None freezes none.
    chunk: snippets of each video that go through it at once.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        network: nn.Module,
        channels: int,
        frozen_stages: int | None,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        chunk: int,
    ):
        super().__init__()
        self.network, self.channels, self.chunk = network, channels, chunk
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1, 1), persistent=False)
        frozen = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if frozen_stages is not None:
            stages = getattr(network, "stages", ())
            if frozen_stages >= len(stages):
                raise ValueError(
                    f"encoder.frozen_stages={frozen_stages}: {type(network).__name__} has {max(len(stages) - 1, 0)} "
                    "stages after its stem (attribute `stages`); null freezes none"
                )
            frozen += stages[: frozen_stages + 1]
        for module in frozen:
            module.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "SnippetEncoder":
        return super().train(False)

    def trained(self) -> list[nn.Parameter]:
        return [p for p in self.network.parameters() if p.requires_grad]

    def encode(self, frames: Tensor) -> Tensor:
        """Frames uint8 [B, n, 3, L, H, W], anywhere -> features float32 [B, n, C], all n at once."""
        B, n = frames.shape[:2]
        clips = frames.flatten(0, 1).to(self.mean.device, non_blocking=True)
        features = self.network((clips - self.mean).div_(self.std))
        if features.shape != (B * n, self.channels):
            raise ValueError(
                f"the encoder makes {tuple(features.shape)} of {B * n} clips, not [clips, data.channels={self.channels}]"
            )
        return features.to(self.mean.dtype).view(B, n, self.channels)  # type: ignore[no-any-return]

    def spans(self, count: int) -> Iterator[slice]:
        """The chunks of `count` snippets; the last one may be smaller."""
        return (slice(t, min(t + self.chunk, count)) for t in range(0, count, self.chunk))

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        """Features [B, T, C] of frames uint8 [B, T, 3, L, H, W], without gradient, chunk by chunk."""
        B, T = frames.shape[:2]
        features = self.mean.new_empty(B, T, self.channels)
        for span in self.spans(T):
            features[:, span] = self.encode(frames[:, span])
        return features

    def backward(
        self, frames: Tensor, gradient: Tensor, picks: Picks, *, weighted: bool, dtype: torch.dtype = torch.float32
    ) -> None:
        """Adds the parameters' gradients for a loss whose gradient with respect to the features is `gradient` [B, T, C].

        Only the picked snippets go back. `weighted` divides each one's share by its probability, so that the mean over
        draws is the gradient of all. `dtype` is the autocast type of the forward pass.
        """
        videos = torch.arange(len(frames), device=frames.device).unsqueeze(1)
        share = gradient.gather(1, picks.index.unsqueeze(-1).expand(-1, -1, gradient.shape[-1]))
        if weighted:
            share = share / picks.probability.unsqueeze(-1)
        for span in self.spans(picks.index.shape[1]):
            with torch.autocast(self.mean.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                features = self.encode(frames[videos, picks.index[:, span].to(frames.device)])
            features.backward(share[:, span])
