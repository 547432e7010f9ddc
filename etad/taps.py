"""Which feature columns every bin of a 1-D RoIAlign reads, and how much of each.

A bin is the mean of a few samples, each a linear interpolation between two columns. Samples lie at most a column apart, so
in a wide bin several read the same columns: listing the columns a bin reads instead of the samples' takes 41 % fewer taps.
Semantics of aligned=False, adaptive sampling: ceil(length / bins) samples a bin; an extended length under one snippet
becomes one, its start kept; samples outside [-1, T] count as zero, those in [-1, 0] read column 0. Source: METHOD 5.2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bins:
    """The bins of M anchors, in parts: [parts, M, bins / parts].

    Each reads so many `columns` from column `left` on, one at the least (int64). samples [4, parts, M, bins / parts]: where
    a bin's first sample lies, less 1; samples a column; the number of its last sample from 0, -1 where it has none; a
    sample's share of the bin.
    """

    columns: Tensor
    left: Tensor
    samples: Tensor


_FAR = 1e9  # columns


def most_taps(tscale: int, bins: int) -> int:
    """A bound of the taps of one anchor: a bin w columns wide reads fewer than w + 2.5, and T + 2 columns are all there is."""
    return tscale + 2 + 5 * bins // 2


def lay_bins(anchors: Tensor, tscale: int, bins: int, extend: float, parts: int = 1) -> Bins:
    """The bins of anchors [M, 2] (start, end): fractions, any float, extended by so much of their length on each side."""
    start, end = anchors.detach().float().unbind(-1)
    margin = extend * (end - start)
    ends = torch.stack((start - margin, end + margin)).mul_(tscale)
    low, high = ends.nan_to_num_(_FAR, _FAR, _FAR).clamp_(-_FAR, _FAR)  # not finite: reads nothing
    length = (high - low).clamp_min_(1.0)
    numbers = torch.arange(bins + 1, device=anchors.device)
    size = length / numbers[-1]  # by a number of Python's a GPU multiplies with its reciprocal
    count = size.ceil()
    step = size / count
    edge = (numbers[:-1, None] * size).add_(low)  # [bins, M]: anchors side by side are quicker to compute with
    first = edge + 0.5 * step
    # The samples at the map's two ends: how many lie before it, or one fewer; the last one's number, or one more.
    outside, last = crossing = torch.stack((-1.0 - first, tscale - first)).div_(step).round_()
    outside.clamp_min_(0.0)
    last.clamp_max_(count - 1.0)
    # Where those two lie, rounded as the released kernel rounds: samples may lie on the map's very ends.
    places = crossing.add(0.5).mul_(size).div_(count).add_(edge)
    outside += places[0].lt_(-1.0)
    last -= places[1].gt_(tscale)
    last.sub_(outside).clamp_min_(-1.0)
    first.addcmul_(outside, step)
    left = first.floor().clamp_(0.0, tscale - 1.0)
    right = torch.addcmul(first, last, step).ceil_().clamp_(0.0, tscale - 1.0)
    columns = right.sub_(left).add_(1.0).clamp_min_(1.0)

    def in_order(values: Tensor) -> Tensor:
        """[bins, M] or [M] as [parts, M, bins / parts]."""
        return values.expand(bins, -1).unflatten(0, (parts, -1)).transpose(1, 2)

    samples = torch.stack([in_order(v) for v in (first.sub_(1.0), step.reciprocal(), last, count.reciprocal())])
    columns, left = (in_order(v).to(torch.int64, memory_format=torch.contiguous_format) for v in (columns, left))
    return Bins(columns, left, samples)


def list_taps(bins: Bins) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The taps of all bins in the order of their numbers: bin [N], int64, column [N], int32, and weight [N], float32.

    A bin's number counts by part, anchor and place. Before these comes stop [M * bins], where each bin's taps end.

    What the samples give to the columns up to c is a sum over equal distances: of those at or before c all, of those
    between c and c + 1 their nearness to c + 1. A column's weight is what this sum gains with it.
    """
    columns = bins.columns.flatten()
    stop = columns.cumsum(0)
    begin = stop - columns
    # Every bin has a tap: counting where they begin takes three fifths of the time of repeat_interleave.
    bin = columns.new_zeros(int(columns.sum())).index_fill_(0, begin[1:], 1).cumsum(0)
    shift = (bins.left.flatten() - begin).int().index_select(0, bin)
    column = torch.arange(len(bin), dtype=torch.int32, device=bin.device).add_(shift)
    first, per_column, last, share = bins.samples.flatten(1).index_select(1, bin)
    place = (column - first).mul_(per_column)  # of column c + 1, counted in samples
    upto = place.floor().clamp_max_(last)  # the last sample at or before c + 1
    before = (place - per_column).floor_().clamp_min_(-1.0).clamp_max_(last)  # at or before c
    between = place.sub_(0.5).sub_(before + upto, alpha=0.5).div_(per_column)  # their mean nearness to c + 1
    given = torch.lerp(before, upto, between)
    given.index_copy_(0, stop - 1, bins.samples[2].flatten())  # all, past the last column too
    previous = given.roll(1).index_fill_(0, begin, -1.0)
    return stop, bin, column, given.sub_(previous).mul_(share)


def weigh_columns(bins: Bins, tscale: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """What every bin takes of every column, [parts, M, bins / parts, T]: the weights of `list_taps` among zeros, for a GPU.

    The same sums: with CUDA in one kernel, compiled when first called; elsewhere in a few passes over M * bins * T numbers.
    """
    first, per_column, last, share = bins.samples.unsqueeze(-1).unbind()
    step = per_column.reciprocal()
    column = torch.arange(tscale, dtype=torch.float32, device=first.device)
    if column.is_cuda:
        return _weigh()(column, first, per_column, step, last, share, columns=float(tscale)).to(dtype)  # type: ignore[no-any-return]
    start = (first + 1.0) * -per_column - 0.5
    place = torch.addcmul(start, column, per_column)  # of column c, counted in samples, less a half
    upto = place.round().clamp_(torch.full_like(last, -1.0), last)  # the last sample at or before c
    before, after = upto[..., :-1], upto[..., 1:]
    between = place[..., 1:].sub_(before + after, alpha=0.5).mul_(step)
    given = place.new_empty(*place.shape[:-1], tscale + 1)
    given[..., :1], given[..., -1:] = -1.0, last  # nothing before the first column, all up to the last
    torch.addcmul(before, between, after - before, out=given[..., 1:-1])
    return torch.mul(given.diff(), share, out=place.new_empty(place.shape, dtype=dtype))


@cache
def _weigh() -> Callable[..., Tensor]:
    """weigh_columns for one column of one bin."""
    return torch.cuda.jiterator._create_jit_fn(  # type: ignore[no-any-return]
        """
        template <typename T>
        T weigh(T column, T first, T per_column, T step, T last, T share, T columns) {
            if (last < T(0)) return T(0);  // no samples
            const T start = (first + T(1)) * -per_column - T(0.5);
            const auto place = [&](T c) { return start + c * per_column; };  // counted in samples, less a half
            const auto upto = [&](T c) { return min(max(rint(place(c)), T(-1)), last); };  // the last sample at or before c
            const auto given = [&](T c) {  // what the samples give to the columns up to c, less 1
                if (c < T(0)) return T(-1);
                if (c >= columns - T(1)) return last;
                const T before = upto(c), after = upto(c + T(1));
                return before + (place(c + T(1)) - T(0.5) * (before + after)) * step * (after - before);
            };
            return (given(column) - given(column - T(1))) * share;
        }
        """,
        columns=0.0,
    )
