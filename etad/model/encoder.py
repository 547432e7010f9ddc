"""Clip encoders: R(2+1)D of any depth and width, and the weights that others trained. Source: METHOD 1, 8."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etad.registry import ENCODERS
from etad.weights import read_tensors

Variant = Literal["tsp", "torchvision"]


def middle_planes(inputs: int, outputs: int) -> int:
    """Planes between the two halves of a factored 3 x 3 x 3 convolution, which so has as many weights as the whole one."""
    return (27 * inputs * outputs) // (9 * inputs + 3 * outputs)


class FlatConv(nn.Conv3d):
    """A convolution over space alone or time alone. With channels last it is one of two dimensions, on the same memory.

    On a processor that is two to four times as fast; and oneDNN's bfloat16 convolution over two frames has a weight
    gradient that is wrong (torch 2.13), which this goes around.
    """

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not x.is_contiguous(memory_format=torch.channels_last_3d):
            return super()._conv_forward(x, weight, bias)
        half = tuple(size // 2 for size in self.kernel_size)  # what every one of them is padded with
        if half[0] == 0:  # [N, C, L, H, W] -> [N x L, C, H, W]
            flat = x.transpose(1, 2).flatten(0, 1)
            y = F.conv2d(flat, weight.squeeze(2), bias, stride=self.stride[1:], padding=half[1:])
            return y.unflatten(0, (-1, x.shape[2])).transpose(1, 2)
        # [N, C, L, H, W] -> [N, C, L, H x W]
        y = F.conv2d(x.flatten(3), weight.squeeze(4), bias, stride=(self.stride[0], 1), padding=(half[0], 0))
        return y.unflatten(3, x.shape[3:])


def normed(conv: Any, norm: Any, x: Tensor) -> Tensor:
    """norm(conv(x)); where nothing is learnt and the statistics stand, as one convolution, without the copy between."""
    learning = x.requires_grad or conv.weight.requires_grad or norm.weight.requires_grad
    if norm.training or (torch.is_grad_enabled() and learning):
        return norm(conv(x))
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return conv._conv_forward(x, conv.weight * scale.view(-1, 1, 1, 1, 1), norm.bias - norm.running_mean * scale)


class Factored(nn.Sequential):
    """A convolution over space, one of `kernel` x `kernel`, then one over time."""

    def __init__(self, inputs: int, middle: int, outputs: int, *, kernel: int = 3, stride: int = 1, later: int = 1):
        super().__init__(
            FlatConv(
                inputs,
                middle,
                (1, kernel, kernel),
                stride=(1, stride, stride),
                padding=(0, kernel // 2, kernel // 2),
                bias=False,
            ),
            nn.BatchNorm3d(middle),
            nn.ReLU(inplace=True),
            FlatConv(middle, outputs, (3, 1, 1), stride=(later, 1, 1), padding=(1, 0, 0), bias=False),
        )

    def normed(self, norm: nn.Module, x: Tensor) -> Tensor:
        return normed(self[3], norm, normed(self[0], self[1], x).relu_())


class Stem(Factored):
    """The first convolution: over 7 x 7 pixels, at half the resolution. Its norm stands behind it, as in the originals."""

    def __init__(self, outputs: int):
        super().__init__(
            3, 45 * outputs // 64, outputs, kernel=7, stride=2
        )  # 45 in the originals, whatever the formula says
        self.append(nn.BatchNorm3d(outputs))
        self.append(nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.normed(self[4], x).relu_()


class Block(nn.Module):
    """Two factored convolutions with a shortcut around them; names as torchvision's, so that checkpoints fit."""

    def __init__(self, inputs: int, outputs: int, stride: int, variant: Variant):
        super().__init__()
        first = middle_planes(inputs, outputs)
        second = first if variant == "torchvision" else middle_planes(outputs, outputs)
        self.conv1 = nn.Sequential(
            Factored(inputs, first, outputs, stride=stride, later=stride),
            nn.BatchNorm3d(outputs),
            nn.ReLU(inplace=True),
        )
        self.conv2 = nn.Sequential(Factored(outputs, second, outputs), nn.BatchNorm3d(outputs))
        self.downsample = (
            nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm3d(outputs))
            if stride > 1 or inputs != outputs
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else normed(self.downsample[0], self.downsample[1], x)
        first, second = cast(Factored, self.conv1[0]), cast(Factored, self.conv2[0])
        x = first.normed(self.conv1[1], x).relu_()
        return second.normed(self.conv2[1], x).add_(shortcut).relu_()


class R2Plus1D(nn.Module):
    """Clips [N, 3, L, H, W] -> [N, C], the mean over time and space; C is the last of `planes`.

    Source: Tran et al., CVPR 2018, as TSP trains it (every convolution's middle planes its own, batch-norm eps 1e-3);
    `torchvision`: a block's second convolution has the middle planes of its first, eps 1e-5.
    """

    def __init__(self, *, layers: Sequence[int], planes: Sequence[int], variant: Variant):
        super().__init__()
        if len(layers) != 4 or len(planes) != 4:
            raise ValueError(
                f"R(2+1)D has four stages: layers={list(layers)} and planes={list(planes)} need four numbers"
            )
        self.stem = Stem(planes[0])
        for s, (depth, inputs, outputs) in enumerate(zip(layers, (planes[0], *planes), planes, strict=False)):
            blocks = [Block(inputs, outputs, 1 if s == 0 else 2, variant)]
            blocks += [Block(outputs, outputs, 1, variant) for _ in range(depth - 1)]
            setattr(self, f"layer{s + 1}", nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm3d) and variant == "tsp":
                module.eps = 1e-3

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        """From the input on: the stem, then four stages."""
        return tuple(self.children())

    def forward(self, clips: Tensor) -> Tensor:
        if clips.device.type == "cpu" and type(clips) is Tensor:  # a fake one stands for a GPU's, which goes without
            clips = clips.contiguous(memory_format=torch.channels_last_3d)
        for stage in self.stages:
            clips = stage(clips)
        return clips.mean((2, 3, 4))


@ENCODERS.register_module(name="r2plus1d")
def r2plus1d(
    *,
    layers: Sequence[int] = (3, 4, 6, 3),
    planes: Sequence[int] = (64, 128, 256, 512),
    variant: Variant = "tsp",
) -> nn.Module:
    """R(2+1)D, by default the 34 layers that the paper trains: 63.5 M parameters, 512 channels."""
    if variant not in ("tsp", "torchvision"):
        raise ValueError(f"encoder.network.args.variant is tsp or torchvision, not {variant!r}")
    return R2Plus1D(layers=layers, planes=planes, variant=variant)


@ENCODERS.register_module(name="r2plus1d-small")
def r2plus1d_small(*, planes: Sequence[int] = (16, 32, 64, 128)) -> nn.Module:
    """One block a stage and a quarter of the width: for laptops and tests."""
    return R2Plus1D(layers=(1, 1, 1, 1), planes=planes, variant="tsp")


def _state_dict(held: object, path: Path) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint: itself, or what it holds under `state_dict` (ours, the authors') or `model` (TSP)."""
    for key in ("state_dict", "model"):
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
    if not isinstance(held, Mapping) or not all(isinstance(v, Tensor) for v in held.values()):
        raise ValueError(f"{path}: not a checkpoint: no state_dict, no model, and not itself names of tensors")
    return held


def load_encoder(network: nn.Module, path: Path) -> None:
    """Loads an encoder's weights from a checkpoint of TSP, of the authors, of torchvision or of this suite.

    All of these name the tensors as torchvision does, behind a prefix of their own (`features.`,
    `feature_extractor.model.backbone.`, none, `encoder.network.`); whatever else they hold is left alone.
    Raises ValueError naming the file and the first tensors that do not fit.
    """
    held, wanted = _state_dict(read_tensors(path), path), network.state_dict()
    needed = [name for name in wanted if not name.endswith("num_batches_tracked")]  # older files lack these counts
    first = needed[0]
    prefixes = [name.removesuffix(first) for name in held if name == first or name.endswith(f".{first}")]
    if len(prefixes) != 1:
        raise ValueError(f"{path}: holds {len(prefixes) or 'no'} encoders of this kind (tensors named ...{first})")
    prefix = prefixes[0]
    wrong = [
        f"{name} is {tuple(held[prefix + name].shape)}, not {tuple(wanted[name].shape)}"
        if prefix + name in held
        else f"{name} is missing"
        for name in needed
        if prefix + name not in held or held[prefix + name].shape != wanted[name].shape
    ]
    if wrong:
        raise ValueError(
            f"{path}: not a checkpoint of this encoder: {'; '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''}; "
            "check encoder.network (R(2+1)D comes in the variants tsp and torchvision)"
        )
    network.load_state_dict({name: held.get(prefix + name, value) for name, value in wanted.items()})
