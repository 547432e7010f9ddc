"""Which detection takes which ground truth at each tIoU, and the average precision that follows. No torch.

Source: METHOD 11; the rules are those of the official ActivityNet evaluator, without its loop over detections.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etad.detections import tiou
from etad.record import replacing

Floats = NDArray[np.float64]
Ints = NDArray[np.integer]
PAIRS = 2_000_000  # pairs held at a time


class MatchesError(ValueError):
    """A file of matches that cannot be read; the message names it."""


@dataclass(frozen=True)
class Matches:
    """The outcome of matching n detections with g ground truths at t thresholds: P hits.

    Rows are detections by class, then by falling score. A bootstrap over videos judges again from this alone.
    """

    ids: tuple[str, ...]  # V videos, in annotation order
    classes: tuple[str, ...]  # C classes with ground truth
    tiou: Floats  # [t]
    video: NDArray[np.int32]  # [n] indexes ids; V: a video outside
    bounds: NDArray[np.int64]  # [C + 1] rows bounds[c]:bounds[c + 1] carry class c
    truth_video: NDArray[np.int32]  # [g]
    truth_class: NDArray[np.int32]  # [g]
    hit_tiou: NDArray[np.int16]  # [P] index of the threshold, rising
    hit_row: NDArray[np.int32]  # [P] the detection, rising within a threshold
    hit_truth: NDArray[np.int32]  # [P] the ground truth it takes


def pairs(
    row_key: Ints, row_s: Floats, truth_key: Ints, truth_s: Floats, *, least: float, empty: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """(row, truth, tIoU) of equal keys whose tIoU is at least `least`; by row, then falling tIoU, then rising truth.

    `empty` stands in for the tIoU 0/0 of two segments of no length.
    """
    by_key = np.argsort(truth_key, kind="stable")
    keys, first, counts = np.unique(truth_key[by_key], return_index=True, return_counts=True)
    group = np.minimum(np.searchsorted(keys, row_key), len(keys) - 1)
    rows = np.flatnonzero(keys[group] == row_key)
    first, counts = first[group[rows]], counts[group[rows]]
    ends = np.cumsum(counts)
    found = []
    for start in range(0, int(ends[-1]) if len(ends) else 0, PAIRS):
        part = slice(*np.searchsorted(ends, [start, start + PAIRS], side="right"))
        row = np.repeat(rows[part], counts[part])
        inside = np.arange(len(row)) - np.repeat(np.cumsum(counts[part]) - counts[part], counts[part])
        truth = by_key[np.repeat(first[part], counts[part]) + inside]
        value = tiou(row_s[row], truth_s[truth])
        value[np.isnan(value)] = empty
        enough = value >= least
        found.append((row[enough], truth[enough], value[enough]))
    row, truth, value = (
        (np.concatenate(column) for column in zip(*found, strict=True)) if found else (rows, rows, np.empty(0))
    )
    several = np.flatnonzero(np.bincount(row, minlength=len(row_key))[row] > 1)  # only these are out of order
    order = np.arange(len(row))
    order[several] = several[np.lexsort((truth[several], -value[several], row[several]))]
    return row[order], truth[order], value[order]


def take(row: Ints, truth: Ints, count: int) -> NDArray[np.int64]:
    """For each of `count` truths the pair that takes it, len(row) where none does; pairs as `pairs` orders them.

    Rows choose in turn the best truth not taken yet. Every truth prefers the earlier row, so letting all rows propose at
    once and the truths swap up (deferred acceptance) ends in the same, only possible stable matching, in few rounds.
    """
    none = len(row)
    holder = np.full(count, none)
    proposals = np.flatnonzero(np.diff(row, prepend=-1))
    while len(proposals):
        before = holder.copy()
        np.minimum.at(holder, truth[proposals], proposals)
        refused = proposals[holder[truth[proposals]] != proposals]
        dropped = before[(before != holder) & (before < none)]
        onward = np.concatenate([refused, dropped]) + 1  # each one's next best truth, if it has another
        onward = onward[onward < none]
        proposals = onward[row[onward] == row[onward - 1]]
    return holder


def average_precision(
    matches: Matches,
    videos: Floats | None = None,
    rows: Floats | None = None,
    truths: Floats | None = None,
    normal: float | None = None,
) -> tuple[Floats, Floats]:
    """Interpolated AP [C, t] in [0, 1], and the weight of ground truth [C] of each class; AP 0 where that is 0.

    `videos` [V] are weights of the videos, such as how often a bootstrap drew each: the result equals that of so many
    copies. `rows` [n] and `truths` [g] replace those weights one by one. Outside videos weigh 1. `normal` gives AP_N:
    precision as if each class had that many ground truths, found in the same share, beside the same false positives.
    """
    each = None if videos is None else np.append(videos, 1.0)
    if rows is None and each is not None:
        rows = each[matches.video]
    if truths is None:
        truths = np.ones(len(matches.truth_video)) if each is None else each[matches.truth_video]
    c, t, p = len(matches.classes), len(matches.tiou), len(matches.hit_row)
    positives: Floats = np.bincount(matches.truth_class, truths, c).astype(np.float64)
    seen = np.arange(len(matches.video) + 1.0) if rows is None else np.concatenate([[0.0], np.cumsum(rows)])
    weight = np.ones(p) if rows is None else rows[matches.hit_row]
    label = matches.truth_class[matches.hit_truth]
    group = matches.hit_tiou.astype(np.int64) * c + label
    sizes = np.bincount(group, minlength=t * c)
    starts = np.cumsum(sizes) - sizes
    found = np.concatenate([[0.0], np.cumsum(weight)])
    among = seen[matches.hit_row + 1] - seen[matches.bounds[label]]
    right = found[1:] - found[starts[group]]
    if normal is not None:
        factor = np.divide(normal, positives, out=np.zeros(c), where=positives > 0)[label]
        right, among = factor * right, factor * right + among - right
    precision = np.divide(right, among, out=np.zeros(p), where=among > 0)
    # The largest precision at or after each hit: right-aligned rows, one a group, accumulated from the last hit.
    place = sizes.max(initial=0) - 1 - (np.arange(p) - starts[group])
    envelope = np.zeros((t * c, sizes.max(initial=0)))
    envelope[group, place] = precision
    np.maximum.accumulate(envelope, axis=1, out=envelope)
    area = np.bincount(group, weight * envelope[group, place], t * c).reshape(t, c)
    ap: Floats = np.divide(area, positives, out=np.zeros((t, c)), where=positives > 0).T
    return ap, positives


def mean_average_precision(matches: Matches, videos: Floats | None = None) -> Floats:
    """mAP [t] over the classes with ground truth, under weights of the videos [V]. Raises ValueError where none has any."""
    ap, positives = average_precision(matches, videos)
    if not (positives > 0).any():
        raise ValueError("no ground truth in the videos counted; mAP is not defined")
    out: Floats = ap[positives > 0].mean(axis=0)
    return out


def write_matches(path: Path, matches: Matches) -> None:
    with replacing(path, "wb") as file:
        columns: dict[str, Any] = {name: np.asarray(value) for name, value in vars(matches).items()}
        np.savez_compressed(file, **columns)


def read_matches(path: Path) -> Matches:
    """Raises MatchesError where the file is missing, cut off or holds something else."""
    try:
        with np.load(path, allow_pickle=False) as file:
            columns: dict[str, Any] = {name: file[name] for name in Matches.__dataclass_fields__}
    except Exception as error:  # numpy and zipfile raise many kinds on a broken archive
        raise MatchesError(f"{path}: not a file of matches ({error}); evaluate again") from None
    for name in ("ids", "classes"):
        columns[name] = tuple(columns[name].tolist())
    return Matches(**columns)
