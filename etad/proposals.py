"""The proposal map, and which of its anchors a video is trained on."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from etad.registry import SAMPLERS
from etad.segments import tiou


@dataclass(frozen=True)
class ProposalMap:
    """Valid anchors of a map of `dscale` durations by `tscale` starts, durations outermost. Source: METHOD 4."""

    tscale: int
    dscale: int
    anchors: Tensor  # [M, 2], fractions
    cells: Tensor  # [M, 2], (duration index d, start index i)


def proposal_map(tscale: int, dscale: int) -> ProposalMap:
    """Anchor (d, i) starts at i / T and ends at (i + d + 1) / T; valid where i + d < T."""
    d, last = torch.triu_indices(dscale, tscale)
    cells = torch.stack((d, last - d), -1)
    anchors = torch.stack((cells[:, 1] / tscale, (cells.sum(1) + 1) / tscale), -1)
    return ProposalMap(tscale, dscale, anchors, cells)


@dataclass(frozen=True)
class Draw:
    """What a sampler may look at: the map, the ratio wanted, and B videos with their own random numbers."""

    map: ProposalMap
    ratio: float
    uniform: Callable[[int], Tensor]  # count -> [B, count] in [0, 1), the same whenever asked
    features: Tensor  # [B, T, C]
    segments: Tensor  # [B, N, 2], fractions, padded with zero-length ones

    @property
    def count(self) -> int:
        """Anchors that the ratio stands for, at least one."""
        return max(1, math.floor(len(self.map.anchors) * self.ratio))


def _smallest(keys: Tensor, count: int) -> Tensor:
    return keys.topk(count, dim=1, largest=False).indices


@SAMPLERS.register_module(name="random")
def random(draw: Draw) -> Tensor:
    """Without replacement, in random order: [B, K] indices of valid anchors."""
    return _smallest(draw.uniform(len(draw.map.anchors)), draw.count)


@SAMPLERS.register_module(name="grid")
def grid(draw: Draw) -> Tensor:
    """A lattice over starts and durations, the same for every video. Its count is its own: 496 for 6 % of T = 128.

    Raises ValueError where it has no valid anchor.
    """
    T, D = draw.map.tscale, draw.map.dscale
    step = math.sqrt(1.0 / draw.ratio)
    lattice = [round(1 + k * step) for k in range(math.ceil((max(T, D) - 1) / step))]
    # Durations are outermost in the map, and duration d has T - d starts.
    picks = [d * T - d * (d - 1) // 2 + i for d in lattice if d < D for i in lattice if i + d < T]
    if not picks:
        raise ValueError(f"proposals.sampler grid: no anchor of a map of {D} x {T} lies on the grid; use random")
    return torch.tensor(picks, device=draw.map.cells.device).expand(len(draw.features), -1)


def _block(draw: Draw, clip: bool) -> Tensor:
    T, D = draw.map.tscale, draw.map.dscale
    side = math.isqrt(draw.count)
    if not clip and 2 * side > min(T, D):
        raise ValueError(
            f"proposals.sampler block: a square of side {side} fits no map of {D} x {T}; lower proposals.ratio below "
            f"{math.floor(1e3 * (min(T, D) // 2 + 1) ** 2 / len(draw.map.anchors)) / 1e3} or use block-clipped"
        )
    u = draw.uniform(2)
    x = (u[:, 0] * (max(D - 2 * side, 0) + 1)).floor().long()
    y = (u[:, 1] * ((T - 2 * side - x).clamp_min(0) + 1)).floor().long()
    ramp = torch.arange(side, device=x.device)
    d, i = (x[:, None] + ramp)[:, :, None], (y[:, None] + ramp)[:, None, :]
    number = torch.full((D + side, T + side), -1, device=x.device)
    number[draw.map.cells[:, 0], draw.map.cells[:, 1]] = torch.arange(len(draw.map.anchors), device=x.device)
    return number[d, i].flatten(1)


@SAMPLERS.register_module(name="block")
def block(draw: Draw) -> Tensor:
    """One square of durations by starts, placed at random: 484 for 6 % of T = 128. Raises ValueError where none fits."""
    return _block(draw, clip=False)


@SAMPLERS.register_module(name="block-clipped")
def block_clipped(draw: Draw) -> Tensor:
    """`block` for any ratio: cells of the square outside the valid triangle repeat its valid ones in turn. Ours."""
    picks = _block(draw, clip=True)
    order = torch.arange(picks.shape[1], device=picks.device)
    valid = picks >= 0
    # every video keeps the same count: invalid cells repeat the square's valid ones in turn
    turn = torch.where(valid, 0, order) % valid.sum(1, keepdim=True).clamp_min(1)
    ranked = (~valid).long().mul(picks.shape[1]).add(order).argsort(1)
    return torch.where(valid, picks, picks.gather(1, ranked.gather(1, turn)))


@SAMPLERS.register_module(name="label-guided")
def label_guided(draw: Draw) -> Tensor:
    """Equal mass on the tIoU bands > 0.7, 0.3 .. 0.7 and <= 0.3, uniform inside a band, without replacement.

    Ours: the paper names the strategy, the released code lacks it. Weighted draws by exponential keys (Efraimidis, Spirakis).
    """
    best = tiou(draw.map.anchors.unsqueeze(1), draw.segments.unsqueeze(1)).amax(-1)
    band = (best > 0.3).long() + (best > 0.7).long()
    sizes = torch.zeros(len(best), 3, device=best.device).scatter_add_(1, band, torch.ones_like(best))
    exponential = -torch.log1p(-draw.uniform(best.shape[1]))
    return _smallest(exponential * sizes.gather(1, band), draw.count)


@SAMPLERS.register_module(name="feature-guided")
def feature_guided(draw: Draw, *, dimensions: int = 16) -> Tensor:
    """Farthest-point sampling of the anchors' mean features, projected at random to `dimensions`, from a random start.

    Ours: the paper names the strategy, the released code lacks it.
    """
    x = draw.features.float()
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(x.shape[-1], dimensions, generator=generator).to(x.device)
    total = torch.nn.functional.pad((x @ projection).cumsum(1), (0, 0, 1, 0))
    d, i = draw.map.cells.unbind(1)
    points = (total[:, i + d + 1] - total[:, i]) / (d + 1).unsqueeze(-1)
    rows = torch.arange(len(x), device=x.device)
    pick = (draw.uniform(1)[:, 0] * points.shape[1]).long()
    nearest = torch.full(points.shape[:2], math.inf, device=x.device)
    picks = []
    for _ in range(draw.count):
        picks.append(pick)
        nearest = torch.minimum(nearest, (points - points[rows, pick].unsqueeze(1)).square().sum(-1))
        nearest[rows, pick] = -1.0
        pick = nearest.argmax(1)
    return torch.stack(picks, 1)
