"""The detector: feature module, boundary head, cascade."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from etad.model.head import Stage, StageOutput
from etad.segments import refine

__all__ = ["Detector", "DetectorOutput", "StageOutput"]


@dataclass(frozen=True)
class DetectorOutput:
    boundary: Tensor  # [B, 2, T], startness and endness
    stages: tuple[StageOutput, ...]

    def proposals(self) -> tuple[Tensor, Tensor]:
        """Refined segments [B, K, 2] (fractions, not clipped) and both IoU scores [B, K, 2], averaged over the stages."""
        refined = torch.stack([refine(s.anchors, s.offsets) for s in self.stages]).mean(0)
        return refined, torch.stack([s.iou for s in self.stages]).mean(0)

    def classes(self) -> Tensor | None:
        """Probability of each class [B, K, C] by the last stage, the background's left out; None: no class head."""
        logits = self.stages[-1].classes
        return None if logits is None else logits.softmax(-1)[..., :-1]


class Detector(nn.Module):
    """Features and anchors in, scored and refined proposals out. Source: METHOD 2, 3, 5."""

    def __init__(self, *, features: nn.Module, boundary: nn.Module, stages: list[Stage]):
        super().__init__()
        self.features, self.boundary = features, boundary
        self.stages = nn.ModuleList(stages)
        head = stages[-1].classes
        self.class_count = head.linear.out_features - 1 if head else 0  # classes of its own; 0: it has no class head
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, Stage):
                module.reset_roi()

    def forward(self, features: Tensor, anchors: Tensor) -> DetectorOutput:
        """features [B, C, T]; anchors [B, K, 2], fractions."""
        x = self.features(features)
        return DetectorOutput(self.boundary(x).float(), self.cascade(x, anchors, features))

    def cascade(self, x: Tensor, anchors: Tensor, features: Tensor) -> tuple[StageOutput, ...]:
        """The stages over the feature module's output x [B, D, T]; features [B, C, T] are what it was given."""
        stages = []
        for stage in self.stages:
            out = stage(x, anchors, features)
            stages.append(out)
            anchors = refine(anchors, out.offsets.detach())
        return tuple(stages)
