"""Losses: pure functions of predictions, targets and uniform draws, pooled over the batch. Source: METHOD 7.

Each takes `total`, which sums a vector of counts over all processes (the identity in one process). A loss is this
process's sum over the count of all: summed over the processes it is the loss of the whole batch.
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
    return total(torch.stack([mask.sum(dtype=torch.float64) for mask in masks])).unbind()


def _halves(positive: Tensor, total: Total) -> Tensor:
    """Weights that sum to half over the positives and to half over the others; to one where the other half is empty."""
    P, N = _counts(total, positive, ~positive)
    share = torch.where((P > 0) & (N > 0), 0.5, 1.0)
    return torch.where(positive, share / P.clamp_min(1), share / N.clamp_min(1))


def balanced_bce(p: Tensor, positive: Tensor, total: Total) -> Tensor:
    """Half the mean over positives plus half the mean over negatives; one class empty: the mean over the other."""
    return (_bce(p, positive) * _halves(positive, total).to(p.dtype)).sum()


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
    none = P == 0
    kept = torch.where(none, 1.0, _kept(draw, ~positive, P / N, released))
    (count,) = _counts(total, kept + positive)
    loss = torch.where(positive, _bce(p, positive), 0.0) + kept * _bce(p, torch.zeros_like(positive))
    return loss.sum() / count.clamp_min(1).to(loss.dtype)


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
    return ((p - target).square() * weight).sum() / count.clamp_min(1).to(p.dtype)


def offset_loss(offsets: Tensor, target: Tensor, chosen: Tensor, total: Total) -> Tensor:
    """The sum over start, end, centre and width [..., 4] of the smooth L1 mean over the chosen anchors; none: 0."""
    (count,) = _counts(total, chosen)
    loss = F.smooth_l1_loss(offsets, target, reduction="none").sum(-1)
    return torch.where(chosen, loss, 0.0).sum() / count.clamp_min(1).to(loss.dtype)


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
        logits = stage.classes.float()
        positive = tiou(stage.anchors, matched) > self.positive
        target = torch.where(positive, labels, logits.shape[-1] - 1)
        loss = F.cross_entropy(logits.transpose(1, 2), target, reduction="none")
        if not self.focal:
            return self.weight * (loss * _halves(positive, total).to(loss.dtype)).sum()
        (count,) = _counts(total, positive)
        hard = (1.0 - (-loss).exp()).square()
        return self.weight * (hard * loss).sum() / count.clamp_min(1).to(loss.dtype)


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
        for s, stage in enumerate(out.stages):
            parts[f"stage{s + 1}"] = self.stage(stage, self.thresholds[s], matched, boundary, draws[s], total)
        if self.classes is not None:
            assert labels is not None
            parts["classes"] = self.classes(out.stages[-1], matched, labels, total)
        return {**parts, "loss": torch.stack(list(parts.values())).sum()}

    def boundary(self, p: Tensor, target: Tensor, total: Total) -> Tensor:
        start, end = (balanced_bce(p[:, k], target[:, k] > self.boundary_positive, total) for k in (0, 1))
        return start + end

    def stage(
        self, stage: StageOutput, threshold: float, matched: Tensor, boundary: Tensor, draws: Tensor, total: Total
    ) -> Tensor:
        anchors, iou, offsets = stage.anchors, stage.iou.float(), stage.offsets.float()
        overlap = tiou(anchors, matched)
        at = boundary_at(boundary, anchors) > self.boundary_positive
        score = sampled_bce(iou[..., 0], overlap > self.iou_positive, draws[0], total, self.released)
        value = sampled_l2(iou[..., 1], overlap, self.iou_bands, draws[1], total, self.released)
        moved = offset_loss(offsets[..., :4], encode(anchors, matched), overlap > threshold, total)
        start, end = (sampled_bce(offsets[..., 4 + k], at[..., k], draws[2 + k], total, self.released) for k in (0, 1))
        return score + self.iou_weight * value + self.offset_weight * moved + self.class_weight * (start + end)
