"""Small ground truths and detections, written by hand."""

import numpy as np

from etad.data.annotations import Annotations, Video
from etad.detections import Detections

Truth = tuple[str, int, int, int]  # video, start, end, label
Found = tuple[str, int, int, int, float]  # and score


def world(truths: list[Truth], *, ids: tuple[str, ...], classes: tuple[str, ...], duration_s: float) -> Annotations:
    videos = {}
    for id in ids:
        own = [truth for truth in truths if truth[0] == id]
        segments = np.array([truth[1:3] for truth in own], float).reshape(-1, 2)
        videos[id] = Video(id, "test", duration_s, segments, np.array([truth[3] for truth in own], np.int64))
    return Annotations(videos, classes, {}, {}, "0" * 64)


def columns(found: list[Found], *, ids: tuple[str, ...], classes: tuple[str, ...]) -> Detections:
    return Detections(
        ids=ids,
        classes=classes,
        video=np.array([ids.index(row[0]) for row in found], np.int64),
        segments_s=np.array([row[1:3] for row in found], float).reshape(-1, 2),
        label=np.array([row[3] for row in found], np.int64),
        score=np.array([row[4] for row in found], float),
    )
