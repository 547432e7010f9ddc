"""1-D RoIAlign, and RoIAlign followed by linear layers as one product.

RoIAlign is linear in the features: pooled = W x, with W sparse (each bin reads a few columns). A linear layer L over the
flattened RoI is then sum_r W_r (x L_r): project the T columns once by every bin's slice of L, and let every anchor add up
the few projected rows that its bins read. For T = C = 128, R = 24, 495 anchors that is 0.6 GFLOP instead of 2.3, and
nothing of the size anchors x bins x channels is ever made or kept. A GPU multiplies so much faster than it gathers that
there W is a dense matrix, and the layers multiply what it pools.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from etad.taps import lay_bins, list_taps, most_taps, weigh_columns

_CHUNK_BYTES = 10 << 20  # of projected columns made at a time: what fits into a CPU's cache
_CHUNK_ANCHORS = 2048
_CHUNK_WEIGHTS = 1 << 26  # of dense ones, made at a time on a GPU


def _gather(table: Tensor, count: Tensor, row: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of rows of table [n, O]: the first count[0] of row [N] and weight [N], the next count[1] ..."""
    offsets = F.pad(count.cumsum(0, dtype=row.dtype), (1, 0))
    return F.embedding_bag(
        row, table, offsets, mode="sum", per_sample_weights=weight.to(table.dtype), include_last_offset=True
    )


def roi_align(features: Tensor, anchors: Tensor, bins: int, extend: float) -> Tensor:
    """1-D RoIAlign of features [B, C, T] on anchors [B, K, 2] (fractions) -> [B, K, C, bins]. Source: METHOD 5.2."""
    B, C, T = features.shape
    K = anchors.shape[1]
    laid = lay_bins(anchors.reshape(-1, 2), T, bins, extend)
    bin, column, weight = list_taps(laid, int(laid.columns.sum()))
    row = torch.div(bin, K * bins, rounding_mode="floor") * T + column
    table = features.transpose(1, 2).reshape(B * T, C)
    return _gather(table, laid.columns.flatten(), row, weight).view(B, K, bins, C).transpose(2, 3)


@torch.library.custom_op("etad::roi_reading", mutates_args=())
def roi_reading(anchors: Tensor, T: int, bins: int, extend: float) -> tuple[Tensor, Tensor, Tensor]:
    """What three layers over anchors [b, K, 2] read: the whole RoIs', then their first quarters', then their last ones'.

    Returns count [3 * b * K], each anchor's taps for each layer, and of the taps row [N] (both int32) and weight [N]
    (float32). A projected column has bins * 3 / 2 rows: for the whole's bins, the first quarter's, the last quarter's.
    """
    b, K, _ = anchors.shape
    rows, quarter = bins + bins // 2, bins // 4
    laid = lay_bins(anchors.reshape(-1, 2), T, bins, extend)
    layers = laid.columns, laid.columns[:, :quarter], laid.columns[:, bins - quarter :]
    count = torch.stack([columns.sum(1, dtype=torch.int32) for columns in layers])
    whole, first, last = count.sum(1).tolist()
    bin, column, weight = list_taps(laid, whole)
    numbers = torch.arange(max(whole, b, bins), dtype=torch.int32, device=anchors.device)
    base = (numbers[:b, None, None] * (T * rows) + numbers[:bins]).expand(b, K, bins).reshape(-1)
    row = column.mul_(rows).add_(base.index_select(0, bin))
    # where among the whole's taps each anchor's first and last quarter lie
    stop = count.cumsum(1, dtype=torch.int32)
    begin = stop - count
    firsts = torch.repeat_interleave(begin[0] - begin[1], count[1], output_size=first).add_(numbers[:first])
    lasts = torch.repeat_interleave(stop[0] - stop[2], count[2], output_size=last).add_(numbers[:last])
    row = torch.cat((row, row.index_select(0, firsts) + bins, row.index_select(0, lasts) + 2 * quarter))
    return count.flatten(), row, torch.cat((weight, *(weight.index_select(0, part) for part in (firsts, lasts))))


@roi_reading.register_fake
def _(anchors: Tensor, T: int, bins: int, extend: float) -> tuple[Tensor, Tensor, Tensor]:
    b, K, _ = anchors.shape
    taps = b * K * most_taps(T, bins) * 3 // 2  # of an anchor inside its video both quarters read half as much again
    count = anchors.new_empty(3 * b * K, dtype=torch.int32)
    return count, count.new_empty(taps), anchors.new_empty(taps, dtype=torch.float32)


@torch.library.custom_op("etad::roi_readers", mutates_args=())
def roi_readers(anchors: Tensor, T: int, bins: int, extend: float) -> tuple[Tensor, Tensor, Tensor]:
    """roi_reading the other way round: which layers over which anchors read a projected row.

    Returns count [b * T * rows], and of the taps, row after row, reader [N] (int32, layer * b * K + anchor) and weight [N].
    """
    count, row, weight = roi_reading(anchors, T, bins, extend)
    reader = torch.repeat_interleave(count, output_size=len(row))
    order = row.argsort(stable=True)
    readers = row.bincount(minlength=anchors.shape[0] * T * (bins + bins // 2))
    return readers, reader.index_select(0, order), weight.index_select(0, order)


@roi_readers.register_fake
def _(anchors: Tensor, T: int, bins: int, extend: float) -> tuple[Tensor, Tensor, Tensor]:
    _, row, weight = roi_reading(anchors, T, bins, extend)
    return anchors.new_empty(anchors.shape[0] * T * (bins + bins // 2), dtype=torch.int64), row, weight


def _chunks(x: Tensor, outputs: int, K: int) -> tuple[int, int]:
    """How many videos, and how many anchors of one, to take at a time."""
    videos = _CHUNK_BYTES // (x.shape[1] * outputs * x.element_size())
    return (1 if _CHUNK_ANCHORS < K else max(1, min(videos, _CHUNK_ANCHORS // max(K, 1)))), _CHUNK_ANCHORS


class _RoILinear(torch.autograd.Function):
    """Keeps its outputs alone; the backward pass lists the taps again."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, anchors: Tensor, weight: Tensor, bias: Tensor, bins: int, extend: float
    ) -> tuple[Tensor, ...]:
        (B, T, C), K, (H, O) = x.shape, anchors.shape[1], bias.shape
        matrix, shift = weight.to(x.dtype).view(C, -1), bias.to(x.dtype)
        out = tuple(x.new_empty(B * K, O) for _ in range(H))
        videos, several = _chunks(x, matrix.shape[1], K)
        # one for all chunks: fresh pages cost more than the product
        buffer = x.new_empty(min(videos, B) * T, matrix.shape[1])
        for v in range(0, B, videos):
            part_x = x[v : v + videos].reshape(-1, C)
            columns = torch.mm(part_x, matrix, out=buffer[: len(part_x)]).view(-1, O)
            for k in range(0, K, several):
                part = anchors[v : v + videos, k : k + several]
                n = part.shape[0] * part.shape[1]
                read = _gather(columns, *roi_reading(part, T, bins, extend))
                for h in range(H):
                    place = out[h][v * K + k : v * K + k + n]
                    torch.add(read[h * n : (h + 1) * n], shift[h], out=place).relu_()
        ctx.save_for_backward(x, anchors, weight, *out)
        ctx.settings = bins, extend
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, anchors, weight, *out = ctx.saved_tensors
        bins, extend = ctx.settings
        (B, T, C), K, O = x.shape, anchors.shape[1], weight.shape[2]
        matrix = weight.to(x.dtype).view(C, -1)
        grad_x, grad_weight = torch.empty_like(x), torch.zeros_like(weight)
        grad_bias = weight.new_zeros(len(out), O)
        videos, several = _chunks(x, matrix.shape[1], K)
        for v in range(0, B, videos):
            columns = x[v : v + videos].reshape(-1, C)
            grad_columns = x.new_zeros(0)  # lets go of the last chunk's
            for k in range(0, max(K, 1), several):
                part = anchors[v : v + videos, k : k + several]
                n = part.shape[0] * part.shape[1]
                rows = slice(v * K + k, v * K + k + n)
                # ReLU's own backward; torch.where takes 25 times as long
                g = torch.stack(
                    [torch.ops.aten.threshold_backward(d[rows], o[rows], 0) for d, o in zip(grads, out, strict=True)]
                )
                grad_bias += g.sum(1, dtype=grad_bias.dtype)
                made = _gather(g.view(-1, O), *roi_readers(part, T, bins, extend)).view(len(columns), -1)
                grad_columns = grad_columns.add_(made) if k else made
                del made
            torch.mm(grad_columns, matrix.t(), out=grad_x[v : v + videos].view(-1, C))
            if x.dtype == weight.dtype:
                grad_weight.view(C, -1).addmm_(columns.t(), grad_columns)
            else:
                grad_weight.view(C, -1).add_(columns.t() @ grad_columns)
        return grad_x, None, grad_weight, grad_bias, None, None


def _pool(x: Tensor, anchors: Tensor, bins: int, extend: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of x, and the dense weights [b, K * bins, T] that pool their RoIs."""
    T, K = x.shape[1], anchors.shape[1]
    videos = max(1, _CHUNK_WEIGHTS // (max(K, 1) * bins * T))
    for v in range(0, len(x), videos):
        part = anchors[v : v + videos]
        laid = lay_bins(part.reshape(-1, 2), T, bins, extend)
        yield x[v : v + videos], weigh_columns(laid, T, x.dtype).view(len(part), K * bins, T)


def _dense_roi_linear(
    x: Tensor, anchors: Tensor, weight: Tensor, bias: Tensor, bins: int, extend: float
) -> tuple[Tensor, ...]:
    """roi_linear by dense products. Keeps the weights; what they pool is made again in the backward pass."""
    quarter, C, K, O = bins // 4, x.shape[2], anchors.shape[1], bias.shape[1]
    matrix = weight.to(x.dtype).transpose(0, 1).split((bins, quarter, quarter))
    layers = tuple(layer.reshape(-1, O) for layer in matrix)
    shift = bias.to(x.dtype)

    def heads(part: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        pooled = torch.bmm(weights, part).view(len(part) * K, bins, C)
        read = pooled, pooled[:, :quarter], pooled[:, bins - quarter :]
        return tuple(torch.addmm(b, p.flatten(1), m).relu_() for b, p, m in zip(shift, read, layers, strict=True))

    parts = [
        checkpoint(heads, *part, use_reentrant=False, preserve_rng_state=False)
        for part in _pool(x, anchors, bins, extend)
    ]
    return tuple(torch.cat(part) if len(part) > 1 else part[0] for part in zip(*parts, strict=True))


def roi_linear(
    x: Tensor, anchors: Tensor, weight: Tensor, bias: Tensor, bins: int, extend: float
) -> tuple[Tensor, Tensor, Tensor]:
    """relu(linear layers over RoIs): the whole RoI, its first quarter and its last, each through its own layer.

    x [B, T, C]; anchors [B, K, 2], fractions, without gradient; weight [C, bins * 3 / 2, O]: the slices of the whole's
    layer by bin, then the first quarter's, then the last's; bias [3, O]. Returns three times [B * K, O] in x's type.
    Source: METHOD 5.2 to 5.4. Differs: the order of the sums.
    """
    if x.device.type == "cpu":
        return _RoILinear.apply(x.contiguous(), anchors, weight, bias, bins, extend)
    whole, first, last = _dense_roi_linear(x, anchors, weight, bias, bins, extend)
    return whole, first, last
