"""What some annotations hold: how many videos, how long, with how many instances of which classes, and what to mind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etad.data.annotations import Annotations, Video

Floats = NDArray[np.float64]
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LEAST_COLUMNS = 2  # an instance of fewer feature columns has no start and end apart
NAMED = 5  # of what is named in a sentence


@dataclass(frozen=True)
class Instances:
    """The n instances of some videos, as columns."""

    length_s: Floats  # [n]
    share: Floats  # [n] of their video, in (0, 1]
    label: NDArray[np.int64]  # [n] indexes the annotations' classes
    columns: Floats | None  # [n] feature columns that each covers; None: not known

    def few_columns(self) -> int:
        """How many are shorter than LEAST_COLUMNS feature columns; 0 where that is not known."""
        return 0 if self.columns is None else int((self.columns < LEAST_COLUMNS - 1e-9).sum())


def instances(videos: Sequence[Video], columns: Mapping[str, int] | None) -> Instances:
    """`columns` is how many feature columns each video has."""
    lengths = [video.segments_s[:, 1] - video.segments_s[:, 0] for video in videos]
    shares = [length / video.duration_s for length, video in zip(lengths, videos, strict=True)]
    covered = None
    if columns is not None:
        covered = np.concatenate([np.empty(0), *(s * columns[v.id] for s, v in zip(shares, videos, strict=True))])
    return Instances(
        np.concatenate([np.empty(0), *lengths]),
        np.concatenate([np.empty(0), *shares]),
        np.concatenate([np.empty(0, np.int64), *(video.labels for video in videos)]),
        covered,
    )


@dataclass(frozen=True)
class Survey:
    """Numbers and sentences only, as JSON takes them. Quantiles are at QUANTILES."""

    subsets: dict[str, dict[str, float]]  # subset -> videos, empty (without instances), instances, seconds
    classes: dict[str, dict[str, int]]  # class -> subset -> instances
    duration_s: list[float]
    length_s: list[float]
    share: list[float]
    instances: list[float]  # of videos that have some
    overlapping: dict[str, int]  # pairs of instances of one video that overlap: same class, other classes
    flaws: dict[str, int]
    findings: list[str]


def survey(truth: Annotations, subsets: Sequence[str], columns: Mapping[str, int] | None = None) -> Survey:
    """A survey of these subsets, the first of which is trained on and the last tested. Raises ValueError without instances."""
    videos = {name: truth.subset(name) for name in subsets}
    every = [video for name in subsets for video in videos[name]]
    all_of = instances(every, columns)
    if not len(all_of.length_s):
        raise ValueError(f"no instance in the subsets {', '.join(subsets)}; there is nothing to detect")
    counts = {name: np.bincount(instances(of, None).label, minlength=len(truth.classes)) for name, of in videos.items()}
    classes = {
        label: {name: int(count[k]) for name, count in counts.items()}
        for k, label in enumerate(truth.classes)
        if any(count[k] for count in counts.values())
    }
    overlapping = _overlapping(every)
    return Survey(
        subsets={name: _counted(of) for name, of in videos.items()},
        classes=classes,
        duration_s=_quantiles([video.duration_s for video in every]),
        length_s=_quantiles(all_of.length_s),
        share=_quantiles(all_of.share),
        instances=_quantiles([len(video.labels) for video in every if len(video.labels)]),
        overlapping=overlapping,
        flaws={kind: count for kind, count in truth.flaws.items() if count},
        findings=_findings(videos, classes, overlapping, all_of, subsets),
    )


def _counted(videos: Sequence[Video]) -> dict[str, float]:
    return {
        "videos": len(videos),
        "empty": sum(not len(video.labels) for video in videos),
        "instances": sum(len(video.labels) for video in videos),
        "seconds": round(sum(video.duration_s for video in videos), 3),
    }


def _quantiles(values: Sequence[float] | Floats) -> list[float]:
    return [float(f"{value:.6g}") for value in np.quantile(np.asarray(values, np.float64), QUANTILES)]


def _overlapping(videos: Sequence[Video]) -> dict[str, int]:
    found = {"same class": 0, "other classes": 0}
    for video in videos:
        order = np.argsort(video.segments_s[:, 0], kind="stable")
        start, end, label = video.segments_s[order, 0], video.segments_s[order, 1], video.labels[order]
        last = np.searchsorted(start, end, "left")  # of those that begin before it ends
        for i, stop in enumerate(last.tolist()):
            same = int((label[i + 1 : stop] == label[i]).sum())
            found["same class"] += same
            found["other classes"] += max(stop - i - 1, 0) - same
    return found


def _findings(
    videos: Mapping[str, Sequence[Video]],
    classes: Mapping[str, Mapping[str, int]],
    overlapping: Mapping[str, int],
    all_of: Instances,
    subsets: Sequence[str],
) -> list[str]:
    """What a user should know, each with what is done about it."""
    train, test = subsets[0], subsets[-1]
    found = []
    if unseen := [label for label, count in classes.items() if count[test] and not count[train]]:
        found.append(
            f"{_some(unseen)} of {test} never seen in {train}: kept; a class head never gives it, so its AP is 0, and only a "
            "classifier from outside can name it"
        )
    if untested := [label for label, count in classes.items() if count[train] and not count[test]]:
        found.append(f"{_some(untested)} of {train} not in {test}: trained on, and not counted in mAP")
    if empty := [video.id for video in videos[train] if not len(video.labels)]:
        found.append(f"{len(empty)} videos of {train} without instances: not trained on")
    if empty := [video.id for video in videos[test] if not len(video.labels)]:
        found.append(f"{len(empty)} videos of {test} without instances: detected in; all found there counts as false")
    if count := overlapping["same class"]:
        found.append(
            f"{count} pairs of overlapping instances of one class: kept, each to be found by a detection of its own"
        )
    if few := all_of.few_columns():
        found.append(
            f"{few} instances ({few / len(all_of.share):.1%}) are shorter than {LEAST_COLUMNS} feature columns: kept, but "
            "hardly to be found; features with a shorter stride would show them"
        )
    return found


def _some(labels: Sequence[str]) -> str:
    named = ", ".join(labels[:NAMED]) + (" ..." if len(labels) > NAMED else "")
    return f"{len(labels)} {'class' if len(labels) == 1 else 'classes'} ({named})"
