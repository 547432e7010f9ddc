"""What kind of error each detection is, what each kind costs in mAP, and which ground truth is missed. No torch.

Source: Alwassel et al., Diagnosing Error in Temporal Action Detectors, ECCV 2018.
Differs: what an error costs is told in plain AP, the headline's, where the paper normalises it by the mean number of
instances a class (the sensitivity is normalised as there, so that groups of different size compare); in a group, a detection
is left out at those thresholds alone where it takes a ground truth of another group; nothing is discarded for low precision
before ground truth counts as missed; instances longer than their video stay in.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from etad.data.annotations import Annotations
from etad.detections import Detections
from etad.evaluate import PROFILES, Truths, match, thresholds, truths_of
from etad.matches import Matches, average_precision, pairs

Floats = NDArray[np.float64]
KINDS = ("true positive", "double detection", "wrong label", "localisation", "confusion", "background")
MISSED = "missed"
LIMIT = 10  # the best 10 G detections of a class with G ground truths are diagnosed
LEAST = 0.1  # under this tIoU with everything, a detection is background
SIZES = ("XS", "S", "M", "L", "XL")
GROUPS: dict[str, dict[str, tuple[float, ...]]] = {  # upper ends of all groups but the last, as in the paper
    "anet": {"coverage": (0.2, 0.4, 0.6, 0.8), "length_s": (30, 60, 120, 180), "instances": (1, 4, 8)},
    "thumos": {"coverage": (0.02, 0.04, 0.06, 0.08), "length_s": (3, 6, 12, 18), "instances": (1, 40, 80)},
}


@dataclass(frozen=True)
class Group:
    """Ground truths of one size."""

    ground_truths: int
    missed: float | None  # share that no detection takes, mean over tIoU; None in an empty group


@dataclass(frozen=True)
class Diagnosis:
    """Numbers only; lists run over `tiou`."""

    tiou: list[float]
    detections: int  # diagnosed: the best 10 G of each class
    mAP: list[float]  # of those
    shares: dict[str, list[float]]  # kind -> share of the detections
    ranks: list[dict[str, float]]  # the best G, the next G ... of each class: kind -> share, mean over tIoU
    gain: dict[str, list[float]]  # kind, or missed -> mAP gained if it were gone
    missed: list[float]  # share of the ground truth that no detection takes, be it of the best 10 G or not
    false_negatives: dict[str, dict[str, Group]]  # characteristic -> size -> group
    average_mAP_N: float  # normalised, of all detections
    sensitivity: dict[str, dict[str, float | None]]  # characteristic -> size -> average mAP_N; None in an empty group


def diagnose(
    annotations: Annotations,
    detections: Detections,
    *,
    tiou: Sequence[float],
    subset: str,
    blocked: frozenset[str] = frozenset(),
    profile: str = "official",
    groups: Mapping[str, tuple[float, ...]] = GROUPS["anet"],
) -> Diagnosis:
    """Diagnose detections under the protocol of `evaluate`. Raises ValueError as `evaluate` does."""
    rules, truths = PROFILES[profile], truths_of(annotations, subset, blocked)
    used = thresholds(tiou, rules.thresholds)
    matches, rows, _ = match(truths, detections, used, rules, blocked)
    label = np.repeat(np.arange(len(truths.classes)), np.diff(matches.bounds))
    rank = (np.arange(len(rows)) - matches.bounds[label]) // np.bincount(truths.label)[label]  # 0: among the best G
    limited = rank < LIMIT
    empty = np.inf if rules.empty_pairs == "match" else 0.0
    best, best_class = _best(truths, matches.video, detections.segments_s[rows], empty)
    kinds = np.where(best >= used[:, None], 1, np.where(best >= LEAST, 3, 5))  # [t, n] indexes KINDS
    kinds += (kinds < 5) & (best_class != label)
    kinds[matches.hit_tiou, matches.hit_row] = 0
    shares = np.array([(kinds[:, limited] == kind).mean(axis=1) if limited.any() else 0 * used for kind in range(6)])
    taken = np.zeros((len(used), len(truths.video)), np.bool_)
    taken[matches.hit_tiou, matches.hit_truth] = True
    mean, gain = _gains(matches, kinds, limited)
    sizes = _sizes(truths, groups)
    normal = len(truths.video) / len(truths.classes)
    return Diagnosis(
        tiou=used.tolist(),
        detections=int(limited.sum()),
        mAP=mean.tolist(),
        shares=dict(zip(KINDS, shares.tolist(), strict=True)),
        ranks=[
            {name: float((kinds[:, rank == n] == kind).mean()) for kind, name in enumerate(KINDS)}
            for n in range(LIMIT)
            if (rank == n).any()
        ],
        gain=gain,
        missed=(1 - taken.mean(axis=1)).tolist(),
        false_negatives=_false_negatives(sizes, 1 - taken.mean(axis=0)),
        average_mAP_N=float(average_precision(matches, normal=normal)[0].mean()),
        sensitivity={
            name: {text: _sensitivity(matches, inside, normal) for text, inside in of.items()}
            for name, of in sizes.items()
        },
    )


def _best(
    truths: Truths, video: NDArray[np.int32], segments_s: Floats, empty: float
) -> tuple[Floats, NDArray[np.int64]]:
    """The largest tIoU of each detection with any ground truth of its video, whatever its class, and that one's class."""
    row, truth, value = pairs(video, segments_s, truths.video, truths.segments_s, least=LEAST, empty=empty)
    first = np.flatnonzero(np.diff(row, prepend=-1))
    best, label = np.zeros(len(video)), np.full(len(video), -1)
    best[row[first]], label[row[first]] = value[first], truths.label[truth[first]]
    return best, label


def _gains(
    matches: Matches, kinds: NDArray[np.int64], limited: NDArray[np.bool_]
) -> tuple[Floats, dict[str, list[float]]]:
    """mAP [t] of the limited detections, and what it gains without each kind of error.

    Without `missed`, the ground truth that none of them takes is not asked for; a class that has no other stays at 0.
    """
    mean = average_precision(matches, rows=limited.astype(np.float64))[0].mean(axis=0)
    gain: dict[str, list[float]] = {kind: [] for kind in (*KINDS[1:], MISSED)}
    for index, one in enumerate(_thresholds(matches)):
        for kind, name in enumerate(KINDS[1:], 1):
            left = (limited & (kinds[index] != kind)).astype(np.float64)
            gain[name].append(float(average_precision(one, rows=left)[0].mean() - mean[index]))
        taken = np.zeros(len(matches.truth_video))
        taken[one.hit_truth[limited[one.hit_row]]] = 1.0
        without = average_precision(one, rows=limited.astype(np.float64), truths=taken)[0]
        gain[MISSED].append(float(without.mean() - mean[index]))
    return mean, gain


def _thresholds(matches: Matches) -> Iterator[Matches]:
    """The matches at each threshold alone."""
    for index in range(len(matches.tiou)):
        at = matches.hit_tiou == index
        yield replace(
            matches,
            tiou=matches.tiou[index : index + 1],
            hit_tiou=matches.hit_tiou[at] * 0,
            hit_row=matches.hit_row[at],
            hit_truth=matches.hit_truth[at],
        )


def _sizes(truths: Truths, groups: Mapping[str, tuple[float, ...]]) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Characteristic -> size -> which ground truths [g] have it."""
    length = truths.segments_s[:, 1] - truths.segments_s[:, 0]
    _, same, counts = np.unique(
        truths.video.astype(np.int64) * len(truths.classes) + truths.label, return_inverse=True, return_counts=True
    )
    values = {"coverage": length / truths.duration_s[truths.video], "length_s": length, "instances": counts[same]}
    out = {}
    for name, ends in groups.items():
        size = np.searchsorted(ends, values[name], side="left")
        out[name] = {text: size == index for index, text in enumerate(SIZES[: len(ends) + 1])}
    return out


def _false_negatives(
    sizes: Mapping[str, Mapping[str, NDArray[np.bool_]]], missed: Floats
) -> dict[str, dict[str, Group]]:
    return {
        name: {
            text: Group(int(inside.sum()), float(missed[inside].mean()) if inside.any() else None)
            for text, inside in of.items()
        }
        for name, of in sizes.items()
    }


def _sensitivity(matches: Matches, inside: NDArray[np.bool_], normal: float) -> float | None:
    """Average mAP_N over the classes that have ground truth `inside` [g], detections that take other ones left out."""
    if not inside.any():
        return None
    means = []
    for one in _thresholds(matches):
        rows = np.ones(len(matches.video))
        rows[one.hit_row[~inside[one.hit_truth]]] = 0.0
        ap, positives = average_precision(one, rows=rows, truths=inside.astype(np.float64), normal=normal)
        means.append(ap[positives > 0].mean())
    return float(np.mean(means))
