"""The second half of a run: what a trained detector finds, and how good that is."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from etad import build, measure
from etad.data.annotations import Annotations, read_blocked
from etad.data.samples import Corpus, Samples
from etad.detections import Detections, write_detections
from etad.end_to_end import encoded
from etad.evaluate import Evaluation, class_agnostic, evaluate
from etad.gradients import SnippetEncoder
from etad.inference import tested_count
from etad.matches import write_matches
from etad.model.detector import Detector
from etad.postprocess import Scored, collect
from etad.record import DataSummary, Figure, write_json
from etad.spec import Spec
from experiments.progress import bar

EXAMPLES = 6  # videos kept for timelines


def tested(
    spec: Spec, corpus: Corpus, folder: Path, detector: Detector, encoder: SnippetEncoder | None, device: torch.device
) -> dict[str, Any]:
    """Detects and evaluates; writes detections, matches and examples into the folder. The fields of a record."""
    head, outside = spec.model.class_head is not None, corpus.classifier is not None
    labels = "class head" if head else "video-level classifier" if outside else "none: one class"
    annotations = corpus.annotations if head or outside else class_agnostic(corpus.annotations)
    began = time.perf_counter()
    detections, examples = detect(spec, corpus, annotations, detector, encoder, device)
    seconds, where = time.perf_counter() - began, measure.device_name(device)
    write_detections(folder / "detections.json", detections)
    write_json(folder / "examples.json", {"videos": examples})
    figures, judged = evaluation_figures(spec, corpus, annotations, detections)
    write_matches(folder / "matches.npz", judged.matches)
    figures.append(
        Figure(name="detect_time", value=seconds, unit="s", evidence="measured", data=corpus.mark, device=where)
    )
    return {
        "data": summary(spec, corpus),
        "figures": figures,
        "protocol": {**judged.protocol, "labels": labels},
        "details": {"ap": {c: ap.round(5).tolist() for c, ap in zip(judged.classes, judged.ap, strict=True)}},
        "anchors": tested_count(len(build.build_test_anchors(spec)), spec.inference.boundary_share),
    }


def classes_of(corpus: Corpus, annotations: Annotations, id: str) -> list[tuple[int, float]] | None:
    if corpus.classifier is None:
        return None
    number = {name: n for n, name in enumerate(annotations.classes)}
    return [(number[name], score) for name, score in corpus.classifier.get(id, ())]


def detect(
    spec: Spec,
    corpus: Corpus,
    annotations: Annotations,
    detector: Detector,
    encoder: SnippetEncoder | None,
    device: torch.device,
) -> tuple[Detections, list[dict[str, Any]]]:
    """Detections of the test subset, and a few videos in full for timelines."""
    samples: Samples = corpus.subsets[spec.data.test_subset]
    ids = tuple(dict.fromkeys(samples.ids))
    inference, found = build.build_inference(spec, detector, device), []
    if encoder is not None:
        samples = encoded(samples, encoder, dtype=inference.dtype, device=device, ahead=spec.runtime.workers)
    examples: list[dict[str, Any]] = []
    with bar("detecting") as advance:
        for id, scored in inference.videos(samples, lambda done, total: advance(done, total, "")):
            video = annotations.videos[id]
            classes = None if spec.model.class_head else classes_of(corpus, annotations, id)
            found.append(inference.detections(scored, video.duration_s, classes))
            if len(examples) < EXAMPLES and len(video.labels):
                examples.append(_example(annotations, id, found[-1], scored))
    return collect(ids, annotations.classes, found), examples


def _example(annotations: Annotations, id: str, found: Any, scored: list[Scored]) -> dict[str, Any]:
    video, classes = annotations.videos[id], annotations.classes
    segments_s, labels, scores = found
    best = np.argsort(-scores, kind="stable")[:10]
    whole = scored[0].boundary.round(4).tolist() if len(scored) == 1 else [[], []]
    return {
        "id": id,
        "duration_s": video.duration_s,
        "truth": [
            {"segment": s.tolist(), "label": classes[n]} for s, n in zip(video.segments_s, video.labels, strict=True)
        ],
        "detections": [
            {"segment": segments_s[b].round(3).tolist(), "label": classes[labels[b]], "score": float(scores[b])}
            for b in best
        ],
        "start": whole[0],
        "end": whole[1],
    }


def _accuracy(tiou: Sequence[float], judged: Evaluation, mark: str, suffix: str = "") -> list[Figure]:
    values = {f"mAP@{t:.2f}": float(v) for t, v in zip(tiou, judged.mAP, strict=True)}
    values["average_mAP"] = judged.average_mAP
    return [
        Figure(name=f"{name}{suffix}", value=100 * value, unit="%", evidence="measured", data=mark)
        for name, value in values.items()
    ]


def evaluation_figures(
    spec: Spec, corpus: Corpus, annotations: Annotations, detections: Detections
) -> tuple[list[Figure], Evaluation]:
    """Figures of detections, made-up data's floor and ceiling beside them, and all that their evaluation says."""
    wanted, mark = spec.evaluation, corpus.mark
    blocked, blocked_hash = read_blocked(wanted.blocked) if wanted.blocked else (frozenset(), None)
    judge = partial(
        evaluate,
        annotations,
        tiou=wanted.tiou,
        subset=spec.data.test_subset,
        blocked=blocked,
        blocked_sha256=blocked_hash,
    )
    judged = judge(detections)
    figures = _accuracy(wanted.tiou, judged, mark)
    recall = {f"AR@{n}": float(judged.recall[n - 1]) for n in wanted.proposals} | {"AR_area": judged.area}
    figures += [Figure(name=n, value=100 * v, unit="%", evidence="measured", data=mark) for n, v in recall.items()]
    for name, bound in corpus.bounds.items():
        figures += _accuracy(wanted.tiou, judge(bound), mark, f"_{name}")
    return figures, judged


def summary(spec: Spec, corpus: Corpus) -> DataSummary:
    annotations = corpus.annotations
    used = {s: [annotations.videos[id] for id in dict.fromkeys(rows.ids)] for s, rows in corpus.subsets.items()}
    seen = {s: {label for video in videos for label in video.labels.tolist()} for s, videos in used.items()}
    unseen = len(seen[spec.data.test_subset] - seen[spec.data.train_subset])
    return DataSummary(
        mark=corpus.mark,
        videos={s: len(videos) for s, videos in used.items()},
        segments={s: sum(len(v.labels) for v in videos) for s, videos in used.items()},
        classes=len(annotations.classes),
        flaws={**annotations.flaws, "classes_unseen_in_training": unseen},
        policies={**annotations.policies, "classes_unseen_in_training": "counted in mAP; nothing can learn them"},
        sources=dict(corpus.sources),
    )
