"""What each anchor is. Ours: the paper has its detections labelled from outside."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def anchor_means(features: Tensor, anchors: Tensor) -> Tensor:
    """Mean of features [B, C, T] over each anchor [B, K, 2] (fractions) -> [B, K, C], columns cut by an end counted in part.

    Outside [0, 1] nothing is added; an anchor of less than a column is divided by a whole one.
    """
    T = features.shape[2]
    total = F.pad(features.transpose(1, 2).cumsum(1), (0, 0, 1, 0))  # [B, T + 1, C], the sum before each column
    at = (anchors * T).nan_to_num(0.0).clamp(0, T)
    low = at.floor().clamp_max(T - 1)
    index = low.long().flatten(1).unsqueeze(-1).expand(-1, -1, features.shape[1])
    share = (at - low).flatten(1).unsqueeze(-1)
    start, end = total.gather(1, index).lerp(total.gather(1, index + 1), share).unflatten(1, (-1, 2)).unbind(2)
    return (end - start) / (at[..., 1] - at[..., 0]).clamp_min(1.0).unsqueeze(-1)


class ClassHead(nn.Module):
    """One layer over an anchor's RoI and over the mean of the detector's input there.

    Encoders of this field are trained to classify, so their features tell classes before any layer has learnt to: in the
    few epochs of a schedule the RoI alone, and more so three layers behind it as the other heads have, hardly learn them.
    """

    def __init__(self, *, roi_width: int, channels: int, classes: int):
        super().__init__()
        self.norm = nn.LayerNorm(roi_width + channels)
        self.linear = nn.Linear(roi_width + channels, classes + 1)

    def forward(self, rois: Tensor, features: Tensor, anchors: Tensor) -> Tensor:
        """rois [B * K, roi_width]; features [B, channels, T]; anchors [B, K, 2], fractions -> logits [B, K, classes + 1]."""
        means = anchor_means(features.float(), anchors)
        logits: Tensor = self.linear(self.norm(torch.cat((rois.float().view(*means.shape[:2], -1), means), -1)))
        return logits.float()
