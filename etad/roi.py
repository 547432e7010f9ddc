"""1-D RoIAlign, and RoIAlign followed by linear layers as one product.

RoIAlign is linear in the features: pooled = W x, with W sparse (each bin reads a few columns). A linear layer L over the
flattened RoI is then sum_r W_r (x L_r): project the T columns once by every bin's slice of L, and let every anchor add up
the few projected rows that its bins read. For T = C = 128, R = 24, 495 anchors that is 0.6 GFLOP instead of 2.3, and
nothing of the size anchors x bins x channels is ever made or kept.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Bytes of projected columns made at a time: small enough for a CPU's cache, large enough to keep a GPU busy.
_CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 512 << 20}
_CHUNK_ANCHORS = {"cpu": 2048, "cuda": 1 << 17}


def _most_samples(tscale: int, bins: int) -> int:
    """The most samples that any anchor has near the map: bins * ceil(L / bins) over a length L, of which T + 2 lie there."""
    return tscale + bins + 2


@torch.library.custom_op("etad::roi_taps", mutates_args=())
def roi_taps(anchors: Tensor, tscale: int, bins: int, extend: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which columns every bin of every anchor reads, and with which weight, as one flat list ordered by anchor.

    anchors [M, 2] (start, end), fractions, any float. Returns anchor [N], bin [N], column [N] (int32) and weight [N]
    (float32), two taps a sample. Semantics of aligned=False, adaptive sampling; an extended length under one snippet
    becomes one, its start kept; samples outside [-1, T] count as zero. Source: METHOD 5.2.
    """
    start, end = anchors.detach().float().unbind(-1)
    margin = extend * (end - start)
    low = (start - margin) * tscale
    length = ((end + margin) * tscale - low).clamp_min(1.0)
    samples = (length / bins).ceil()
    step = length / (bins * samples)
    # Only samples near the map are listed (one more on either side, lest rounding lose any): a runaway anchor costs no more.
    first = ((-1.0 - low) / step - 1.5).ceil().clamp_min(0.0)
    last = torch.minimum(((tscale - low) / step + 0.5).floor(), bins * samples - 1.0)
    count = (last - first + 1.0).clamp_min(0.0).nan_to_num(0.0).long()  # an anchor that is not finite reads nothing
    owner = torch.repeat_interleave(count)
    shift = first - (count.cumsum(0) - count)
    table = torch.stack((low, step, shift, samples.reciprocal()))[:, owner]
    place = torch.arange(len(owner), device=anchors.device, dtype=torch.float32) + table[2] + 0.5
    x = table[0] + place * table[1]
    weight = torch.where((x >= -1.0) & (x <= tscale), table[3], 0.0)
    x = x.clamp(0.0, tscale - 1.0)
    left = x.floor()
    right_weight = (x - left) * weight
    taps = torch.stack((left, (left + 1.0).clamp_max(tscale - 1.0)), 1).int().view(-1)
    weights = torch.stack((weight - right_weight, right_weight), 1).view(-1)
    bin = (place * table[3]).int().clamp_max(bins - 1)
    return owner.int().repeat_interleave(2), bin.repeat_interleave(2), taps, weights


@roi_taps.register_fake
def _(anchors: Tensor, tscale: int, bins: int, extend: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    samples = len(anchors) * _most_samples(tscale, bins)
    index = anchors.new_empty(2 * samples, dtype=torch.int32)
    return index, torch.empty_like(index), torch.empty_like(index), anchors.new_empty(2 * samples, dtype=torch.float32)


def _bags(index: Tensor, bags: int) -> Tensor:
    """Offsets [bags + 1] of an ascending list of bag numbers."""
    return torch.searchsorted(index, torch.arange(bags + 1, device=index.device, dtype=index.dtype), out_int32=True)


def roi_align(features: Tensor, anchors: Tensor, bins: int, extend: float) -> Tensor:
    """1-D RoIAlign of features [B, C, T] on anchors [B, K, 2] (fractions) -> [B, K, C, bins]. Source: METHOD 5.2."""
    B, C, T = features.shape
    K = anchors.shape[1]
    owner, bin, column, weight = roi_taps(anchors.reshape(-1, 2), T, bins, extend)
    bag = owner * bins + bin
    row = torch.div(owner, K, rounding_mode="floor") * T + column
    table = features.transpose(1, 2).reshape(B * T, C)
    pooled = _gather(table, row, _bags(bag, B * K * bins), weight)
    return pooled.view(B, K, bins, C).transpose(2, 3)


def _gather(table: Tensor, row: Tensor, offsets: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of rows of table [n, O]; row [N] and weight [N] in the bags that offsets [bags + 1] mark."""
    return F.embedding_bag(
        row, table, offsets, mode="sum", per_sample_weights=weight.to(table.dtype), include_last_offset=True
    )


@torch.library.custom_op("etad::roi_reading", mutates_args=())
def roi_reading(anchors: Tensor, T: int, bins: int, extend: float) -> tuple[Tensor, Tensor, Tensor]:
    """Taps of anchors [b, K, 2] as entries (bag, row, weight): bag = head * b * K + anchor, row of the projected columns.

    The whole RoI's head reads all bins, the start's the first quarter, the end's the last; a column has bins * 3 / 2 rows.
    """
    b, K, _ = anchors.shape
    owner, bin, column, weight = roi_taps(anchors.reshape(-1, 2), T, bins, extend)
    row = (torch.div(owner, K, rounding_mode="floor") * T + column) * (bins + bins // 2) + bin
    quarter = bins // 4
    first, last = (bin < quarter).nonzero().squeeze(1), (bin >= bins - quarter).nonzero().squeeze(1)
    bag = torch.cat((owner, owner[first] + b * K, owner[last] + 2 * b * K))
    # start rows follow the whole's `bins` rows; end rows follow those: bin - (bins - quarter) + bins + quarter
    rows = torch.cat((row, row[first] + bins, row[last] + 2 * quarter))
    return bag, rows, torch.cat((weight, weight[first], weight[last]))


@roi_reading.register_fake
def _(anchors: Tensor, T: int, bins: int, extend: float) -> tuple[Tensor, Tensor, Tensor]:
    # two taps a sample; both ends' quarters together read at most half as many again
    entries = 3 * anchors.shape[0] * anchors.shape[1] * _most_samples(T, bins)
    index = anchors.new_empty(entries, dtype=torch.int32)
    return index, torch.empty_like(index), anchors.new_empty(entries, dtype=torch.float32)


def _chunks(x: Tensor, outputs: int, K: int) -> tuple[int, int]:
    """How many videos, and how many anchors of one, to take at a time."""
    kind = "cpu" if x.device.type == "cpu" else "cuda"
    count = _CHUNK_ANCHORS[kind]
    videos = _CHUNK_BYTES[kind] // (x.shape[1] * outputs * x.element_size())
    return (1 if count < K else max(1, min(videos, count // max(K, 1)))), count


class _RoILinear(torch.autograd.Function):
    """Keeps its output alone; the backward pass lists the taps again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchors: Tensor, weight: Tensor, bias: Tensor, bins: int, extend: float) -> Tensor:
        (B, T, C), K, (H, O) = x.shape, anchors.shape[1], bias.shape
        matrix, shift = weight.to(x.dtype).view(C, -1), bias.to(x.dtype).unsqueeze(1)
        out = x.new_empty(H, B * K, O)
        videos, count = _chunks(x, matrix.shape[1], K)
        buffer = x.new_empty(
            min(videos, B) * T, matrix.shape[1]
        )  # one for all chunks: fresh pages cost more than the product
        for v in range(0, B, videos):
            part_x = x[v : v + videos].reshape(-1, C)
            columns = torch.mm(part_x, matrix, out=buffer[: len(part_x)]).view(-1, O)
            for k in range(0, K, count):
                part = anchors[v : v + videos, k : k + count]
                n = part.shape[0] * part.shape[1]
                bag, row, w = roi_reading(part, T, bins, extend)
                read = _gather(columns, row, _bags(bag, H * n), w).view(H, n, O)
                out[:, v * K + k : v * K + k + n] = read.add_(shift).relu_()
        ctx.save_for_backward(x, anchors, weight, out)
        ctx.settings = bins, extend
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, anchors, weight, out = ctx.saved_tensors
        bins, extend = ctx.settings
        (B, T, C), K, (H, _, O) = x.shape, anchors.shape[1], out.shape
        matrix = weight.to(x.dtype).view(C, -1)
        grad_x, grad_weight = torch.empty_like(x), torch.zeros_like(weight)
        grad_bias = weight.new_zeros(H, O)
        videos, count = _chunks(x, matrix.shape[1], K)
        for v in range(0, B, videos):
            columns = x[v : v + videos].reshape(-1, C)
            grad_columns = x.new_zeros(0)
            for k in range(0, max(K, 1), count):
                part = anchors[v : v + videos, k : k + count]
                n = part.shape[0] * part.shape[1]
                rows = slice(v * K + k, v * K + k + n)
                g = torch.where(out[:, rows] > 0, grad[:, rows], 0.0).to(x.dtype)
                grad_bias += g.sum(1, dtype=grad_bias.dtype)
                bag, row, w = roi_reading(part, T, bins, extend)
                row, order = torch.sort(row, stable=True)
                total = _bags(row, len(columns) * matrix.shape[1] // O)
                read = _gather(g.view(-1, O), bag[order], total, w[order])
                grad_columns = grad_columns.add_(read) if k else read
            grad_columns = grad_columns.view(len(columns), -1)
            torch.mm(grad_columns, matrix.t(), out=grad_x[v : v + videos].view(-1, C))
            if x.dtype == weight.dtype:
                grad_weight.view(C, -1).addmm_(columns.t(), grad_columns)
            else:
                grad_weight.view(C, -1).add_(columns.t() @ grad_columns)
        return grad_x, None, grad_weight, grad_bias, None, None


def roi_linear(x: Tensor, anchors: Tensor, weight: Tensor, bias: Tensor, bins: int, extend: float) -> Tensor:
    """relu(linear layers over RoIs): the whole RoI, its first quarter and its last, each through its own layer.

    x [B, T, C]; anchors [B, K, 2], fractions, without gradient; weight [C, bins * 3 / 2, O]: the slices of the whole's
    layer by bin, then the first quarter's, then the last's; bias [3, O]. Returns [3, B * K, O] in x's type.
    Source: METHOD 5.2 to 5.4. Differs: the order of the sums.
    """
    return _RoILinear.apply(x.contiguous(), anchors, weight, bias, bins, extend)
