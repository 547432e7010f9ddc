"""Verdicts on made-up data with known answers."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ablations import verdict
from ablations.study import Claim, above, not_worse
from ablations.verdict import Difference, compare, draws, judge, power, scores, word_of
from etad.matches import Matches, mean_average_precision

Floats = NDArray[np.float64]
WORDS = {"sentence": "s", "source": "t"}
ABOVE = above("a", {"x": 1}, than={"x": 0}, **WORDS)
NOT_WORSE = not_worse("n", {"x": 1}, than={"x": 0}, **WORDS)


def worlds(
    rng: np.random.Generator, weights: Floats, truth: float, seeds: int, seed_sd: float = 0.8, video_sd: float = 7.2
) -> tuple[Floats, Floats]:
    """Runs of two values on the same videos: a video is as hard for both, and one value is better by `truth` on average.

    The score of a run is a mean over videos, so that what a bootstrap should say is known.
    """
    videos = weights.shape[1]
    hard, better = rng.normal(50, 10, videos), truth + rng.normal(0, video_sd, videos)

    def run(values: Floats) -> Floats:
        noisy = values + rng.normal(0, seed_sd / np.sqrt(2)) + rng.normal(0, 3, videos)
        return np.asarray(weights @ noisy / videos)

    return np.array([run(hard + better) for _ in range(seeds)]), np.array([run(hard) for _ in range(seeds)])


@pytest.mark.parametrize(("seeds", "videos", "seed_sd"), [(6, 300, 0.8), (3, 100, 0.8), (6, 200, 2.0), (2, 200, 0.8)])
def test_an_interval_covers_as_often_as_it_claims(seeds: int, videos: int, seed_sd: float) -> None:
    rng, weights = np.random.default_rng(seeds), draws(videos, 300)
    inside = []
    for _ in range(400):
        truth = float(rng.normal())
        found = compare(*worlds(rng, weights, truth, seeds, seed_sd))
        inside.append(found.low < truth < found.high)
    assert 0.92 <= np.mean(inside) <= 0.99


def test_control_videos_drawn_anew_for_each_seed_cover_too_little() -> None:
    rng, videos, seeds = np.random.default_rng(0), 100, 6
    apart = [draws(videos, 300, seed=n) for n in range(seeds)]
    inside = []
    for _ in range(300):
        truth = float(rng.normal())
        better = truth + rng.normal(0, 7.2, videos)
        left = np.array([w @ (better + rng.normal(0, 0.5)) / videos for w in apart])
        right = np.array([w @ np.full(videos, rng.normal(0, 0.5)) / videos for w in apart])
        found = compare(left, right)
        inside.append(found.low < truth < found.high)
    assert np.mean(inside) < 0.85


def test_no_difference_is_seldom_called_one() -> None:
    rng, weights = np.random.default_rng(3), draws(300, 300)
    words = {"above": [], "not worse": []}  # type: dict[str, list[str]]
    for _ in range(300):
        left, right = worlds(rng, weights, 0.0, 6)
        found = compare(left, right)
        words["above"].append(word_of(ABOVE, found, 1.0))
        worse, base = worlds(rng, weights, -1.0, 6)  # worse by just the margin
        words["not worse"].append(word_of(NOT_WORSE, compare(worse, base), 1.0))
    assert words["above"].count("holds") / 300 < 0.05
    assert words["not worse"].count("holds") / 300 < 0.08
    left, _ = worlds(rng, weights, 0.0, 6)
    same = compare(left, left)
    assert same.value == 0
    assert same.low < 0 < same.high


@pytest.mark.parametrize("claim", [ABOVE, NOT_WORSE])
def test_power_is_how_often_a_true_claim_holds(claim: Claim) -> None:
    rng, weights = np.random.default_rng(1), draws(1000, 200)
    truth = 1.0 if claim.kind == "above" else 0.0
    holds = []
    for _ in range(200):
        left, right = worlds(rng, weights, truth, 6, verdict.SEED_SD, verdict.VIDEO_SD)
        holds.append(word_of(claim, compare(left, right), 1.0) == "holds")
    stated = power(claim, margin=1.0, seeds=6, videos=1000)
    assert np.mean(holds) == pytest.approx(stated, abs=0.12)
    assert 0.6 < stated < 0.9


def test_power_grows_with_what_is_measured() -> None:
    def at(**size: float) -> float:
        return power(NOT_WORSE, **({"margin": 1.0, "seeds": 6, "videos": 1000} | size))  # type: ignore[arg-type]

    assert at(seeds=3) < at() < at(seeds=12)
    assert at(videos=200) < at() < at(videos=5000)
    assert at(margin=0.5) < at()


@pytest.mark.parametrize(
    ("claim", "interval", "word"),
    [
        (ABOVE, (0.1, 3.0), "holds"),
        (ABOVE, (-0.5, 0.9), "does not hold"),
        (ABOVE, (-3.0, -1.0), "does not hold"),
        (ABOVE, (-0.5, 1.1), "undecided"),
        (NOT_WORSE, (-0.9, 0.5), "holds"),
        (NOT_WORSE, (-3.0, -1.1), "does not hold"),
        (NOT_WORSE, (-1.4, 0.5), "undecided"),
    ],
)
def test_words(claim: Claim, interval: tuple[float, float], word: str) -> None:
    low, high = interval
    assert word_of(claim, Difference((low + high) / 2, low, high, bound=low), 1.0) == word


def test_a_verdict_hides_no_numbers() -> None:
    rng, weights = np.random.default_rng(0), draws(1000, 200)
    left, right = worlds(rng, weights, 4.0, 6)
    more = {"margin": 1.0, "data": "synthetic-1", "videos": 1000}
    held = judge(ABOVE, left, right, **more, runs=("a", "b"))  # type: ignore[arg-type]
    assert (held.word, held.seeds, held.videos, held.looks, held.runs) == ("holds", 6, 1000, 1, ("a", "b"))
    assert held.low is not None
    assert held.high is not None
    assert held.difference == pytest.approx(left[:, 0].mean() - right[:, 0].mean())
    assert held.low < held.difference < held.high
    for number in (held.difference, held.low, held.high):
        assert f"{number:+.2f}" in held.reason
    wider = judge(ABOVE, left, right, **more, looks=4)  # type: ignore[arg-type]
    assert wider.low < held.low < held.high < wider.high  # type: ignore[operator]
    assert judge(ABOVE, left, right, **more, own=True).word == "reproduced"  # type: ignore[arg-type]
    unsettled = judge(NOT_WORSE, left, right, **more, gains=(0.2, 1.7))  # type: ignore[arg-type]
    assert (unsettled.word, "1.70" in unsettled.reason) == ("undecided", True)
    assert judge(NOT_WORSE, left, right, **more, gains=(0.2, 0.7)).word == "holds"  # type: ignore[arg-type]
    single = judge(ABOVE, left[:1], right[:1], **more)  # type: ignore[arg-type]
    assert "one seed" in single.reason


def test_scores_are_those_of_copied_videos() -> None:
    matches = Matches(
        ids=("a", "b", "c"),
        classes=("x",),
        tiou=np.array([0.5, 0.7]),
        video=np.array([0, 1, 2, 0], np.int32),
        bounds=np.array([0, 4]),
        truth_video=np.array([0, 1, 2], np.int32),
        truth_class=np.zeros(3, np.int32),
        hit_tiou=np.array([0, 0, 1], np.int16),
        hit_row=np.array([0, 2, 2], np.int32),
        hit_truth=np.array([0, 2, 2], np.int32),
    )
    weights = draws(3, 20)
    assert weights.shape == (21, 3)
    assert (weights.sum(axis=1) == 3).all()
    assert (weights[0] == 1).all()
    found = scores(matches, weights)
    assert found.shape == (21, 2)
    assert found[0] == pytest.approx(100 * mean_average_precision(matches))
    # by hand: hits of weights a and c among a, b, c (by falling score), over a + b + c ground truths
    for (a, b, c), value in zip(weights, found, strict=True):
        last = (a + c) / (a + b + c)  # precision at the second hit
        first = max(1.0, last) if a else 0.0
        at_05 = (a * first + c * last) / 3
        at_07 = c * (c / (a + b + c)) / 3
        assert value == pytest.approx([100 * at_05, 100 * at_07])
