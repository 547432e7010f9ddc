"""Start and end probability of every snippet. Source: METHOD 3."""

from torch import Tensor, nn

from etad.model.grouped import GroupedConv1d


class BoundaryHead(nn.Sequential):
    """[B, D, T] -> [B, 2, T] in (0, 1): startness and endness."""

    def __init__(self, *, width: int, groups: int):
        super().__init__(
            GroupedConv1d(width, width, 3, padding=1, groups=groups), nn.ReLU(inplace=True), nn.Conv1d(width, 2, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).sigmoid()
