"""The proposal map and the samplers: against the released code's arrays, METHOD 4's loops and counts, and properties."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from etad.build import build_sampler
from etad.proposals import Draw, ProposalMap, proposal_map
from etad.randomness import uniform
from etad.segments import tiou
from etad.spec import Spec, parse_spec

SAMPLERS = ("random", "grid", "block", "block-clipped", "label-guided", "feature-guided")
DISTINCT = tuple(name for name in SAMPLERS if name != "block-clipped")
FULL = proposal_map(128, 128)
Sampler = Callable[[Draw], Tensor]


def sampler(name: str, **args: object) -> Sampler:
    return build_sampler(parse_spec({"proposals": {"sampler": {"name": name, "args": args}}}))


def draw(map: ProposalMap, ratio: float, *, epoch: int = 0, rows: Tensor | None = None, seed: int = 0) -> Draw:
    rows = torch.arange(3) if rows is None else rows
    T = map.tscale
    features = torch.stack([torch.randn(T, 12, generator=torch.Generator().manual_seed(int(r))) for r in rows])
    segments = torch.stack([uniform(99, int(r), count=6).view(3, 2).sort(-1).values for r in rows])
    segments[:, 2] = 0.0  # padding
    return Draw(map, ratio, lambda count: uniform(seed, 1, epoch, rows, count=count), features, segments)


# --- the map


def test_map_is_the_released_one(parity: Path) -> None:
    z = np.load(parity / "proposal_map.npz", allow_pickle=False)
    valid = np.zeros((128, 128), dtype=bool)
    valid[FULL.cells[:, 0], FULL.cells[:, 1]] = True
    assert (valid == z["valid"]).all()
    assert len(FULL.anchors) == 8256
    np.testing.assert_allclose(
        FULL.anchors.numpy(), z["anchors"][FULL.cells[:, 0], FULL.cells[:, 1]], rtol=0, atol=1e-6
    )


@given(st.integers(1, 24), st.integers(1, 24))
def test_map_equals_loops(tscale: int, dscale: int) -> None:
    made = proposal_map(tscale, min(dscale, tscale))
    want = [(d, i) for d in range(min(dscale, tscale)) for i in range(tscale) if i + d < tscale]
    assert [tuple(c) for c in made.cells.tolist()] == want
    for (start, end), (d, i) in zip(made.anchors.tolist(), want, strict=True):
        assert (start, end) == pytest.approx((i / tscale, (i + d + 1) / tscale))


# --- counts that METHOD 4 states


def test_grid_is_the_released_one(parity: Path) -> None:
    wanted = np.load(parity / "proposal_map.npz", allow_pickle=False)["grid_6pct"]
    picks = sampler("grid")(draw(FULL, 0.06))
    mask = np.zeros((128, 128), dtype=bool)
    mask[FULL.cells[picks[0], 0], FULL.cells[picks[0], 1]] = True
    assert (mask == wanted).all()
    assert (picks == picks[:1]).all()


@pytest.mark.parametrize(
    ("name", "ratio", "count"),
    [
        ("random", 0.06, 495),
        ("random", 1.0, 8256),
        ("grid", 0.06, 496),
        ("grid", 1.0, 8001),
        ("block", 0.06, 484),
        ("block-clipped", 0.06, 484),
        ("label-guided", 0.06, 495),
        ("feature-guided", 0.02, 165),
    ],
)
def test_counts(name: str, ratio: float, count: int) -> None:
    assert sampler(name)(draw(FULL, ratio)).shape == (3, count)


@given(st.integers(3, 40), st.floats(0.01, 1.0))
def test_grid_equals_loops(tscale: int, ratio: float) -> None:
    map, step = proposal_map(tscale, tscale), math.sqrt(1 / ratio)
    axis, k = [], 0
    while 1 + k * step < tscale:
        if round(1 + k * step) < tscale:
            axis.append(round(1 + k * step))
        k += 1
    want = {(d, i) for d in axis for i in axis if i + d < tscale}
    picks = sampler("grid")(draw(map, ratio, rows=torch.arange(1)))[0]
    assert {tuple(c) for c in map.cells[picks].tolist()} == want


# --- what holds for every sampler


@pytest.mark.parametrize("name", SAMPLERS)
@given(
    tscale=st.integers(4, 24), share=st.sampled_from([0.3, 0.6, 1.0]), ratio=st.sampled_from([0.01, 0.06, 0.2, 0.25])
)
@settings(max_examples=20, deadline=None)
def test_picks_are_valid_and_distinct(name: str, tscale: int, share: float, ratio: float) -> None:
    map = proposal_map(tscale, max(1, round(tscale * share)))
    given = draw(map, ratio)
    if name == "block" and 2 * math.isqrt(given.count) > map.dscale:
        with pytest.raises(ValueError, match="block-clipped"):
            sampler(name)(given)
        return
    if name == "grid" and map.dscale == 1:  # the grid begins with the second duration
        with pytest.raises(ValueError, match="no anchor of a map of 1 x"):
            sampler(name)(given)
        return
    picks = sampler(name)(given)
    assert picks.shape[0] == 3
    assert picks.dtype == torch.int64
    assert 0 <= int(picks.min()) <= int(picks.max()) < len(map.anchors)
    if name in DISTINCT:
        assert all(len(set(row)) == len(row) for row in picks.tolist())
    if name in ("random", "label-guided", "feature-guided"):
        assert picks.shape[1] == max(1, math.floor(len(map.anchors) * ratio))


@pytest.mark.parametrize("name", SAMPLERS)
def test_picks_are_a_function_of_their_keys(name: str) -> None:
    map, pick = proposal_map(32, 32), sampler(name)
    first = pick(draw(map, 0.06))
    assert torch.equal(first, pick(draw(map, 0.06)))
    alone = torch.cat([pick(draw(map, 0.06, rows=torch.tensor([r]))) for r in range(3)])
    assert torch.equal(first, alone)  # whoever shares the batch
    if name == "grid":
        return
    assert not torch.equal(first, pick(draw(map, 0.06, epoch=1)))
    assert not torch.equal(first, pick(draw(map, 0.06, seed=1)))
    assert len({tuple(sorted(row)) for row in first.tolist()}) == 3


def test_random_is_uniform_and_shuffled() -> None:
    map = proposal_map(8, 8)  # 36 anchors
    picks = sampler("random")(draw(map, 0.25, rows=torch.arange(4000)))
    counts = picks.flatten().bincount(minlength=36).double()
    want = 4000 * 9 / 36
    assert ((counts - want) ** 2).sum() / want < 35 + 4 * 70**0.5
    assert abs((picks[:, 0] < picks[:, -1]).double().mean() - 0.5) < 4 * 0.5 / 4000**0.5


# --- block


def test_block_is_one_square_of_durations_by_starts() -> None:
    seen = set()
    for row in sampler("block")(draw(FULL, 0.06, rows=torch.arange(200))):
        d, i = FULL.cells[row].unbind(1)
        x, y = int(d.min()), int(i.min())
        assert {(a, b) for a, b in zip(d.tolist(), i.tolist(), strict=True)} == {
            (a, b) for a in range(x, x + 22) for b in range(y, y + 22)
        }
        assert 0 <= x <= 128 - 44
        assert 0 <= y <= 128 - 44 - x
        seen.add((x, y))
    assert len(seen) > 150


def test_block_draws_both_ends_of_its_ranges() -> None:
    map = proposal_map(8, 8)  # 36 anchors; a square of side 3: x in 0..2, y in 0..2 - x
    picks = sampler("block")(draw(map, 0.25, rows=torch.arange(3000)))
    cells = map.cells[picks]
    corners = [tuple(c) for c in cells.amin(1).tolist()]
    assert set(corners) == {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)}
    for x in range(3):
        assert abs(sum(c[0] == x for c in corners) / 3000 - 1 / 3) < 4 * (2 / 9 / 3000) ** 0.5


def test_block_says_where_its_square_does_not_fit() -> None:
    with pytest.raises(
        ValueError, match=r"side 90 fits no map of 128 x 128; lower proposals.ratio below 0\.511"
    ) as said:
        sampler("block")(draw(FULL, 1.0))
    assert "block-clipped" in str(said.value)
    with pytest.raises(ValueError, match="fits no map of 8 x 32"):
        sampler("block")(draw(proposal_map(32, 8), 0.5))


@pytest.mark.parametrize(("tscale", "dscale"), [(128, 128), (64, 64), (37, 37), (32, 20)])
def test_blocks_advice_is_right(tscale: int, dscale: int) -> None:
    map = proposal_map(tscale, dscale)
    with pytest.raises(ValueError, match=r"lower proposals\.ratio below") as said:
        sampler("block")(draw(map, 1.0))
    advised = float(str(said.value).split("below ")[1].split()[0])
    assert sampler("block")(draw(map, advised - 1e-6)).shape[1] > 0


def test_clipped_block_is_block_where_that_fits() -> None:
    assert torch.equal(sampler("block")(draw(FULL, 0.06)), sampler("block-clipped")(draw(FULL, 0.06)))


def test_clipped_block_holds_every_valid_cell_of_its_square() -> None:
    map = proposal_map(16, 16)  # 136 anchors
    picks = sampler("block-clipped")(draw(map, 0.9))  # side 11, at (0, 0): the ranges are empty
    assert picks.shape == (3, 121)
    want = {(d, i) for d in range(11) for i in range(11) if d + i < 16}
    for row in picks:
        assert {tuple(c) for c in map.cells[row].tolist()} == want


# --- guided


def test_label_guided_gives_each_band_its_third() -> None:
    """One anchor a video, so that no band is emptied: an anchor's chance is a third of its band's share."""
    map, rows = proposal_map(16, 16), torch.arange(30_000)
    segments = torch.tensor([[[0.1, 0.5], [0.6, 0.9], [0.0, 0.0]]]).expand(30_000, -1, -1)
    given = Draw(map, 0.01, lambda count: uniform(0, rows, count=count), torch.zeros(30_000, 16, 1), segments)
    picks = sampler("label-guided")(given)
    assert picks.shape == (30_000, 1)
    best = [max(float(tiou(a, g)) for g in segments[0]) for a in map.anchors]
    band = [2 if u > 0.7 else 1 if u > 0.3 else 0 for u in best]
    chance = torch.tensor([1 / 3 / band.count(b) for b in band], dtype=torch.float64)
    counts, want = picks.flatten().bincount(minlength=len(band)).double(), 30_000 * chance
    assert min(band.count(b) for b in range(3)) >= 2
    assert ((counts - want) ** 2 / want).sum() < len(band) - 1 + 4 * (2 * len(band)) ** 0.5


def test_label_guided_without_segments_is_uniform() -> None:
    map = proposal_map(8, 8)
    rows = torch.arange(3000)
    given = Draw(
        map, 0.25, lambda count: uniform(0, rows, count=count), torch.zeros(3000, 8, 2), torch.zeros(3000, 1, 2)
    )
    counts = sampler("label-guided")(given).flatten().bincount(minlength=36).double()
    want = 3000 * 9 / 36
    assert ((counts - want) ** 2).sum() / want < 35 + 4 * 70**0.5


def test_feature_guided_is_farthest_point_sampling() -> None:
    """Against loops over mean features; the random projection is the sampler's own."""
    map = proposal_map(12, 12)
    given = draw(map, 0.2)
    projection = torch.randn(12, 16, generator=torch.Generator().manual_seed(0))
    for b, row in enumerate(sampler("feature-guided")(given).tolist()):
        spots = [(given.features[b, i : i + d + 1].mean(0) @ projection).double() for d, i in map.cells.tolist()]
        chosen = [row[0]]
        for pick in row[1:]:
            gaps = [min(float((s - spots[c]).square().sum()) for c in chosen) for s in spots]
            assert gaps[pick] >= max(gaps) * (1 - 1e-4)
            chosen.append(pick)


def test_feature_guided_never_repeats_where_all_features_are_equal() -> None:
    given = replace(draw(proposal_map(12, 12), 0.5), features=torch.zeros(3, 12, 4))
    assert all(len(set(row)) == 39 for row in sampler("feature-guided")(given).tolist())


def test_feature_guided_takes_its_number_of_dimensions() -> None:
    given = draw(proposal_map(16, 16), 0.2)
    few, many = sampler("feature-guided", dimensions=1)(given), sampler("feature-guided", dimensions=64)(given)
    assert not torch.equal(few, many)


def test_count_is_at_least_one() -> None:
    assert sampler("random")(draw(proposal_map(4, 4), 0.01)).shape == (3, 1)
    assert Spec().proposals.ratio == 0.06
