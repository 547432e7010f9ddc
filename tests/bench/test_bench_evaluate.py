"""Evaluation and post-processing at ActivityNet's size: 4,926 videos, 7,654 ground truths, 200 classes.

Floors, on one core: evaluation cannot do without sorting its detections by score, so its unit is numpy's stable argsort
of as many scores; reading cannot do without reading the numbers, so its unit is json.loads of the file; soft-NMS must look
at every candidate's overlap with every pick, so its unit is that many exponentials.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etad.data.annotations import Annotations, Video
from etad.detections import Detections, read_detections, write_detections
from etad.diagnose import diagnose
from etad.evaluate import evaluate
from etad.matches import mean_average_precision
from etad.postprocess import Scored, postprocess_video

TIOU = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
VIDEOS, CLASSES, ROWS = 4_926, tuple(f"class {i:03}" for i in range(200)), 1_000_000


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@pytest.fixture(scope="module")
def truth() -> Annotations:
    rng = np.random.default_rng(0)
    videos = {}
    for i in range(VIDEOS):
        count, duration_s = 1 + min(rng.geometric(0.64) - 1, 20), float(rng.uniform(20, 230))
        segments = np.sort(rng.random((count, 2)), axis=1) * duration_s
        videos[f"v{i}"] = Video(f"v{i}", "validation", duration_s, segments, np.full(count, rng.integers(200)))
    return Annotations(videos, CLASSES, {}, {}, "0" * 64)


@pytest.fixture(scope="module")
def million(truth: Annotations) -> Detections:
    """Near the ground truth of their videos; half of them with its label."""
    rng = np.random.default_rng(1)
    videos = list(truth.videos.values())
    video = rng.integers(0, VIDEOS, ROWS)
    counts = np.array([len(v.labels) for v in videos])
    near = np.concatenate([v.segments_s for v in videos])[
        (np.cumsum(counts) - counts)[video] + (rng.random(ROWS) * counts[video]).astype(int)
    ]
    segments = np.sort(near + rng.normal(0, 0.2, (ROWS, 2)) * (near[:, 1:] - near[:, :1]), axis=1)
    own = np.array([v.labels[0] for v in videos])[video]
    label = np.where(rng.random(ROWS) < 0.5, own, rng.integers(0, 200, ROWS))
    return Detections(tuple(truth.videos), CLASSES, video, segments, label, rng.random(ROWS))


def test_bench_evaluate_a_million(benchmark: Any, truth: Annotations, million: Detections) -> None:
    benchmark.pedantic(evaluate, (truth, million), {"tiou": TIOU, "subset": "validation"}, rounds=3, warmup_rounds=1)
    unit = min(seconds(lambda: np.argsort(-million.score, kind="stable")) for _ in range(3))
    benchmark.extra_info["argsorts of as many scores"] = benchmark.stats["min"] / unit
    benchmark.extra_info["seconds, at most 5"] = benchmark.stats["min"]


def test_bench_read_a_million(benchmark: Any, tmp_path: Path, million: Detections) -> None:
    path = tmp_path / "detections.json"
    written = seconds(lambda: write_detections(path, million))
    benchmark.pedantic(read_detections, (path, CLASSES), rounds=3, warmup_rounds=1)
    unit = seconds(lambda: json.loads(path.read_bytes()))
    benchmark.extra_info["json.loads of the file"] = benchmark.stats["min"] / unit
    benchmark.extra_info["writing, json.loads of the file"] = written / unit
    benchmark.extra_info["seconds, with evaluation at most 10"] = benchmark.stats["min"]


def test_bench_one_bootstrap_resample(benchmark: Any, truth: Annotations, million: Detections) -> None:
    matches = evaluate(truth, million, tiou=TIOU, subset="validation").matches
    weights = np.random.default_rng(2).multinomial(VIDEOS, np.full(VIDEOS, 1 / VIDEOS)).astype(float)
    benchmark.pedantic(mean_average_precision, (matches, weights), rounds=5, warmup_rounds=1)
    unit = min(seconds(lambda: np.cumsum(weights[matches.video])) for _ in range(3))
    benchmark.extra_info["weighted cumulative sums over the rows"] = benchmark.stats["min"] / unit


def test_bench_diagnose_a_million(benchmark: Any, truth: Annotations, million: Detections) -> None:
    benchmark.pedantic(diagnose, (truth, million), {"tiou": TIOU, "subset": "validation"}, rounds=2)
    unit = seconds(lambda: evaluate(truth, million, tiou=TIOU, subset="validation"))
    benchmark.extra_info["evaluations"] = benchmark.stats["min"] / unit


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("count", [300, 1000, 2000])
def test_bench_postprocess(benchmark: Any, count: int, own: bool) -> None:
    """One video with `count` candidates, 100 picks, two classes; 4,926 of them within 30 s on two processes.

    Own: two of 20 classes a candidate, as a class head gives them; twice the candidates, each decayed by its class alone.
    """
    rng = np.random.default_rng(3)
    segments = np.sort(rng.random((count, 2)), axis=1).astype(np.float32)
    classes = (rng.integers(0, 20, (count, 2)), rng.random((count, 2)).astype(np.float32)) if own else None
    row = Scored(segments, rng.random(count).astype(np.float32) ** 2, rng.random((2, 128)), (0.0, 120.0), classes)
    benchmark.pedantic(
        postprocess_video,
        ([row], 120.0, None if own else [(3, 0.9), (5, 0.1)]),
        {"sigma": 0.35, "max_detections": 100, "candidates": "all"},
        rounds=30,
        warmup_rounds=2,
    )
    numbers = -rng.random((100, count))
    unit = min(seconds(lambda: np.exp(numbers)) for _ in range(5))
    benchmark.extra_info["exponentials of all overlaps"] = benchmark.stats["median"] / unit
    benchmark.extra_info["seconds for 4,926 videos on two processes, at most 30"] = (
        benchmark.stats["median"] * VIDEOS / 2
    )
