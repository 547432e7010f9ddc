"""One stage of the cascade: its features, its RoIs and its five small heads. Source: METHOD 5."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from etad.model.class_head import ClassHead
from etad.model.grouped import GroupedConv1d
from etad.roi import roi_linear


@dataclass(frozen=True)
class StageOutput:
    """anchors [B, K, 2] taken in; iou [B, K, 2], both scores in (0, 1); offsets [B, K, 6]: start, end, centre, width
    (in anchor lengths, the width as a logarithm), and the probability that the anchor starts and ends at a boundary;
    classes [B, K, C + 1], logits of each class and last of the background, of a stage that has a class head."""

    anchors: Tensor
    iou: Tensor
    offsets: Tensor
    classes: Tensor | None = None


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in (inputs, hidden, hidden):
        layers += [nn.Linear(size, hidden), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(hidden, outputs))


class Stage(nn.Module):
    """Scores anchors and says how to move them; with a class head, what they are."""

    def __init__(
        self,
        *,
        width: int,
        groups: int,
        roi_width: int,
        head_width: int,
        bins: int,
        extend: float,
        classes: ClassHead | None = None,
    ):
        super().__init__()
        self.bins, self.extend = bins, extend
        self.enhance = GroupedConv1d(width, width, 3, padding=1, groups=groups)
        self.reduce = nn.Conv1d(width, width // 2, 3, padding=1)
        self.roi_weight = nn.Parameter(torch.empty(width // 2, bins * 3 // 2, roi_width))
        self.roi_bias = nn.Parameter(torch.zeros(3, roi_width))
        self.iou = _mlp(roi_width, head_width, 2)
        self.boundary = _mlp(roi_width, head_width, 2)
        self.centre = _mlp(roi_width, head_width, 2)
        self.start = _mlp(roi_width, head_width, 1)
        self.end = _mlp(roi_width, head_width, 1)
        self.classes = classes

    def reset_roi(self) -> None:
        """Xavier uniform, each of the three layers by its own fan-in."""
        C, _, O = self.roi_weight.shape
        for layer in self.roi_weight.split((self.bins, self.bins // 4, self.bins // 4), 1):
            bound = math.sqrt(6.0 / (C * layer.shape[1] + O))
            nn.init.uniform_(layer, -bound, bound)

    def forward(self, features: Tensor, anchors: Tensor, given: Tensor) -> StageOutput:
        """features [B, D, T] of the feature module, which was given [B, C, T]; anchors [B, K, 2], fractions, no gradient."""
        x = self.reduce(features + self.enhance(features).relu()).relu_().transpose(1, 2)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        whole, first, last = roi_linear(x, anchors, self.roi_weight, self.roi_bias, self.bins, self.extend)
        offsets = (self.start(first), self.end(last), self.centre(whole) / 2, self.boundary(whole).sigmoid())
        shape = anchors.shape[:2]
        return StageOutput(
            anchors,
            self.iou(whole).sigmoid().float().view(*shape, 2),
            torch.cat(offsets, 1).float().view(*shape, 6),
            None if self.classes is None else self.classes(whole, given, anchors),
        )
