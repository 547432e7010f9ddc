"""How near the synthetic features come to the cost of their noise."""

import time
from typing import Any

import numpy as np

from etad.data.synthetic import make_rows_over
from etad.data.synthetic_truth import draw_annotations, read_statistics
from etad.spec import DataSpec


def test_bench_synthetic_features(benchmark: Any) -> None:
    """T 128, C 512; `over_floor`: time against drawing and rounding as many normal numbers."""
    annotations = draw_annotations(read_statistics("anet13"), {"training": 40}, 25, 0)
    make = make_rows_over(DataSpec(tscale=128, channels=512), annotations)
    rng = np.random.Generator(np.random.SFC64(0))

    def floor() -> float:
        began = time.perf_counter()
        for _ in annotations.videos:
            rng.standard_normal((128, 512), np.float32).astype(np.float16)
        return time.perf_counter() - began

    benchmark(lambda: [make(id) for id in annotations.videos])
    benchmark.extra_info["videos_per_s"] = len(annotations.videos) / benchmark.stats["median"]
    benchmark.extra_info["over_floor"] = benchmark.stats["median"] / np.median([floor() for _ in range(9)])
