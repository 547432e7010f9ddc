"""What the detector should have said. Source: METHOD 6."""

import torch
from torch import Tensor

from etad.segments import ioa, tiou


def boundary_targets(segments: Tensor, present: Tensor, tscale: int) -> Tensor:
    """Startness and endness [B, 2, T] in [0, 1) of segments [B, N, 2] (fractions), present [B, N] marking the real ones.

    A boundary is an interval 3 / T long; a snippet's value is the largest IoA with any of them.
    """
    left = torch.arange(tscale, device=segments.device, dtype=segments.dtype) / tscale
    snippets = torch.stack((left, left + 1 / tscale), -1)
    boundary = torch.stack((segments - 1.5 / tscale, segments + 1.5 / tscale), -1)  # [B, N, 2 (start, end), 2]
    overlap = ioa(snippets, boundary.unsqueeze(-2), 1 / tscale)  # [B, N, 2, T]
    return torch.where(present[:, :, None, None], overlap, 0.0).amax(1)


def match(anchors: Tensor, segments: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """The segment [B, K, 2] of largest tIoU with each anchor [B, K, 2], and which of the row's N it is [B, K].

    On equal tIoU the first in annotation order.
    """
    overlap = tiou(anchors.unsqueeze(2), segments.unsqueeze(1))
    best = torch.where(present.unsqueeze(1), overlap, -1.0).argmax(-1)
    return segments.gather(1, best.unsqueeze(-1).expand(-1, -1, 2)), best


def boundary_at(boundary: Tensor, anchors: Tensor) -> Tensor:
    """Startness at every anchor's start and endness at its end, [..., B, K, 2], of boundary [B, 2, T]."""
    T = boundary.shape[-1]
    snippet = (anchors * T).floor().clamp(0, T - 1).nan_to_num(0.0).long()  # a lost anchor must reach the loss's check
    every = boundary.expand(*anchors.shape[:-3], -1, -1, -1)
    return every.gather(-1, snippet.transpose(-2, -1)).transpose(-2, -1)
