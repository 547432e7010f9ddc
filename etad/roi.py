"""1-D RoIAlign, and RoIAlign followed by linear layers as one product.

RoIAlign is linear in the features: pooled = W x, with W sparse (each bin reads a few columns). A linear layer L over the
flattened RoI is then sum_r W_r (x L_r): project the T columns once by every bin's slice of L, and let every anchor add up
the few projected rows that its bins read. For T = C = 128, R = 24, 495 anchors that is 0.6 GFLOP instead of 2.3, and
nothing of the size anchors x bins x channels is ever made or kept. A GPU multiplies so much faster than it gathers that
there W is a dense matrix, and the layers multiply what it pools.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import scipy.sparse
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from etad.taps import lay_bins, list_taps, most_taps, weigh_columns

# Projected columns of the videos taken at a time, of which a sixth exist at once: as many as a CPU's caches hold, and
# enough for lists worth the calls that make them.
_CHUNK_NUMBERS = 10 << 20
_CHUNK_ANCHORS = 2048  # four times as many have numbers of 16 bits
_CHUNK_WEIGHTS = 1 << 26  # of dense ones, made at a time on a GPU
_SCRATCH = 18  # float32 numbers a tap that listing them takes meanwhile


def _gather(table: Tensor, offsets: Tensor, weight: Tensor, row: Tensor) -> Tensor:
    """Weighted sums of rows of table [n, O]: of row [N] and weight [N] from offsets[0] on, from offsets[1] on ..."""
    # Called 36 times a step: without the checks of torch.nn.functional
    return torch.embedding_bag(table, row, offsets, mode=0, per_sample_weights=weight, include_last_offset=True)[0]


def _add_sums(totals: list[Tensor], table: Tensor, taps: list[tuple[Tensor, Tensor, Tensor]]) -> list[Tensor]:
    """What the anchors of several lists read, added to what they read before."""
    sums = [_gather(table, *listed) for listed in taps]
    return [total.add_(made) for total, made in zip(totals, sums, strict=True)] if totals else sums


def roi_align(features: Tensor, anchors: Tensor, bins: int, extend: float) -> Tensor:
    """1-D RoIAlign of features [B, C, T] on anchors [B, K, 2] (fractions) -> [B, K, C, bins]. Source: METHOD 5.2."""
    B, C, T = features.shape
    K = anchors.shape[1]
    laid = lay_bins(anchors.reshape(-1, 2), T, bins, extend)
    stop, bin, column, weight = list_taps(laid)
    row = torch.div(bin, K * bins, rounding_mode="floor") * T + column
    table = features.transpose(1, 2).reshape(B * T, C)
    return _gather(table, F.pad(stop, (1, 0)), weight.to(table.dtype), row).view(B, K, bins, C).transpose(2, 3)


def list_reading(
    anchors: Tensor, T: int, bins: int, extend: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """What the bins of anchors [b, K, 2] read: their taps, quarter after quarter and in it anchor after anchor.

    Returns start [4 * b * K + 1], where an anchor's taps begin, and of all taps weight [N], in dtype, and row [N], quarter *
    rows + its row, (video * T + column) * (bins / 4) + bin, one of the quarter's b * T * bins / 4. Indices are int32.
    """
    (b, K, _), n = anchors.shape, bins // 4
    if isinstance(anchors, FakeTensor):
        taps = b * K * most_taps(T, bins)  # as if each anchor filled its video
        anchors.new_empty(_SCRATCH * taps)  # let go of at once
        start, row = anchors.new_empty(4 * b * K + 1, dtype=torch.int32), anchors.new_empty(taps, dtype=torch.int32)
        return start, anchors.new_empty(taps, dtype=dtype), row
    stop, bin, column, weight = list_taps(lay_bins(anchors.reshape(-1, 2), T, bins, extend, parts=4))
    numbers = torch.arange(max(4 * b, n), dtype=torch.int32, device=anchors.device)
    base = (numbers[: 4 * b, None, None] * (T * n) + numbers[:n]).expand(4 * b, K, n).flatten()
    return F.pad(stop[n - 1 :: n].int(), (1, 0)), weight.to(dtype), base.index_select(0, bin).add_(column, alpha=n)


def list_readers(start: Tensor, weight: Tensor, row: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """A list_reading the other way round: which anchors read each row, so many a quarter.

    Returns began [4 * rows + 1], where a row's taps begin, and of all taps weight [N] and reader [N], quarter * anchors + its
    anchor, in 16 bits. Turned round as a sparse matrix by scipy, in half the time that torch takes to sort it.
    """
    if isinstance(start, FakeTensor):
        return start.new_empty(4 * rows + 1), torch.empty_like(weight), row.to(torch.int16)
    bits = weight.view(torch.int16) if weight.element_size() == 2 else weight  # scipy has none of 16 bits
    taps = bits.numpy(), row.numpy(), start.numpy()
    turned = scipy.sparse.csr_array(taps, shape=(len(start) - 1, 4 * rows)).tocsc()
    began, reader, bits = (torch.from_numpy(part) for part in (turned.indptr, turned.indices, turned.data))
    return began, bits.view(weight.dtype), reader.to(torch.int16)


def _by_quarter(start: Tensor, weight: Tensor, place: Tensor, places: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """A list's quarters as _gather takes them; changes place, which counts so many a quarter."""
    bags, quarters, place = len(start) // 4, [], place.int()
    ends = range(0, len(place) + 1, len(place) // 4) if isinstance(start, FakeTensor) else start[::bags].tolist()
    for q, (begin, end) in enumerate(pairwise(ends)):
        offsets = start[q * bags : (q + 1) * bags + 1] - begin
        quarters.append((offsets, weight[begin:end], place[begin:end].sub_(q * places)))
    return quarters


# The layer and the quarter of its bins that each sixth of the weights belongs to: the whole's four, the first's, the last's.
_SIXTHS = ((0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (2, 3))


def _videos(x: Tensor, outputs: int, K: int) -> int:
    """How many videos to take at a time."""
    return max(1, min(_CHUNK_NUMBERS // (x.shape[1] * outputs), _CHUNK_ANCHORS // K))


class _RoILinear(torch.autograd.Function):
    """Keeps its outputs and, where it goes back, the taps turned round."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, anchors: Tensor, weight: Tensor, bias: Tensor, bins: int, extend: float, goes_back: bool
    ) -> tuple[Tensor, ...]:
        (B, T, C), K, O, n = x.shape, anchors.shape[1], weight.shape[2], bins // 4
        matrices, shift = weight.to(x.dtype).split(n, 1), bias.to(x.dtype)
        parts: list[list[Tensor]] = [[] for _ in shift]  # of the outputs
        videos = _videos(x, weight.shape[1] * O, K)
        table = x.new_empty(min(videos, B) * T, n * O)  # one for all products: fresh pages cost more than they do
        kept: list[Tensor] = []
        for v in range(0, B, videos):
            columns, taps = x[v : v + videos].reshape(-1, C), []
            for k in range(0, K, _CHUNK_ANCHORS):
                some = anchors[v : v + videos, k : k + _CHUNK_ANCHORS]
                listed = list_reading(some, T, bins, extend, x.dtype)
                if goes_back:
                    kept += list_readers(*listed, len(columns) * n)  # now, while caches hold the list
                taps.append(_by_quarter(*listed, len(columns) * n))
            sums: list[list[Tensor]] = [[] for _ in shift]
            for matrix, (layer, q) in zip(matrices, _SIXTHS, strict=True):
                product = torch.mm(columns, matrix.flatten(1), out=table[: len(columns)]).view(-1, O)
                sums[layer] = _add_sums(sums[layer], product, [listed[q] for listed in taps])
            for part, made, more in zip(parts, sums, shift, strict=True):
                part += [total.add_(more).relu_() for total in made]
        out = tuple(torch.cat(part) if len(part) > 1 else part[0] for part in parts)
        ctx.save_for_backward(x, weight, *out, *kept)
        ctx.bins = bins
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *saved = ctx.saved_tensors
        out, kept = saved[: len(grads)], iter(saved[len(grads) :])
        (B, _, C), K, O, n = x.shape, len(grads[0]) // len(x), weight.shape[2], ctx.bins // 4
        matrices = weight.to(x.dtype).split(n, 1)
        grad_x, grad_weight = torch.zeros_like(x), torch.zeros_like(weight)
        grad_bias = weight.new_zeros(len(out), O)
        videos = _videos(x, weight.shape[1] * O, K)
        for v in range(0, B, videos):
            columns = x[v : v + videos].reshape(-1, C)
            rows = slice(v * K, (v + videos) * K)
            # ReLU's own backward; torch.where takes 25 times as long
            parts = [torch.ops.aten.threshold_backward(d[rows], o[rows], 0) for d, o in zip(grads, out, strict=True)]
            grad_bias += torch.stack([part.sum(0, dtype=grad_bias.dtype) for part in parts])
            reads = [part.split(_CHUNK_ANCHORS) for part in parts]
            taps = [_by_quarter(next(kept), next(kept), next(kept), len(read)) for read in reads[0]]
            for matrix, grad, (layer, q) in zip(matrices, grad_weight.split(n, 1), _SIXTHS, strict=True):
                table = x.new_zeros(0)  # gradients of the projected columns; lets go of the last sixth's
                for read, listed in zip(reads[layer], taps, strict=True):
                    made = _gather(read, *listed[q])
                    table = table.add_(made) if len(table) else made
                    del made
                table = table.view(len(columns), -1)
                grad_x[v : v + videos].view(-1, C).addmm_(table, matrix.flatten(1).t())
                grad.add_((columns.t() @ table).view(matrix.shape))
        return grad_x, None, grad_weight, grad_bias, None, None, None


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
    if x.device.type == "cpu" and anchors.shape[1]:
        return _RoILinear.apply(x.contiguous(), anchors, weight, bias, bins, extend, torch.is_grad_enabled())
    whole, first, last = _dense_roi_linear(x, anchors, weight, bias, bins, extend)
    return whole, first, last
