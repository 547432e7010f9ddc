"""From scored proposals of one video to its labelled detections. No torch. Source: METHOD 10."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from etad.data.windows import to_seconds
from etad.detections import Detections

Floats = NDArray[np.floating]
Found = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]  # segments_s [n, 2], label [n], score [n]


@dataclass(frozen=True)
class Scored:
    """What the detector says of one row: a whole video, or a window of one."""

    segments: Floats  # [K, 2] refined, fractions of the row, not clipped
    scores: Floats  # [K] in [0, 1]
    boundary: Floats  # [2, T] start and end probability
    span_s: tuple[float, float]  # the row's seconds in its video
    classes: tuple[NDArray[np.int64], Floats] | None = None  # [K, n] each one's likeliest, and their probabilities


def boundary_candidates(start: Floats, end: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks [T] of the snippets where a proposal may start and may end, from probabilities [T].

    Above half the video's maximum, or greater than both neighbours (0 beyond the ends); the first is always a start, the last
    always an end. Source: METHOD 10.
    """
    masks = []
    for p in (start, end):
        padded = np.pad(p, 1)
        masks.append((p > 0.5 * p.max()) | ((p > padded[:-2]) & (p > padded[2:])))
    masks[0][0] = masks[1][-1] = True
    return masks[0], masks[1]


def keep(segments: Floats, start: NDArray[np.bool_], end: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mask [K] of the segments [K, 2] (fractions) whose first and last snippet are candidates [T]. Source: METHOD 10."""
    snippets = np.clip(np.floor(segments * len(start)), 0, len(start) - 1).astype(np.int64)
    return start[snippets[:, 0]] & end[snippets[:, 1]]


def soft_nms(
    segments: Floats, scores: Floats, labels: NDArray[np.int64] | None = None, *, sigma: float, count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Indices of the `count` best of segments [K, 2] by Gaussian soft-NMS, best first, and their decayed scores.

    Each pick multiplies the others that overlap it, of its own label where labels [K] are given, by exp(-tIoU^2 / sigma).
    No minimum score; on equal scores the lower label wins, then the first index. With labels this is soft-NMS of each
    class alone, their picks merged by score: a class's scores only fall. Source: METHOD 10. Differs: the released code
    never takes the last candidate left; here all are taken.
    """
    order = np.arange(len(scores)) if labels is None else np.argsort(labels, kind="stable")
    starts, ends = np.ascontiguousarray(segments[order].T, dtype=np.float64)
    lengths, scores = ends - starts, scores[order].astype(np.float64)
    groups = np.zeros(len(order), np.int64) if labels is None else labels[order]
    first, last = np.searchsorted(groups, groups, "left").tolist(), np.searchsorted(groups, groups, "right").tolist()
    inters, others = np.empty_like(scores), np.empty_like(scores)
    picks, decayed = np.empty((2, min(count, len(scores))))
    for n in range(len(picks)):
        best = scores.argmax()
        picks[n], decayed[n] = best, scores[best]
        scores[best] = -np.inf
        # In place: these few passes over the numbers of one class are the whole cost.
        own = slice(first[best], last[best])
        inter, other = inters[own], others[own]
        np.minimum(ends[own], ends[best], out=inter)
        np.maximum(starts[own], starts[best], out=other)
        inter -= other
        np.maximum(inter, 0.0, out=inter)
        np.add(lengths[own], lengths[best], out=other)
        other -= inter
        np.divide(inter, other, out=inter, where=inter > 0)
        inter *= inter
        inter *= -1.0 / sigma
        scores[own] *= np.exp(inter, out=inter)
    return order[picks.astype(np.int64)], decayed


def _inside(segments_s: NDArray[np.float64], duration_s: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Segments clipped to the video, and which of them have a length there."""
    clipped = np.clip(segments_s, 0.0, duration_s)
    return clipped, clipped[:, 1] > clipped[:, 0]


def label(
    segments_s: NDArray[np.float64],
    scores: NDArray[np.float64],
    duration_s: float,
    classes: Sequence[tuple[int, float]] | None,
) -> Found:
    """Segments [K, 2] in seconds, clipped to the video and labelled with each of `classes` (index, score), score multiplied.

    Those of no length after clipping are dropped. None: the one class 0, scores as they are. A segment's copies follow each
    other. Source: METHOD 10. Differs: the released code keeps segments of no length.
    """
    clipped, whole = _inside(segments_s, duration_s)
    clipped, scores = clipped[whole], scores[whole]
    index, factor = np.array([(0, 1.0)] if classes is None else classes, dtype=np.float64).reshape(-1, 2).T
    return (
        np.repeat(clipped, len(index), axis=0),
        np.tile(index.astype(np.int64), len(clipped)),
        (scores[:, None] * factor).reshape(-1),
    )


def _kept(row: Scored, candidates: Literal["boundary", "all"]) -> Found:
    """A row's proposals at candidates, in seconds; one for each class that a proposal may carry, its score multiplied."""
    if not (np.isfinite(row.segments).all() and np.isfinite(row.scores).all()):
        raise ValueError("the detector gave proposals or scores that are not finite")
    mask = slice(None) if candidates == "all" else keep(row.segments, *boundary_candidates(*row.boundary))
    segments_s = to_seconds(row.segments[mask].astype(np.float64), row.span_s)
    scores = row.scores[mask].astype(np.float64)
    if row.classes is None:
        return segments_s, np.zeros(len(scores), np.int64), scores
    labels, shares = row.classes[0][mask], row.classes[1][mask]
    return segments_s.repeat(labels.shape[1], axis=0), labels.reshape(-1), (scores[:, None] * shares).reshape(-1)


def postprocess_video(
    rows: Iterable[Scored],
    duration_s: float,
    classes: Sequence[tuple[int, float]] | None,
    *,
    sigma: float,
    max_detections: int,
    candidates: Literal["boundary", "all"] = "boundary",
) -> Found:
    """Detections of one video from its rows: candidates, seconds, windows merged, soft-NMS, and only then clipped, labelled.

    `classes` are the video's best classes as (index, score), best first and no more than wanted. Rows that carry classes
    of their own go without: each class has its own soft-NMS, on score x probability, and max_detections are kept of all.
    Raises ValueError where a proposal or score is not finite. Source: METHOD 10; classes of their own are ours.
    """
    found: list[Found] = [(np.empty((0, 2)), np.empty(0, np.int64), np.empty(0))]
    own = False
    for row in rows:
        found.append(_kept(row, candidates))
        own |= row.classes is not None
    segments_s, labels, scores = (np.concatenate(column) for column in zip(*found, strict=True))
    picks, decayed = soft_nms(segments_s, scores, labels if own else None, sigma=sigma, count=max_detections)
    if not own:
        return label(segments_s[picks], decayed, duration_s, classes)
    clipped, whole = _inside(segments_s[picks], duration_s)
    return clipped[whole], labels[picks][whole], decayed[whole]


def collect(ids: tuple[str, ...], classes: tuple[str, ...], found: Sequence[Found]) -> Detections:
    """The detections of the videos `ids`, in their order, as columns."""
    if len(ids) != len(found):
        raise ValueError(f"{len(ids)} videos, but detections for {len(found)}")
    segments_s, labels, scores = zip(*found, strict=True) if found else ((), (), ())
    return Detections(
        ids=ids,
        classes=classes,
        video=np.repeat(np.arange(len(ids)), [len(part) for part in scores]),
        segments_s=np.concatenate([np.empty((0, 2)), *segments_s]),
        label=np.concatenate([np.empty(0, np.int64), *labels]),
        score=np.concatenate([np.empty(0), *scores]),
    )
