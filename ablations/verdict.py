"""Differences between runs with their intervals, and the word that follows for a claim. No torch, no I/O.

A replicate draws the videos once, for all seeds and values, and the seeds of each value apart. Of S seeds S - 1 are drawn,
which makes the variance of a mean of few seeds come out right (Rao and Wu, 1988); quantiles are widened as Student's t is
against the normal, by the degrees of freedom that the seeds leave (Welch, Satterthwaite).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from ablations.outcome import Verdict, Word
from ablations.study import Claim
from etad.matches import Matches, mean_average_precision

Floats = NDArray[np.float64]
REPLICATES = 1000
OWN = ("anet", "thumos")  # data of the paper
# Assumed before any run, in points of mAP: deviation of a difference between seeds, and between single videos. They give
# 80 % power for a margin of 1 point at 6 seeds and 1,000 videos, as a sketch of the laptop preset did.
SEED_SD, VIDEO_SD = 0.8, 7.2


def draws(videos: int, replicates: int = REPLICATES, seed: int = 0) -> Floats:
    """How often each replicate draws each video [1 + R, V]; the first row is the data as they are."""
    counts = np.random.default_rng(seed).multinomial(videos, np.full(videos, 1 / videos), replicates)
    return np.vstack([np.ones(videos), counts])


def scores(matches: Matches, weights: Floats) -> Floats:
    """mAP of a run in points at each tIoU under each row of weights [1 + R, V]: [1 + R, t]."""
    return np.array([100 * mean_average_precision(matches, row) for row in weights])


@dataclass(frozen=True)
class Difference:
    """Left minus right in points, with its two-sided interval and the lower bound of the one-sided one."""

    value: float
    low: float
    high: float
    bound: float


def _drawn(runs: Floats, rng: np.random.Generator) -> tuple[Floats, float]:
    """Replicates [R] of the mean over runs [S, 1 + R], their seeds drawn; and the variance that the seeds give the mean."""
    count = len(runs)
    if count == 1:
        return runs[0, 1:], 0.0
    picks = rng.integers(0, count, (count - 1, runs.shape[1] - 1))
    mean: Floats = np.take_along_axis(runs[:, 1:], picks, axis=0).mean(axis=0)
    return mean, float(runs[:, 0].var(ddof=1)) / count


def compare(left: Floats, right: Floats | None = None, *, confidence: float = 0.95, seed: int = 1) -> Difference:
    """The mean of left minus that of right, both [S, 1 + R] as `scores` gives them; without right, the mean alone."""
    rng = np.random.default_rng(seed)
    sides = [left] if right is None else [left, right]
    made = [_drawn(runs, rng) for runs in sides]
    value = float(left[:, 0].mean() - (0.0 if right is None else right[:, 0].mean()))
    replicates = made[0][0] - (0.0 if right is None else made[1][0])
    replicates = replicates - replicates.mean()  # a resampled mAP is biased; its spread is what is wanted
    noise = float(replicates.var())
    doubt = sum(v**2 / (len(runs) - 1) for runs, (_, v) in zip(sides, made, strict=True) if len(runs) > 1)
    freedom = max(noise**2 / doubt, 1.0) if doubt > 0 else np.inf

    def at(share: float) -> float:
        wider = stdtrit(freedom, share) / ndtri(share) if np.isfinite(freedom) else 1.0
        return value + float(wider * np.quantile(replicates, share))

    tail = 1 - confidence
    return Difference(value, at(tail / 2), at(1 - tail / 2), at(tail))


def power(claim: Claim, *, margin: float, seeds: int, videos: int) -> float:
    """Probability of `holds` under the assumed noise, where the truth is the margin ("above") or 0 ("not worse")."""
    error = np.sqrt(SEED_SD**2 / seeds + VIDEO_SD**2 / videos)
    tail = 1 - claim.confidence
    return float(ndtr(margin / error - ndtri(1 - (tail / 2 if claim.kind == "above" else tail))))


def word_of(claim: Claim, found: Difference, margin: float) -> Word:
    """Source: EVIDENCE, Claims."""
    if claim.kind == "above":
        return "holds" if found.low > 0 else "does not hold" if found.high < margin else "undecided"
    return "holds" if found.bound > -margin else "does not hold" if found.high < -margin else "undecided"


def judge(
    claim: Claim,
    left: Floats,
    right: Floats,
    *,
    margin: float,
    data: str,
    videos: int,
    own: bool = False,
    looks: int = 1,
    gains: Sequence[float] = (),
    runs: Sequence[str] = (),
    variants: Sequence[Verdict] = (),
) -> Verdict:
    """The verdict on runs [S, 1 + R] of both sides; `gains` are what twice the schedule adds to each of `claim.settled`.

    With `looks` at growing numbers of seeds each interval leaves out 1 / looks of the error allowed (Bonferroni).
    """
    found = compare(left, right, confidence=1 - (1 - claim.confidence) / looks)
    word = word_of(claim, found, margin)
    size = f"{found.value:+.2f} points ({found.low:+.2f} to {found.high:+.2f})"
    reason = f"the difference is {size}"
    if claim.kind == "not worse":
        reason += f", its one-sided bound {found.bound:+.2f} against {-margin:+.2f}"
    unsettled = [gain for gain in gains if gain > margin]
    if unsettled:
        word, reason = "undecided", f"{reason}, but twice the schedule still gains {max(unsettled):.2f} points"
    if own:
        word = {"holds": "reproduced", "does not hold": "not reproduced"}.get(word, word)  # type: ignore[assignment]
    if min(len(left), len(right)) == 1:
        reason += "; one seed: the interval knows the videos' noise only"
    return Verdict(
        claim=claim.name,
        sentence=claim.sentence,
        source=claim.source,
        criterion=claim.criterion(margin),
        word=word,
        data=data,
        reason=reason,
        metric=claim.metric,
        difference=found.value,
        low=found.low,
        high=found.high,
        margin=margin,
        confidence=claim.confidence,
        power=power(claim, margin=margin, seeds=min(len(left), len(right)), videos=videos),
        seeds=min(len(left), len(right)),
        videos=videos,
        looks=looks,
        runs=tuple(runs),
        variants=tuple(variants),
    )


def not_run(claim: Claim, reason: str, *, margin: float, data: str, seeds: int, videos: int) -> Verdict:
    """The claim as it stands where runs are missing: its criterion and its power."""
    return Verdict(
        claim=claim.name,
        sentence=claim.sentence,
        source=claim.source,
        criterion=claim.criterion(margin),
        word="not run",
        data=data,
        reason=reason,
        metric=claim.metric,
        margin=margin,
        confidence=claim.confidence,
        power=power(claim, margin=margin, seeds=seeds, videos=videos) if videos else None,
    )
