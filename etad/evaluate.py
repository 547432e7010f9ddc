"""mAP and AR@AN with the semantics of the official ActivityNet evaluator, vectorised. No torch. Source: METHOD 11."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from etad.data.annotations import Annotations
from etad.data.versions import version
from etad.detections import Detections
from etad.matches import Matches, average_precision, pairs, take

Floats = NDArray[np.float64]
ACTION = "action"  # the one class of class-agnostic work
TIES = "equal scores: file order; equal tIoU: the first ground truth in annotation order"
MAX_AN = 100
_ODD = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64
)  # hash multipliers (xxHash's primes)
AR_TIOU = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


@dataclass(frozen=True)
class Profile:
    """What public evaluators do differently."""

    thresholds: Literal[
        "linspace", "decimal"
    ]  # evenly spaced ones as numpy.linspace has them (0.8999999999999999), or 0.9
    empty_pairs: Literal["match", "never"]  # 0/0 tIoU of two segments of no length
    outside: Literal["false positive", "left out"]  # detections in videos that the subset does not have


PROFILES = {
    "official": Profile("linspace", "match", "false positive"),
    "strict": Profile("decimal", "never", "left out"),
}


@dataclass(frozen=True)
class Truths:
    """The ground truth counted: segments of one subset, blocked videos left out."""

    ids: tuple[str, ...]  # V videos, in annotation order
    classes: tuple[str, ...]  # C classes that have ground truth here
    video: NDArray[np.int32]  # [g] indexes ids
    label: NDArray[np.int32]  # [g] indexes classes
    segments_s: Floats  # [g, 2]
    duration_s: Floats  # [V]


@dataclass(frozen=True)
class Evaluation:
    tiou: tuple[float, ...]  # as used
    mAP: Floats  # [t] in [0, 1]
    average_mAP: float
    classes: tuple[str, ...]
    ap: Floats  # [C, t] in [0, 1]
    recall: Floats  # [100] average recall at 1 to 100 proposals a video, in [0, 1]
    area: float  # under recall, in [0, 1]
    protocol: dict[str, Any]
    matches: Matches


def thresholds(tiou: Sequence[float], rule: Literal["linspace", "decimal"]) -> Floats:
    """tIoU thresholds as used: decimals, or, where they are evenly spaced, what numpy.linspace makes of them.

    Raises ValueError unless they rise and lie in (0, 1].
    """
    exact = np.array([round(float(value), 10) for value in tiou])
    if not len(exact) or not (exact > 0).all() or not (exact <= 1).all() or not (np.diff(exact) > 0).all():
        raise ValueError(f"tIoU thresholds {list(tiou)} must rise and lie in (0, 1]")
    even = np.linspace(exact[0], exact[-1], len(exact))
    return even if rule == "linspace" and np.allclose(even, exact, rtol=0, atol=1e-9) else exact


def truths_of(annotations: Annotations, subset: str, blocked: frozenset[str] = frozenset()) -> Truths:
    """Raises ValueError where the subset has no ground truth: then there is no mAP, not one of 0."""
    videos = [video for video in annotations.subset(subset) if video.id not in blocked]
    label = np.concatenate([np.empty(0, np.int64), *(video.labels for video in videos)])
    if not len(label):
        known = sorted({video.subset for video in annotations.videos.values()})
        raise ValueError(
            f"no ground truth in subset {subset!r} ({len(videos)} videos); the subsets are: {', '.join(known)}"
        )
    counted, index = np.unique(label, return_inverse=True)
    return Truths(
        ids=tuple(video.id for video in videos),
        classes=tuple(annotations.classes[i] for i in counted),
        video=np.repeat(np.arange(len(videos), dtype=np.int32), [len(video.labels) for video in videos]),
        label=index.astype(np.int32),
        segments_s=np.concatenate([video.segments_s for video in videos]),
        duration_s=np.array([video.duration_s for video in videos]),
    )


def class_agnostic(annotations: Annotations) -> Annotations:
    """The same segments, all of the one class `action`."""
    videos = {id: replace(v, labels=np.zeros_like(v.labels)) for id, v in annotations.videos.items()}
    return replace(annotations, videos=videos, classes=(ACTION,))


def merge_labels(detections: Detections) -> Detections:
    """The same segments, all of the one class `action`; of the copies that several labels made of one, the best scored."""
    columns = [detections.video, *detections.segments_s.T]
    # Sorting by one hash brings equal rows together many times as fast as by three columns; equality is checked.
    mixed = sum(
        (np.ascontiguousarray(c + 0.0).view(np.uint64) * f for c, f in zip(columns, _ODD, strict=True)), np.uint64(0)
    )
    order = np.argsort(mixed, kind="stable")
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = np.logical_or.reduce([np.diff(column[order]) != 0 for column in columns])
    first = np.flatnonzero(fresh)
    kept = order[first]
    best = np.maximum.reduceat(detections.score[order], first) if len(first) else np.empty(0)
    back = np.argsort(kept)
    kept = kept[back]
    return Detections(
        ids=detections.ids,
        classes=(ACTION,),
        video=detections.video[kept],
        segments_s=detections.segments_s[kept],
        label=np.zeros(len(kept), np.int64),
        score=best[back],
    )


def match(
    truths: Truths, detections: Detections, tiou: Floats, profile: Profile, blocked: frozenset[str] = frozenset()
) -> tuple[Matches, NDArray[np.int64], dict[str, int]]:
    """Matches, the detection that each of their rows is, and how many detections were counted and lay outside.

    Raises ValueError where detections exist, but none in a video of the subset.
    """
    known = {id: i for i, id in enumerate(truths.ids)}
    out, gone = len(known), len(known) + 1
    video = np.array([gone if id in blocked else known.get(id, out) for id in detections.ids], np.int32)[
        detections.video
    ]
    counts = {"detections": int((video < out).sum()), "detections_outside": int((video == out).sum())}
    if counts["detections_outside"] and not counts["detections"]:
        raise ValueError(
            f"no detection lies in a video of the subset: its ids look like {truths.ids[0]!r}, "
            f"those of the detections like {detections.ids[detections.video[0]]!r}"
        )
    counted = {name: i for i, name in enumerate(truths.classes)}
    label = np.array([counted.get(name, -1) for name in detections.classes], np.int32)[detections.label]
    rows = np.flatnonzero((label >= 0) & (video < (gone if profile.outside == "false positive" else out)))
    rows = rows[np.argsort(-detections.score[rows], kind="stable")]
    rows = rows[np.argsort(label[rows].astype(np.min_scalar_type(len(counted))), kind="stable")]
    video, label = video[rows], label[rows]
    row, truth, value = pairs(
        label.astype(np.int64) * gone + video,
        detections.segments_s[rows],
        truths.label.astype(np.int64) * gone + truths.video,
        truths.segments_s,
        least=float(tiou[0]),
        empty=np.inf if profile.empty_pairs == "match" else 0.0,
    )
    hits = []
    for index, threshold in enumerate(tiou):
        enough = value >= threshold
        holder = take(row[enough], truth[enough], len(truths.video))
        taken = np.flatnonzero(holder < enough.sum())
        by = row[enough][holder[taken]]
        order = np.argsort(by)
        hits.append((np.full(len(by), index), by[order], taken[order]))
    hit_tiou, hit_row, hit_truth = (np.concatenate(column) for column in zip(*hits, strict=True))
    matches = Matches(
        ids=truths.ids,
        classes=truths.classes,
        tiou=tiou,
        video=video,
        bounds=np.searchsorted(label, np.arange(len(truths.classes) + 1)),
        truth_video=truths.video,
        truth_class=truths.label,
        hit_tiou=hit_tiou.astype(np.int16),
        hit_row=hit_row.astype(np.int32),
        hit_truth=hit_truth.astype(np.int32),
    )
    return matches, rows, counts


def average_recall(truths: Truths, detections: Detections, tiou: Floats) -> tuple[Floats, float]:
    """Recall averaged over thresholds [100], at 1 to 100 proposals a video on average, and the area under it, in [0, 1].

    Labels are ignored and a segment's copies merged. A video gives its best proposals in proportion to how many it has;
    several ground truths may be covered by one. Source: the official proposal evaluator, at no more than 100 a video.
    """
    found = merge_labels(detections)
    known = {id: i for i, id in enumerate(truths.ids)}
    video = np.array([known.get(id, -1) for id in found.ids], np.int64)[found.video]
    rows = np.flatnonzero(np.isin(video, truths.video))
    rows = rows[np.lexsort((-found.score[rows], video[rows]))]
    video = video[rows]
    sizes = np.bincount(video, minlength=len(truths.ids))
    rank = np.arange(len(rows)) - (np.cumsum(sizes) - sizes)[video]
    videos = len(np.unique(truths.video))
    ratio = MAX_AN * videos / max(len(rows), 1)
    given = np.minimum((sizes * ratio).astype(np.int64), sizes)
    share = np.arange(1, MAX_AN + 1) / MAX_AN * (MAX_AN * float(videos) / max(given.sum(), 1))
    reach = np.minimum((given[:, None] * share).astype(np.int64), given[:, None])[truths.video]  # [g, 100]
    row, truth, value = pairs(
        video, found.segments_s[rows], truths.video, truths.segments_s, least=float(tiou[0]), empty=0.0
    )
    recall = np.zeros(MAX_AN)
    for threshold in tiou:
        enough = value >= threshold
        first = np.full(len(truths.video), len(rows) + 1)  # rank of the first proposal that covers each ground truth
        np.minimum.at(first, truth[enough], rank[row[enough]])
        recall += (first[:, None] < reach).mean(axis=0)
    recall /= len(tiou)
    return recall, float((recall[1:] + recall[:-1]).sum() / 2 / MAX_AN)


def evaluate(
    annotations: Annotations,
    detections: Detections,
    *,
    tiou: Sequence[float],
    subset: str,
    blocked: frozenset[str] = frozenset(),
    blocked_sha256: str | None = None,
    profile: str = "official",
) -> Evaluation:
    """mAP at each tIoU, AR@AN, the matches, and the protocol that they hold under.

    A class without detections scores 0; one without ground truth in the subset does not count. Raises ValueError on no
    ground truth, on a label that the annotations do not have, and where no detection lies in a video of the subset.
    """
    rules = PROFILES[profile]
    if unknown := set(detections.classes) - set(annotations.classes):
        raise ValueError(f"the ground truth has no class {', '.join(map(repr, sorted(unknown)[:5]))}")
    truths = truths_of(annotations, subset, blocked)
    used = thresholds(tiou, rules.thresholds)
    matches, _, counts = match(truths, detections, used, rules, blocked)
    ap, _ = average_precision(matches)
    recall, area = average_recall(truths, detections, thresholds(AR_TIOU, rules.thresholds))
    protocol = {
        "profile": profile,
        **asdict(rules),
        "ties": TIES,
        "proposals": "labels ignored, copies of a segment merged",
        "tiou": used.tolist(),
        "subset": subset,
        "annotations_sha256": annotations.sha256,
        "flaws": annotations.flaws,
        "policies": annotations.policies,
        "blocked_sha256": blocked_sha256,
        "blocked": len(blocked),
        "blocked_in_subset": sum(video.id in blocked for video in annotations.subset(subset)),
        "videos": len(truths.ids),
        "ground_truths": len(truths.video),
        "classes": len(truths.classes),
        **counts,
    }
    if known := version(truths.ids, len(truths.video)):
        protocol["version"] = known
    mean = ap.mean(axis=0)
    return Evaluation(
        tuple(used.tolist()), mean, float(mean.mean()), truths.classes, ap, recall, area, protocol, matches
    )
