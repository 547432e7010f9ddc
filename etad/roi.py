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

# Projected columns made at a time: as many as a CPU's caches hold, and enough for lists worth the calls that make them.
_CHUNK_NUMBERS = 10 << 20
_CHUNK_ANCHORS = 2048
_CHUNK_WEIGHTS = 1 << 26  # of dense ones, made at a time on a GPU


def _gather(table: Tensor, count: Tensor, row: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of rows of table [n, O]: the first count[0] of row [N] and weight [N], the next count[1] ..."""
    offsets = F.pad(count.cumsum(0, dtype=torch.int32), (1, 0))
    return F.embedding_bag(
        row.int(), table, offsets, mode="sum", per_sample_weights=weight.to(table.dtype), include_last_offset=True
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
def roi_reading(anchors: Tensor, T: int, bins: int, extend: float, dtype: torch.dtype) -> list[Tensor]:
    """What anchors [b, K, 2] read by the bins of their first quarter, by those between, and by those of their last one.

    For each of these parts: count [b * K], an anchor's taps, and of the taps, anchor after anchor, row [N], the number
    (video * T + column) * (bins of the part) + bin, in 16 bits where they suffice, and weight [N], in dtype.
    """
    b, K, _ = anchors.shape
    laid, quarter = lay_bins(anchors.reshape(-1, 2), T, bins, extend), bins // 4
    read = []
    for part in (slice(quarter), slice(quarter, bins - quarter), slice(bins - quarter, bins)):
        some = laid.some(part)
        count = some.columns.sum(1, dtype=torch.int32)
        bin, column, weight = list_taps(some, int(count.sum()))
        n = some.columns.shape[1]
        numbers = torch.arange(max(b, n), dtype=torch.int32, device=anchors.device)
        base = (numbers[:b, None, None] * (T * n) + numbers[:n]).expand(b, K, n).reshape(-1)
        row = column.mul_(n).add_(base.index_select(0, bin))
        read += [count, row.to(_row_type(b * T * n)), weight.to(dtype)]
    return read


def _row_type(rows: int) -> torch.dtype:
    return torch.int16 if rows <= torch.iinfo(torch.int16).max else torch.int32


@roi_reading.register_fake
def _(anchors: Tensor, T: int, bins: int, extend: float, dtype: torch.dtype) -> list[Tensor]:
    (b, K, _), most, quarter = anchors.shape, most_taps(T, bins), bins // 4
    read = []
    for n in (quarter, bins - 2 * quarter, quarter):
        taps = b * K * most * n // bins  # as they lie in an anchor that fills its video
        row = anchors.new_empty(taps, dtype=_row_type(b * T * n))
        read += [anchors.new_empty(b * K, dtype=torch.int32), row, anchors.new_empty(taps, dtype=dtype)]
    return read


@torch.library.custom_op("etad::roi_readers", mutates_args=())
def roi_readers(count: Tensor, row: Tensor, weight: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """A part of roi_reading the other way round: which anchors read each of so many rows.

    Returns count [rows], and of the taps, row after row, anchor [N] (int32) and weight [N].
    """
    anchor = torch.repeat_interleave(count, output_size=len(row))
    order = row.argsort(stable=True)
    return row.bincount(minlength=rows), anchor.index_select(0, order), weight.index_select(0, order)


@roi_readers.register_fake
def _(count: Tensor, row: Tensor, weight: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    return count.new_empty(rows, dtype=torch.int64), count.new_empty(row.shape), torch.empty_like(weight)


def _split(weight: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """The layers' slices [C, bins * 3 / 2, O] by part [C, n, width]: a bin of a quarter is read by two layers."""
    quarter = bins // 4
    whole, first, last = weight.split((bins, quarter, quarter), 1)
    return (
        torch.cat((whole[:, :quarter], first), 2),
        whole[:, quarter : bins - quarter].contiguous(),
        torch.cat((whole[:, bins - quarter :], last), 2),
    )


def _add_part(total: Tensor, p: int, part: Tensor, bins: int) -> None:
    """Adds the p-th part of _split, [C, n, width], to its slices among all [C, bins * 3 / 2, O]."""
    O, quarter, n = total.shape[2], bins // 4, part.shape[1]
    begin = (0, quarter, bins - quarter)[p]
    total[:, begin : begin + n] += part[..., :O]
    if p != 1:
        more = bins if p == 0 else bins + quarter
        total[:, more : more + n] += part[..., O:]


def _chunks(x: Tensor, outputs: int, K: int) -> tuple[int, int]:
    """How many videos, and how many anchors of one, to take at a time."""
    videos = _CHUNK_NUMBERS // (x.shape[1] * outputs)
    return (1 if _CHUNK_ANCHORS < K else max(1, min(videos, _CHUNK_ANCHORS // max(K, 1)))), _CHUNK_ANCHORS


class _RoILinear(torch.autograd.Function):
    """Keeps its outputs and the taps, which the backward pass turns round."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, anchors: Tensor, weight: Tensor, bias: Tensor, bins: int, extend: float
    ) -> tuple[Tensor, ...]:
        (B, T, C), K, (H, O) = x.shape, anchors.shape[1], bias.shape
        matrices, shift = _split(weight.to(x.dtype), bins), bias.to(x.dtype)
        whole, first, last = out = tuple(x.new_empty(B * K, O) for _ in range(H))
        videos, several = _chunks(x, weight.shape[1] * O, K)
        # one for all chunks: fresh pages cost more than the product
        buffers = [x.new_empty(min(videos, B) * T, matrix[0].numel()) for matrix in matrices]
        kept: list[Tensor] = []
        for v in range(0, B, videos):
            part_x = x[v : v + videos].reshape(-1, C)
            tables = [
                torch.mm(part_x, matrix.flatten(1), out=buffer[: len(part_x)]).view(-1, matrix.shape[2])
                for matrix, buffer in zip(matrices, buffers, strict=True)
            ]
            for k in range(0, max(K, 1), several):
                part = anchors[v : v + videos, k : k + several]
                taps = roi_reading(part, T, bins, extend, x.dtype)
                begin, between, end = (_gather(table, *taps[3 * p : 3 * p + 3]) for p, table in enumerate(tables))
                rows = slice(v * K + k, v * K + k + len(between))
                torch.add(begin[:, :O], end[:, :O], out=whole[rows]).add_(between).add_(shift[0]).relu_()
                torch.add(begin[:, O:], shift[1], out=first[rows]).relu_()
                torch.add(end[:, O:], shift[2], out=last[rows]).relu_()
                kept += taps
        ctx.save_for_backward(x, weight, *out, *kept)
        ctx.bins = bins
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *saved = ctx.saved_tensors
        out, kept = saved[: len(grads)], iter(saved[len(grads) :])
        (B, _, C), K, O, bins = x.shape, len(grads[0]) // len(x), weight.shape[2], ctx.bins
        matrices = _split(weight.to(x.dtype), bins)
        grad_x, grad_weight = torch.zeros_like(x), torch.zeros_like(weight)
        grad_bias = weight.new_zeros(len(out), O)
        videos, several = _chunks(x, weight.shape[1] * O, K)
        for v in range(0, B, videos):
            columns = x[v : v + videos].reshape(-1, C)
            rows = slice(v * K, (v + videos) * K)
            # ReLU's own backward; torch.where takes 25 times as long
            whole, first, last = (
                torch.ops.aten.threshold_backward(d[rows], o[rows], 0) for d, o in zip(grads, out, strict=True)
            )
            grad_bias += torch.stack([part.sum(0, dtype=grad_bias.dtype) for part in (whole, first, last)])
            taps = [[next(kept) for _ in range(9)] for _ in range(0, max(K, 1), several)]
            for p, matrix in enumerate(matrices):
                read = whole if p == 1 else torch.cat((whole, last if p else first), 1)
                table = x.new_zeros(0)  # gradients of the projected columns; lets go of the last part's
                for k, listed in zip(range(0, max(K, 1), several), taps, strict=True):
                    some = read if several >= K else read[k : k + several]
                    made = _gather(some, *roi_readers(*listed[3 * p : 3 * p + 3], len(columns) * matrix.shape[1]))
                    table = table.add_(made) if k else made
                    del made, some
                del read
                table = table.view(len(columns), -1)
                grad_x[v : v + videos].view(-1, C).addmm_(table, matrix.flatten(1).t())
                _add_part(grad_weight, p, (columns.t() @ table).view(matrix.shape), bins)
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
