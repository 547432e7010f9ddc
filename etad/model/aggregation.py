"""The feature module: temporal aggregation over snippets. Source: METHOD 2."""

import math

import torch
from torch import Tensor, nn

from etad.model.grouped import GroupedConv1d
from etad.registry import AGGREGATORS


class Recurrent(nn.Module):
    """Two one-layer LSTMs or GRUs, the second over reversed time: [B, D, T] -> (forward, backward context), each [B, D, T]."""

    def __init__(self, width: int, layer: type[nn.LSTM | nn.GRU]):
        super().__init__()
        kind = layer.__name__.lower()
        self.names = f"forward_{kind}", f"backward_{kind}"  # as in the authors' checkpoints
        for name in self.names:
            self.add_module(name, layer(width, width, batch_first=True))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        steps = x.transpose(1, 2)
        forward, backward = (self.get_submodule(name) for name in self.names)
        ahead, _ = forward(steps)
        back, _ = backward(steps.flip(1))
        return ahead.transpose(1, 2), back.flip(1).transpose(1, 2)


class Direct(nn.Module):
    """No aggregation: the convolutions of both branches read the features as they are."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class ForwardLstm(nn.Module):
    """One LSTM over forward time; the backward branch reads the features as they are. Ours."""

    def __init__(self, width: int):
        super().__init__()
        self.forward_lstm = nn.LSTM(width, width, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        ahead, _ = self.forward_lstm(x.transpose(1, 2))
        return ahead.transpose(1, 2), x


class Dilated(nn.Module):
    """Residual convolutions of three columns, each twice as far apart as those before; both branches read them. Ours."""

    def __init__(self, width: int, layers: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(width, width, 3, padding=2**n, dilation=2**n) for n in range(layers))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.layers:
            x = x + layer(x).relu()
        return x, x


class Attention(nn.Module):
    """Transformer layers over all columns, which carry their place as sines; both branches read them. Ours."""

    def __init__(self, width: int, layers: int, heads: int):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(layers)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        steps = x.transpose(1, 2)
        steps = steps + _places(steps.shape[1], steps.shape[2], steps.device).to(steps.dtype)
        for layer in self.layers:
            steps = layer(steps)
        return steps.transpose(1, 2), steps.transpose(1, 2)


def _places(count: int, width: int, device: torch.device) -> Tensor:
    """[T, D]: sines and cosines of each column's number. Source: Vaswani et al., 2017, section 3.5."""
    number = torch.arange(count, device=device).unsqueeze(1)
    angle = number * torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000.0) / width))
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(1)[:, :width]


@AGGREGATORS.register_module(name="lstm")
def lstm(width: int) -> nn.Module:
    """The paper's: a forward and a backward LSTM."""
    return Recurrent(width, nn.LSTM)


@AGGREGATORS.register_module(name="lstm-forward")
def lstm_forward(width: int) -> nn.Module:
    """The forward LSTM alone."""
    return ForwardLstm(width)


@AGGREGATORS.register_module(name="gru")
def gru(width: int) -> nn.Module:
    """GRUs in the place of the LSTMs."""
    return Recurrent(width, nn.GRU)


@AGGREGATORS.register_module(name="dilated")
def dilated(width: int, *, layers: int = 5) -> nn.Module:
    """Dilated convolutions; five see 63 columns, with about the parameters of the two LSTMs."""
    return Dilated(width, layers)


@AGGREGATORS.register_module(name="attention")
def attention(width: int, *, layers: int = 2, heads: int = 4) -> nn.Module:
    """Self-attention over all columns, with about the parameters of the two LSTMs."""
    return Attention(width, layers, heads)


@AGGREGATORS.register_module(name="none")
def none(width: int) -> nn.Module:
    """Without LSTMs; the branches' convolutions stay."""
    return Direct()


class ConvNormRelu(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, kernel: int, *, groups: int, norm_groups: int):
        super().__init__(
            GroupedConv1d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False),
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
