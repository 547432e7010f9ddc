"""Geometry of segments: worked by hand, and properties over any segments."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from etad.segments import encode, ioa, refine, tiou

NUMBER = st.floats(-2.0, 3.0, allow_nan=False, width=32)
SEGMENT = st.tuples(NUMBER, NUMBER).map(sorted)
ANCHOR = st.tuples(NUMBER, st.floats(0.015625, 2.0, width=32)).map(lambda x: (x[0], x[0] + x[1]))


def tensor(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("a", "b", "want"),
    [
        ((0.0, 1.0), (0.0, 1.0), 1.0),
        ((0.0, 0.5), (0.25, 0.75), 1 / 3),
        ((0.0, 0.5), (0.5, 1.0), 0.0),
        ((0.0, 0.1), (0.5, 1.0), 0.0),
        ((0.2, 0.3), (0.0, 1.0), 0.1),
        ((0.3, 0.3), (0.3, 0.3), 0.0),  # both empty: defined as 0
        ((0.3, 0.3), (0.0, 1.0), 0.0),
        ((0.6, 0.4), (0.0, 1.0), 0.0),  # inverted
    ],
)
def test_tiou_by_hand(a: tuple[float, float], b: tuple[float, float], want: float) -> None:
    assert float(tiou(tensor(*a), tensor(*b))) == pytest.approx(want)


@given(SEGMENT, SEGMENT)
def test_tiou_is_symmetric_and_a_fraction(a: list[float], b: list[float]) -> None:
    one, other = tiou(tensor(*a), tensor(*b)), tiou(tensor(*b), tensor(*a))
    assert float(one) == pytest.approx(float(other), abs=1e-12)
    assert 0.0 <= float(one) <= 1.0 + 1e-12


@given(ANCHOR, ANCHOR, st.floats(-3, 3), st.floats(0.1, 10))
def test_tiou_keeps_under_shift_and_scale(a: tuple, b: tuple, shift: float, scale: float) -> None:
    moved = tiou(tensor(*a) * scale + shift, tensor(*b) * scale + shift)
    assert float(moved) == pytest.approx(float(tiou(tensor(*a), tensor(*b))), abs=1e-9)


def test_tiou_broadcasts() -> None:
    anchors, segments = torch.rand(5, 1, 2).sort(-1).values, torch.rand(3, 2).sort(-1).values
    table = tiou(anchors, segments)
    assert table.shape == (5, 3)
    assert table[4, 2] == tiou(anchors[4, 0], segments[2])


def test_ioa_divides_by_the_first_length() -> None:
    assert float(ioa(tensor(0.0, 0.25), tensor(0.125, 1.0), 0.25)) == pytest.approx(0.5, abs=1e-5)
    inside = float(ioa(tensor(0.5, 0.5 + 1 / 128), tensor(0.0, 1.0), 1 / 128))
    assert inside == pytest.approx(1 / (1 + 128e-6), rel=1e-9)
    assert inside == pytest.approx(0.99987, abs=5e-6)


def test_encode_by_hand() -> None:
    offsets = encode(tensor(0.2, 0.6), tensor(0.3, 0.5)).tolist()
    assert offsets == pytest.approx([0.25, -0.25, 0.0, math.log(0.5 + 1e-6)])


def test_encode_of_empty_lengths_is_finite() -> None:
    assert encode(tensor(0.5, 0.5), tensor(0.2, 0.4)).isfinite().all()
    assert encode(tensor(0.2, 0.4), tensor(0.5, 0.5)).isfinite().all()
    assert encode(tensor(0.4, 0.2), tensor(0.5, 0.6)).isfinite().all()


@given(ANCHOR, ANCHOR)
def test_refine_undoes_encode(anchor: tuple[float, float], segment: tuple[float, float]) -> None:
    back = refine(tensor(*anchor), encode(tensor(*anchor), tensor(*segment)))
    # log(... + 1e-6) widens the target by 1e-6 of the anchor's length, in one of the two parametrisations
    assert back.tolist() == pytest.approx(list(segment), abs=1e-6 * (1 + anchor[1] - anchor[0]))


def test_refine_is_the_mean_of_both_parametrisations_and_not_clipped() -> None:
    by_ends = refine(tensor(0.2, 0.6), tensor(0.5, 1.0, 0.0, 0.0))
    assert by_ends.tolist() == pytest.approx([(0.4 + 0.2) / 2, (1.0 + 0.6) / 2])
    by_centre = refine(tensor(0.2, 0.6), tensor(0.0, 0.0, 1.0, math.log(2.0)))
    assert by_centre.tolist() == pytest.approx([(0.2 + 0.4) / 2, (0.6 + 1.2) / 2])
    outside = refine(tensor(0.2, 0.6), tensor(-2.0, 2.0, 0.0, 1.0, 0.9, 0.9))  # further columns are not read
    assert outside.tolist()[0] < 0
    assert outside.tolist()[1] > 1
