"""Made-up video-level classes, and the floor and the ceiling that detectors on the synthetic set lie between."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from etad.data.annotations import Video
from etad.data.samples import VideoScores
from etad.data.synthetic_features import SyntheticModel, true_segments
from etad.data.synthetic_truth import generator
from etad.detections import Detections

Floats = NDArray[np.float64]
SCORED_CLASSES = 5  # that the made-up classifier gives for a video


def make_scores(
    model: SyntheticModel, video: Video, classes: Sequence[str], seed: int
) -> tuple[tuple[str, float], ...]:
    """A made-up video-level classifier's (label, score), best first; of a video without segments it knows nothing."""
    rng = generator(seed, video.id, "classifier")
    order = rng.permutation(len(classes)).tolist()
    true = int(video.labels[0]) if len(video.labels) else order[0]
    right, second = rng.random(2) < (model.accuracy, model.second)
    score = min(float(rng.beta(*(model.right_score if right else model.wrong_score))), 0.999)
    order.remove(true)
    order.insert(0 if right else 1 if second else len(order), true)
    falling = rng.uniform(0.5, 0.9, SCORED_CLASSES)
    scores = [score]
    for part in falling[: len(order) - 1]:
        scores.append(min((1 - sum(scores)) * float(part), scores[-1]))
    return tuple((classes[k], s) for k, s in zip(order[:SCORED_CLASSES], scores[:SCORED_CLASSES], strict=True))


def _labelled(
    segments: Mapping[str, Floats], classes: tuple[str, ...], scores: VideoScores, top_classes: int
) -> Detections:
    """Detections of each video's segments [N, 3] (start_s, end_s, score), once for each of its best classes."""
    index = {name: k for k, name in enumerate(classes)}
    found = [
        (k, start, end, index[label], own * score)
        for k, (id, mine) in enumerate(segments.items())
        for label, score in scores.get(id, ())[:top_classes]
        for start, end, own in mine.tolist()
    ]
    table = np.array(found).reshape(-1, 5)
    video, label = table[:, 0].astype(np.int64), table[:, 3].astype(np.int64)
    return Detections(tuple(segments), classes, video, table[:, 1:3], label, table[:, 4])


def floor_detections(
    videos: Sequence[Video], classes: tuple[str, ...], scores: VideoScores, windows: Floats, top_classes: int = 2
) -> Detections:
    """What needs no features: fixed windows [5, 3] (start, end, score) in each video, labelled by the classifier."""
    placed = {v.id: windows * (v.duration_s, v.duration_s, 1) for v in videos}
    return _labelled(placed, classes, scores, top_classes)


def ceiling_detections(
    videos: Sequence[Video],
    classes: tuple[str, ...],
    scores: VideoScores,
    model: SyntheticModel,
    seed: int,
    top_classes: int = 2,
) -> Detections:
    """What features could tell at best: the true segments before the annotation's jitter, labelled alike."""
    shown = {v.id: true_segments(model, v, seed) for v in videos}
    return _labelled({id: np.c_[s, np.ones(len(s))] for id, s in shown.items()}, classes, scores, top_classes)
