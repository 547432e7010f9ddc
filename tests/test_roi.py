"""RoIAlign: against the released kernel's arrays and against loops written from METHOD 5.2."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from etad import roi
from etad.measure import LiveMemory
from etad.proposals import proposal_map
from etad.roi import list_readers, list_reading, roi_align, roi_linear
from etad.taps import lay_bins, list_taps, most_taps, weigh_columns


def slow_roi_align(features: Tensor, anchors: Tensor, bins: int, extend: float) -> Tensor:
    """One sample at a time, in Python's floats. Anchors are exact in float32, so both sides see the same numbers."""
    B, C, T = features.shape
    pooled = torch.zeros(B, anchors.shape[1], C, bins, dtype=torch.float64)
    for b in range(B):
        for k, (start, end) in enumerate(anchors[b].tolist()):
            low = (start - extend * (end - start)) * T
            high = (end + extend * (end - start)) * T
            length = max(high - low, 1.0)
            samples = math.ceil(length / bins)
            for r in range(bins):
                for j in range(samples):
                    x = low + length / bins * (r + (j + 0.5) / samples)
                    if -1.0 <= x <= T:
                        x = min(max(x, 0.0), T - 1.0)
                        left = math.floor(x)
                        right = min(left + 1, T - 1)
                        value = features[b, :, left] * (1 - x + left) + features[b, :, right] * (x - left)
                        pooled[b, k, :, r] += value / samples
    return pooled


def test_pooled_rois_are_the_released_ones(parity: Path) -> None:
    z = np.load(parity / "roi_align.npz", allow_pickle=False)
    features, anchors = torch.tensor(z["features"]), torch.tensor(z["anchors"])
    bins, extend = int(z["roi_size"]), float(z["extend_ratio"])
    ours = roi_align(features, anchors, bins, extend)
    assert ours.shape == (2, 48, 8, bins)
    # Places are rounded in either, by up to 8e-6 of a column; few are at all.
    difference = ours.flatten(0, 1) - torch.tensor(z["pooled"])
    assert difference.abs().max() < 5e-5
    assert difference.square().mean().sqrt() < 2e-6


# Multiples of 1/64 keep every coordinate exact, so that no sample falls on the other side of an edge by rounding.
COORDINATE = st.integers(-160, 224).map(lambda n: n / 64)


@st.composite
def anchor_lists(draw: st.DrawFn) -> Tensor:
    """Ordinary, degenerate, inverted, outside and huge anchors."""
    some = draw(st.lists(st.tuples(COORDINATE, COORDINATE), min_size=1, max_size=6))
    return torch.tensor(some)[None]


@given(
    anchor_lists(), st.sampled_from([4, 8, 24]), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.sampled_from([1, 2, 16, 32])
)
@settings(max_examples=60, deadline=None)
def test_equals_loops_on_any_anchor(anchors: Tensor, bins: int, extend: float, tscale: int) -> None:
    features = torch.randn(1, 3, tscale, generator=torch.Generator().manual_seed(tscale), dtype=torch.float64)
    want = slow_roi_align(features, anchors, bins, extend)
    torch.testing.assert_close(roi_align(features, anchors, bins, extend), want, rtol=0, atol=1e-3)


def test_equals_loops_inside_the_video() -> None:
    features = torch.randn(3, 4, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cells = torch.randint(0, 65, (3, 40, 2), generator=torch.Generator().manual_seed(1))
    anchors = cells.sort(-1).values / 64
    torch.testing.assert_close(
        roi_align(features, anchors, 16, 0.5), slow_roi_align(features, anchors, 16, 0.5), rtol=0, atol=2e-5
    )


def test_whole_video_without_extension_is_itself() -> None:
    """T bins of one column each read midway between two columns; the last reads the last column."""
    x = torch.randn(1, 2, 8)
    want = torch.cat(((x[..., 1:] + x[..., :-1]) / 2, x[..., -1:]), -1)
    torch.testing.assert_close(roi_align(x, torch.tensor([[[0.0, 1.0]]]), 8, 0.0)[:, 0], want)


def test_edges_as_the_method_states() -> None:
    x = torch.arange(1.0, 9.0).view(1, 1, 8)
    lone = [[-0.5, -0.25], [-0.125, 0.0], [1.0, 1.125], [1.25, 1.5], [0.5, 0.5], [0.75, 0.25]]
    pooled = roi_align(x, torch.tensor([lone]), 4, 0.0)[0, :, 0]
    assert pooled[0].tolist() == [0, 0, 0, 0]  # before -1
    assert pooled[1].tolist() == [1, 1, 1, 1]  # in [-1, 0]: column 0
    assert pooled[2].tolist() == [0, 0, 0, 0]  # past T
    assert pooled[3].tolist() == [0, 0, 0, 0]
    for degenerate, start in ((4, 4), (5, 6)):  # one snippet long, from its start
        assert pooled[degenerate].tolist() == [1 + start + (r + 0.5) / 4 if start < 7 else 8 for r in range(4)]


def test_samples_on_the_very_edge_count() -> None:
    """Bins of a quarter snippet, one sample each: at T, then past it; at -1.25, -1, -0.75 and -0.5."""
    x = torch.arange(1.0, 9.0).view(1, 1, 8)
    anchors = torch.tensor([[[7.875 / 8, 1.0], [-1.375 / 8, -1.25 / 8]]])
    assert roi_align(x, anchors, 4, 0.0)[0, :, 0].tolist() == [[8, 0, 0, 0], [0, 1, 1, 1]]


@pytest.mark.parametrize(("tscale", "bins"), [(128, 24), (100, 24), (64, 16), (32, 24)])
def test_samples_on_the_edges_are_judged_as_the_released_kernel_rounds(tscale: int, bins: int) -> None:
    """Of all anchors of a map: low + bin * size + ((sample + 0.5) * size) / count in float32, from left to right."""
    anchors = proposal_map(tscale, tscale).anchors
    start, end = anchors.numpy().T
    margin = np.float32(0.5) * (end - start)
    low = (start - margin) * np.float32(tscale)
    length = np.maximum((end + margin) * np.float32(tscale) - low, np.float32(1.0))
    size = length / np.float32(bins)
    count = np.ceil(size)
    want = np.zeros((len(anchors), bins), np.float32)
    for sample in range(int(count.max())):
        place = (np.float32(sample) + np.float32(0.5)) * size / count
        x = (low[:, None] + np.arange(bins, dtype=np.float32) * size[:, None]) + place[:, None]
        assert x.dtype == np.float32
        want += (x >= -1) & (x <= tscale) & (sample < count)[:, None]
    laid = lay_bins(anchors, tscale, bins, 0.5)
    np.testing.assert_array_equal(laid.samples[2, 0].numpy() + 1, want)


@given(
    anchor_lists(), st.sampled_from([4, 8, 24]), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.sampled_from([1, 2, 16, 32])
)
@settings(max_examples=60, deadline=None)
def test_taps_are_ordered_inside_few_and_no_column_twice(
    anchors: Tensor, bins: int, extend: float, tscale: int
) -> None:
    laid = lay_bins(anchors[0], tscale, bins, extend)
    assert laid.columns.shape == (1, anchors.shape[1], bins)
    assert int(laid.columns.sum(2).max()) <= most_taps(tscale, bins)
    stop, bin, column, weight = list_taps(laid)
    assert stop.tolist() == laid.columns.flatten().cumsum(0).tolist()
    assert (bin.dtype, column.dtype, weight.dtype) == (torch.int64, torch.int32, torch.float32)
    assert 0 <= int(column.min()) <= int(column.max()) < tscale
    order = bin * tscale + column
    assert (order[1:] > order[:-1]).all()
    listed = torch.zeros(anchors.shape[1] * bins * tscale).index_put((order,), weight)
    torch.testing.assert_close(weigh_columns(laid, tscale).flatten(), listed, rtol=0, atol=1e-4)
    totals = torch.zeros(laid.columns.numel()).index_add_(0, bin, weight)
    assert weight.min() > -1e-5
    assert totals.max() <= 1 + 1e-5  # a bin is a mean, of samples outside as zeros


def test_dense_weights_of_lost_anchors_are_zeros() -> None:
    anchors = torch.tensor([[math.nan, math.nan], [0.1, math.inf], [0.1, 0.4], [-math.inf, 0.5]])
    weight = weigh_columns(lay_bins(anchors, 16, 8, 0.5), 16)
    assert weight.isfinite().all()
    assert (weight != 0).flatten(2).any(2).tolist() == [[False, False, True, False]]


def dense(offsets: Tensor, weight: Tensor, place: Tensor, width: int) -> Tensor:
    """Taps in bags as a matrix [bags, width]."""
    matrix = torch.zeros(len(offsets) - 1, width, dtype=torch.float64)
    bag = torch.repeat_interleave(offsets.diff())
    return matrix.index_put_((bag, place.long()), weight.double(), accumulate=True)


@pytest.mark.parametrize(("tscale", "bins"), [(16, 8), (128, 24), (1024, 32)])  # the last: rows past 16 bits
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_reading_turned_round(tscale: int, bins: int, dtype: torch.dtype) -> None:
    """Who reads a row is the transpose of what is read; what is traced holds either, and what listing them takes."""
    every = proposal_map(tscale, tscale).anchors
    anchors = every[torch.randperm(len(every), generator=torch.Generator().manual_seed(0))[:80]].view(2, 40, 2)
    rows = 2 * tscale * bins // 4
    with LiveMemory() as real:
        start, weight, row = list_reading(anchors, tscale, bins, 0.5, dtype)
        began, given, reader = list_readers(start, weight, row, rows)
    with FakeTensorMode(), LiveMemory() as traced:
        fake = list_reading(torch.empty(2, 40, 2), tscale, bins, 0.5, dtype)
        fake += list_readers(*fake, rows)
    for made, listed in zip(fake, (start, weight, row, began, given, reader), strict=True):
        assert made.dtype == listed.dtype
        assert made.numel() >= listed.numel()
    assert real.peak <= traced.peak
    assert (given.dtype, reader.dtype, len(start), len(began)) == (dtype, torch.int16, 4 * 80 + 1, 4 * rows + 1)
    there, back = dense(start, weight, row, 4 * rows), dense(began, given, reader, 4 * 80)
    torch.testing.assert_close(there, back.t(), rtol=0, atol=0)
    for q, quarter in enumerate(there.split(80)):  # reads its own rows alone
        assert quarter[:, q * rows : (q + 1) * rows].count_nonzero() == quarter.count_nonzero() > 80


# --- linear layers over RoIs


def test_lists_are_turned_round_where_they_go_back_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Tensor) -> None:
        raise AssertionError

    monkeypatch.setattr(roi, "list_readers", refuse)
    x, anchors = torch.randn(1, 8, 2), torch.tensor([[[0.1, 0.6]]])
    weight, bias = torch.randn(2, 6, 3, requires_grad=True), torch.zeros(3, 3)
    with torch.no_grad():
        roi_linear(x, anchors, weight, bias, 4, 0.5)
    with pytest.raises(AssertionError):
        roi_linear(x, anchors, weight, bias, 4, 0.5)


def sizes(K: int = 7, B: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    bins, C, T, O = 8, 5, 16, 6
    x = torch.randn(B, T, C, generator=generator, dtype=dtype)
    ends = torch.rand(B, K, 2, generator=generator)
    anchors = ends if K < 2 else torch.cat((ends[:, :-1].sort(-1).values, ends[:, -1:] * 3 - 1), 1)
    weight = torch.randn(C, bins * 3 // 2, O, generator=generator, dtype=dtype)
    return x, anchors, weight, torch.randn(3, O, generator=generator, dtype=dtype)


def plain_roi_linear(x: Tensor, anchors: Tensor, weight: Tensor, bias: Tensor, bins: int, extend: float) -> Tensor:
    """RoIs first, then three ordinary linear layers."""
    pooled = roi_align(x.transpose(1, 2), anchors, bins, extend).flatten(0, 1)  # [B * K, C, R]
    quarter = bins // 4
    parts = (pooled, pooled[..., :quarter], pooled[..., -quarter:])
    layers = weight.split((bins, quarter, quarter), 1)
    products = [torch.einsum("ncr,cro->no", p, w) for p, w in zip(parts, layers, strict=True)]
    return (torch.stack(products) + bias.unsqueeze(1)).relu()


# the CPU's way, and the GPU's
WAYS = pytest.mark.parametrize("way", [roi_linear, roi._dense_roi_linear])
Way = Callable[..., tuple[Tensor, ...]]


def both(*given: Tensor, way: Way = roi_linear) -> list[tuple[Tensor, list[Tensor]]]:
    """Output and gradients (x, weight, bias) of the product at once and of the plain one."""
    made = []
    for function in (way, plain_roi_linear):
        if function is plain_roi_linear and given[0].dtype != given[2].dtype:
            break  # einsum mixes no types
        x, anchors, weight, bias = (g.clone() for g in given)
        learned = [g.requires_grad_() for g in (x, weight, bias)]
        out = torch.stack([*function(x, anchors, weight, bias, 8, 0.5)])
        factors = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(out.dtype)
        made.append((out.detach(), list(torch.autograd.grad((out * factors).sum(), learned))))
    return made


def same(first: tuple[Tensor, list[Tensor]], second: tuple[Tensor, list[Tensor]], atol: float) -> None:
    torch.testing.assert_close(first[0], second[0], rtol=atol, atol=atol)
    for a, b in zip(first[1], second[1], strict=True):
        torch.testing.assert_close(a, b, rtol=atol, atol=atol)


@WAYS
def test_product_equals_rois_then_layers(way: Way) -> None:
    ours, plain = both(*sizes(), way=way)
    assert ours[0].shape == (3, 21, 6)
    same(ours, plain, 1e-9 if way is roi_linear else 2e-5)  # dense weights are float32


@WAYS
def test_gradients_are_numerically_right(way: Way) -> None:
    x, anchors, weight, bias = sizes(K=4, B=2)
    learned = [g.requires_grad_() for g in (x, weight, bias)]
    assert torch.autograd.gradcheck(lambda x, w, b: way(x, anchors, w, b, 8, 0.5), learned, fast_mode=True)


@pytest.mark.parametrize("anchors", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("videos", [0, 1, 2, 100])
def test_every_chunking_gives_the_same(monkeypatch: pytest.MonkeyPatch, videos: int, anchors: int) -> None:
    given = sizes(B=5)
    whole = both(*given)[0]
    monkeypatch.setattr(roi, "_CHUNK_NUMBERS", videos * 16 * 12 * 6)  # columns, slices, outputs
    monkeypatch.setattr(roi, "_CHUNK_ANCHORS", anchors)
    same(both(*given)[0], whole, 1e-9)


def test_many_anchors_of_many_videos_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anchors enough for two videos a chunk, of five."""
    given = sizes(B=5)
    whole = both(*given)[0]
    monkeypatch.setattr(roi, "_CHUNK_ANCHORS", 15)
    same(both(*given)[0], whole, 1e-9)


@pytest.mark.parametrize("videos", [1, 2, 5])
def test_dense_weights_of_many_videos_in_parts(monkeypatch: pytest.MonkeyPatch, videos: int) -> None:
    given = sizes(B=5)
    whole = both(*given)[0]
    monkeypatch.setattr(roi, "_CHUNK_WEIGHTS", videos * 7 * 8 * 16)
    same(both(*given, way=roi._dense_roi_linear)[0], whole, 2e-5)


@WAYS
def test_bfloat16_is_near(way: Way) -> None:
    x, anchors, weight, bias = sizes(dtype=torch.float32)
    exact, rough = both(x, anchors, weight, bias)[1], both(x.bfloat16(), anchors, weight, bias, way=way)[0]
    assert rough[0].dtype == torch.bfloat16
    assert [g.dtype for g in rough[1]] == [torch.bfloat16, torch.float32, torch.float32]
    for a, b in zip((rough[0], *rough[1]), (exact[0], *exact[1]), strict=True):
        assert (a.float() - b).norm() < 0.03 * b.norm()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30, -1e30])
@pytest.mark.parametrize("place", [0, 1])
@WAYS
def test_runaway_anchors_neither_crash_nor_cost(bad: float, place: int, way: Way) -> None:
    """A diverging detector must reach the check of its loss; other anchors keep their results."""
    x, anchors, weight, bias = sizes()
    want = torch.stack(way(x, anchors, weight, bias, 8, 0.5)).view(3, 3, 7, 6)
    broken = anchors.clone()
    broken[1, 2, place] = bad
    assert int(lay_bins(broken.view(-1, 2), 16, 8, 0.5).columns.sum(2).max()) <= most_taps(16, 8)
    made = torch.stack(way(x.requires_grad_(), broken, weight, bias, 8, 0.5)).view(3, 3, 7, 6)
    made.sum().backward()
    others = torch.ones(3, 7, dtype=torch.bool)
    others[1, 2] = False
    torch.testing.assert_close(made[:, others], want[:, others])


@WAYS
def test_anchors_far_outside_read_nothing(way: Way) -> None:
    x, _, weight, bias = sizes()
    anchors = torch.tensor([[5.0, 6.0], [-9.0, -7.0]]).expand(3, 2, 2)
    want = bias.relu().unsqueeze(1).expand(3, 6, 6)
    torch.testing.assert_close(torch.stack(way(x, anchors, weight, bias, 8, 0.5)), want)


@WAYS
def test_no_anchors(way: Way) -> None:
    x, anchors, weight, bias = sizes()
    ours, plain = both(x, anchors[:, :0], weight, bias, way=way)
    assert ours[0].shape == (3, 0, 6)
    same(ours, plain, 0.0)
    assert not any(g.any() for g in ours[1])
