"""The feature module: temporal aggregation over snippets. Source: METHOD 2."""

import torch
from torch import Tensor, nn

from etad.registry import AGGREGATORS


class Lstm(nn.Module):
    """Two one-layer LSTMs, the second over reversed time: [B, D, T] -> (forward, backward context), each [B, D, T]."""

    def __init__(self, width: int):
        super().__init__()
        self.forward_lstm = nn.LSTM(width, width, batch_first=True)
        self.backward_lstm = nn.LSTM(width, width, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        steps = x.transpose(1, 2)
        ahead, _ = self.forward_lstm(steps)
        back, _ = self.backward_lstm(steps.flip(1))
        return ahead.transpose(1, 2), back.flip(1).transpose(1, 2)


class Direct(nn.Module):
    """No aggregation: the convolutions of both branches read the features as they are."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@AGGREGATORS.register_module(name="lstm")
def lstm(width: int) -> nn.Module:
    """The paper's: a forward and a backward LSTM."""
    return Lstm(width)


@AGGREGATORS.register_module(name="none")
def none(width: int) -> nn.Module:
    """Without LSTMs; the branches' convolutions stay."""
    return Direct()


class ConvNormRelu(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, kernel: int, *, groups: int, norm_groups: int):
        super().__init__(
            nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False),
            nn.GroupNorm(norm_groups, outputs),
            nn.ReLU(inplace=True),
        )


class FeatureModule(nn.Module):
    """[B, C, T] -> [B, D, T] by three branches: forward context, direct, backward context."""

    def __init__(self, *, channels: int, width: int, groups: int, norm_groups: int, aggregator: nn.Module):
        super().__init__()
        self.project = ConvNormRelu(channels, width, 3, groups=groups, norm_groups=norm_groups)
        self.aggregator = aggregator
        self.ahead = ConvNormRelu(width, width // 2, 3, groups=groups, norm_groups=norm_groups)
        self.direct = ConvNormRelu(width, width, 3, groups=groups, norm_groups=norm_groups)
        self.back = ConvNormRelu(width, width // 2, 3, groups=groups, norm_groups=norm_groups)
        self.merge = ConvNormRelu(2 * width, width, 1, groups=groups, norm_groups=norm_groups)

    def forward(self, features: Tensor) -> Tensor:
        x = self.project(features)
        ahead, back = self.aggregator(x)
        return self.merge(torch.cat((self.ahead(ahead), self.direct(x), self.back(back)), 1))
