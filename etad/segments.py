"""Geometry of segments: tIoU, IoA, and offsets between an anchor and a segment. One copy each."""

import torch
from torch import Tensor

EPSILON = 1e-6  # lengths are clamped to it, a logarithm's argument is raised by it


def tiou(a: Tensor, b: Tensor) -> Tensor:
    """Temporal IoU of segments [..., 2] (start, end), broadcast; 0 where both are empty."""
    overlap = (torch.minimum(a[..., 1], b[..., 1]) - torch.maximum(a[..., 0], b[..., 0])).clamp_min(0.0)
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - overlap
    return torch.where(union > 0, overlap / union.clamp_min(torch.finfo(union.dtype).tiny), 0.0)


def ioa(a: Tensor, b: Tensor, length: float) -> Tensor:
    """Intersection of a and b [..., 2] over the length of a, given since all are equally long, plus 1e-6."""
    overlap = (torch.minimum(a[..., 1], b[..., 1]) - torch.maximum(a[..., 0], b[..., 0])).clamp_min(0.0)
    return overlap / (length + EPSILON)


def encode(anchors: Tensor, segments: Tensor) -> Tensor:
    """Offsets [..., 4] (start, end, centre, width) that lead from anchors to segments [..., 2]. Source: METHOD 6."""
    length = (anchors[..., 1] - anchors[..., 0]).clamp_min(EPSILON)
    ends = (segments - anchors) / length.unsqueeze(-1)
    target = (segments[..., 1] - segments[..., 0]).clamp_min(EPSILON)
    width = torch.log(target / length + EPSILON)
    return torch.stack((ends[..., 0], ends[..., 1], ends.mean(-1), width), -1)


def refine(anchors: Tensor, offsets: Tensor) -> Tensor:
    """Anchors [..., 2] moved by offsets [..., 4 or more] not clipped: the mean of both parametrisations.

    Source: METHOD 5.
    """
    start, end = anchors.unbind(-1)
    length, centre = end - start, (start + end) / 2
    by_ends = torch.stack((start + length * offsets[..., 0], end + length * offsets[..., 1]), -1)
    moved, half = centre + length * offsets[..., 2], length * offsets[..., 3].exp() / 2
    return (by_ends + torch.stack((moved - half, moved + half), -1)) / 2
