"""Losses: pure functions of predictions, targets and uniform draws, pooled over the batch. Source: METHOD 7.

Each pools the last dimension, the anchors of all videos, and gives as many losses as the numbers before it say: a GPU
judges all stages in the time of one. Each takes `total`, which sums counts over all processes (the identity in one
process). A loss is this process's sum over the count of all: summed over the processes it is the loss of the whole batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from etad.model.detector import DetectorOutput, StageOutput
from etad.segments import encode, tiou
from etad.targets import boundary_at

Total = Callable[[Tensor], Tensor]
EPSILON = 1e-6


def _bce(p: Tensor, positive: Tensor) -> Tensor:
    return -torch.log(torch.where(positive, p, 1.0 - p) + EPSILON)


def _counts(total: Total, *masks: Tensor) -> Sequence[Tensor]:
    """How many of each mask [..., N], [..., 1]."""
    return total(torch.stack([mask.sum(-1, keepdim=True, dtype=torch.float64) for mask in masks])).unbind()


def _mean(values: Tensor, count: Tensor) -> Tensor:
    """The sums of values [..., N] by count [..., 1], by one where it is empty."""
    return values.sum(-1) / count.squeeze(-1).clamp_min(1).to(values.dtype)


def _halves(positive: Tensor, total: Total) -> Tensor:
    """Weights that sum to half over the positives and to half over the others; to one where the other half is empty."""
    P, N = _counts(total, positive, ~positive)
    share = torch.where((P > 0) & (N > 0), 0.5, 1.0)
    return torch.where(positive, share / P.clamp_min(1), share / N.clamp_min(1))


def balanced_bce(p: Tensor, positive: Tensor, total: Total) -> Tensor:
    """Half the mean over positives plus half the mean over negatives; one class empty: the mean over the other."""
    return (_bce(p, positive) * _halves(positive, total).to(p.dtype)).sum(-1)


def _kept(draw: Tensor, band: Tensor, rate: Tensor, released: bool) -> Tensor:
    """Members of band kept with probability rate, as weights. Released: a rate above 1 keeps every anchor of all bands.

    An empty band (rate infinite) contributes nothing.
    """
    rate = torch.where(rate.isfinite(), rate, 0.0)
    return (draw * band > 1.0 - (rate if released else rate.clamp_max(1.0))).to(draw.dtype)


def sampled_bce(p: Tensor, positive: Tensor, draw: Tensor, total: Total, released: bool = False) -> Tensor:
    """BCE over the positives and as many negatives, each kept with probability positives / negatives.

    No positive: the mean over all. Released: where positives outnumber negatives, they count once more as negatives.
    """
    P, N = _counts(total, positive, ~positive)
    kept = torch.where(P == 0, 1.0, _kept(draw, ~positive, P / N, released))
    (count,) = _counts(total, kept + positive)
    loss = torch.where(positive, _bce(p, positive), 0.0) + kept * _bce(p, torch.zeros_like(positive))
    return _mean(loss, count)


def sampled_l2(
    p: Tensor, target: Tensor, bands: tuple[float, float], draw: Tensor, total: Total, released: bool = False
) -> Tensor:
    """Squared error over the anchors above the bands and as many of either lower band, each kept by chance.

    None above the bands: the plain mean.
    """
    high, low = target > bands[1], target <= bands[0]
    middle = ~(high | low)
    H, M, L = _counts(total, high, middle, low)
    weight = high + _kept(draw, middle, H / M, released) + _kept(draw, low, H / L, released)
    weight = torch.where(H == 0, 1.0, weight)
    (count,) = _counts(total, weight)
    return _mean((p - target).square() * weight, count)


def offset_loss(offsets: Tensor, target: Tensor, chosen: Tensor, total: Total) -> Tensor:
    """The sum over start, end, centre and width [..., N, 4] of the smooth L1 mean over the chosen anchors; none: 0."""
    (count,) = _counts(total, chosen)
    loss = F.smooth_l1_loss(offsets, target, reduction="none").sum(-1)
    return _mean(torch.where(chosen, loss, 0.0), count)


@dataclass(frozen=True, kw_only=True)
class ClassLoss:
    """Which class each anchor of the last stage is: its match's where its own tIoU lies above `positive`, or background.

    Cross-entropy: half its mean over the positives plus half its mean over the background. Focal: the sum over all anchors
    of (1 - p)^2 times it, p the probability of the right class, over the number of positives. Ours.
    Source: Lin et al., Focal Loss, ICCV 2017 (gamma 2).
    """

    positive: float
    weight: float
    focal: bool

    def __call__(self, stage: StageOutput, matched: Tensor, labels: Tensor, total: Total) -> Tensor:
        """labels [B, K]: the class of each anchor's match."""
        assert stage.classes is not None, "the detector has no class head"
        logits = stage.classes.float().flatten(0, 1)
        positive = (tiou(stage.anchors, matched) > self.positive).flatten()
        target = torch.where(positive, labels.flatten(), logits.shape[-1] - 1)
        loss = F.cross_entropy(logits, target, reduction="none")
        if not self.focal:
            return self.weight * (loss * _halves(positive, total).to(loss.dtype)).sum()
        (count,) = _counts(total, positive)
        hard = (1.0 - (-loss).exp()).square()
        return self.weight * _mean(hard * loss, count)


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """The total loss and its parts. Draws come from outside: uniform [S, 4, B, K], one row a sampled loss."""

    thresholds: tuple[float, ...]
    iou_positive: float
    iou_bands: tuple[float, float]
    boundary_positive: float
    iou_weight: float
    offset_weight: float
    class_weight: float
    released: bool
    classes: ClassLoss | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """What the loss is the sum of."""
        stages = tuple(f"stage{s + 1}" for s in range(len(self.thresholds)))
        return ("boundary", *stages, *(("classes",) if self.classes else ()))

    def __call__(
        self,
        out: DetectorOutput,
        matched: Tensor,
        boundary: Tensor,
        draws: Tensor,
        total: Total = lambda counts: counts,
        labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """matched [B, K, 2]: every anchor's segment, labels [B, K] its class; boundary [B, 2, T]. Returns `parts`, `loss`."""
        parts = {"boundary": self.boundary(out.boundary.float(), boundary, total)}
        stages = self.stages(out.stages, matched, boundary, draws, total).unbind()
        parts |= {f"stage{s + 1}": loss for s, loss in enumerate(stages)}
        if self.classes is not None:
            assert labels is not None
            parts["classes"] = self.classes(out.stages[-1], matched, labels, total)
        return {**parts, "loss": torch.stack(list(parts.values())).sum()}

    def boundary(self, p: Tensor, target: Tensor, total: Total) -> Tensor:
        """p and target [B, 2, T]."""
        ends = p.transpose(0, 1).flatten(1), target.transpose(0, 1).flatten(1) > self.boundary_positive
        return balanced_bce(*ends, total).sum()

    def stages(
        self, stages: Sequence[StageOutput], matched: Tensor, boundary: Tensor, draws: Tensor, total: Total
    ) -> Tensor:
        """Of each stage, [S]."""
        anchors = torch.stack([stage.anchors for stage in stages])  # [S, B, K, 2]
        iou = torch.stack([stage.iou for stage in stages]).float().flatten(1, 2)  # [S, B * K, 2]
        offsets = torch.stack([stage.offsets for stage in stages]).float().flatten(1, 2)
        overlap = tiou(anchors, matched).flatten(1)
        at = boundary_at(boundary, anchors).flatten(1, 2) > self.boundary_positive
        draw = draws.flatten(2).transpose(0, 1)  # [4, S, B * K]
        p = torch.stack((iou[..., 0], offsets[..., 4], offsets[..., 5]))  # [3, S, B * K]: IoU, start, end
        positive = torch.stack((overlap > self.iou_positive, at[..., 0], at[..., 1]))
        score, start, end = sampled_bce(p, positive, torch.cat((draw[:1], draw[2:])), total, self.released)
        value = sampled_l2(iou[..., 1], overlap, self.iou_bands, draw[1], total, self.released)
        chosen = torch.stack([row > t for row, t in zip(overlap, self.thresholds, strict=True)])
        moved = offset_loss(offsets[..., :4], encode(anchors, matched).flatten(1, 2), chosen, total)
        return score + self.iou_weight * value + self.offset_weight * moved + self.class_weight * (start + end)
