"""Targets: against the released code's arrays, and against loops written from METHOD 6."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etad.targets import boundary_at, boundary_targets, match


@pytest.mark.parametrize("video", range(4))
def test_targets_are_the_released_ones(parity: Path, video: int) -> None:
    z = {k[3:]: v for k, v in np.load(parity / "targets.npz", allow_pickle=False).items() if k[:2] == f"v{video}"}
    segments = torch.tensor(z["segments_s"] / z["duration"]).clamp(0, 1).float()[None]
    present = torch.ones(segments.shape[:2], dtype=torch.bool)
    boundary = boundary_targets(segments, present, 128)[0]
    torch.testing.assert_close(boundary, torch.tensor(np.stack((z["start"], z["end"]))), rtol=0, atol=1e-5)
    matched = match(torch.tensor(z["anchors"])[None], segments, present)[0][0]
    torch.testing.assert_close(matched, torch.tensor(z["matched"]), rtol=0, atol=1e-6)


SEGMENTS = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted).filter(lambda s: s[1] - s[0] > 1e-3), min_size=1, max_size=5
)


@given(SEGMENTS, st.integers(0, 3), st.sampled_from([1, 8, 50]))
@settings(deadline=None)
def test_boundary_targets_equal_loops(segments: list[list[float]], padding: int, tscale: int) -> None:
    given = torch.tensor([segments + [[0.4, 0.6]] * padding], dtype=torch.float64)
    present = torch.tensor([[True] * len(segments) + [False] * padding])
    made = boundary_targets(given, present, tscale)
    assert made.shape == (1, 2, tscale)
    for side in (0, 1):
        for t in range(tscale):
            left, right = t / tscale, (t + 1) / tscale
            overlaps = [
                max(0.0, min(right, s[side] + 1.5 / tscale) - max(left, s[side] - 1.5 / tscale)) for s in segments
            ]
            assert float(made[0, side, t]) == pytest.approx(max(overlaps) / (1 / tscale + 1e-6), abs=1e-9)
    assert made.max() < 1


@given(SEGMENTS, st.integers(0, 2), st.integers(0, 10**6))
@settings(deadline=None)
def test_match_equals_loops(segments: list[list[float]], padding: int, seed: int) -> None:
    given = torch.tensor([segments + [[0.0, 0.0]] * padding], dtype=torch.float64)
    present = torch.tensor([[True] * len(segments) + [False] * padding])
    anchors = torch.rand(1, 20, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).sort(-1).values
    made, index = (part[0].tolist() for part in match(anchors, given, present))
    for (a0, a1), found, place in zip(anchors[0].tolist(), made, index, strict=True):
        assert found == given[0, place].tolist()
        best, chosen = -1.0, segments[0]
        for g0, g1 in segments:
            overlap = max(0.0, min(a1, g1) - max(a0, g0))
            u = overlap / ((a1 - a0) + (g1 - g0) - overlap)
            if u > best + 1e-12:
                best, chosen = u, [g0, g1]
        assert found == pytest.approx(chosen)


def test_equal_overlaps_take_the_first_in_annotation_order() -> None:
    segments = torch.tensor([[[0.5, 0.75], [0.0, 0.25], [0.5, 0.75]]])
    present = torch.ones(1, 3, dtype=torch.bool)
    anchors = torch.tensor([[[0.25, 0.5], [0.125, 0.625], [0.0, 0.25]]])  # none, both alike, the second
    assert [part[0].tolist() for part in match(anchors, segments, present)] == [
        [[0.5, 0.75], [0.5, 0.75], [0.0, 0.25]],
        [0, 0, 1],
    ]


def test_padding_is_never_matched_nor_a_boundary() -> None:
    segments = torch.tensor([[[0.1, 0.2], [0.6, 0.9]]])
    present = torch.tensor([[True, False]])
    anchors = torch.tensor([[[0.6, 0.9]]])
    assert match(anchors, segments, present)[0].tolist() == segments[:, :1].tolist()
    far = torch.tensor([[[0.3, 0.4]]])  # overlaps neither
    assert match(far, segments.flip(1), present.flip(1))[0].tolist() == segments[:, :1].tolist()
    alone = boundary_targets(segments[:, :1], present[:, :1], 32)
    assert torch.equal(boundary_targets(segments, present, 32), alone)
    assert not boundary_targets(segments, torch.zeros(1, 2, dtype=torch.bool), 32).any()


def test_batched_equals_single() -> None:
    segments = torch.rand(4, 3, 2).sort(-1).values
    present = torch.tensor([[True, True, True], [True, False, False], [True, True, False], [True, True, True]])
    anchors = torch.rand(4, 9, 2).sort(-1).values
    for b in range(4):
        row = slice(b, b + 1)
        assert torch.equal(
            boundary_targets(segments, present, 16)[row], boundary_targets(segments[row], present[row], 16)
        )
        alone = match(anchors[row], segments[row, : int(present[b].sum())], present[row, : int(present[b].sum())])
        for together, single in zip(match(anchors, segments, present), alone, strict=True):
            assert torch.equal(together[row], single)


def test_boundary_at_reads_the_snippet_of_each_end() -> None:
    boundary = torch.arange(8.0).view(1, 2, 4)  # startness 0..3, endness 4..7
    anchors = torch.tensor([[[0.0, 1.0], [0.25, 0.49], [-3.0, 7.0], [0.74, 0.75], [math.inf, -math.inf]]])
    assert boundary_at(boundary, anchors)[0].tolist() == [[0, 7], [1, 5], [0, 7], [2, 7], [3, 4]]


def test_boundary_at_survives_a_lost_anchor() -> None:
    assert boundary_at(torch.rand(1, 2, 4), torch.full((1, 1, 2), math.nan)).isfinite().all()
