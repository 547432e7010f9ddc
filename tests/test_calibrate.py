"""The search for the synthetic set's difficulty."""

import math

import pytest

from experiments.calibrate import Trial, search
from experiments.command import Failure


def falling(noise: float) -> Trial:
    """20 + 60 / (1 + noise / 0.8): half way at 0.8."""
    return Trial(noise, 20.0, 20 + 60 / (1 + noise / 0.8), 80.0)


@pytest.mark.parametrize(("low", "high"), [(0.1, 2.0), (0.7, 40.0), (0.01, 0.9)])
def test_bisection_ends_half_way(low: float, high: float) -> None:
    trials = search(falling, low, high, tolerance=0.01, steps=20)
    assert trials[-1].average_mAP == pytest.approx(50, abs=0.6)
    assert trials[-1].noise == pytest.approx(0.8, rel=0.05)
    assert trials[0].noise == pytest.approx(math.sqrt(low * high), abs=1e-3)
    assert all(abs(t.position - 0.5) > 0.01 for t in trials[:-1])


def test_a_range_without_the_answer_fails_in_words() -> None:
    with pytest.raises(Failure, match=r"after 4 trials .*widen"):
        search(falling, 2.0, 3.0, tolerance=0.01, steps=4)
