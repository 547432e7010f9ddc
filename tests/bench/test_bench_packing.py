"""Packing against its floor: reading the same files and writing the same rows, with nothing in between.

python -m pytest tests/bench/test_bench_packing.py --benchmark-only
Stated: one process packs at least 200 MB of raw float32 features a second from the page cache, 15 % of the floor; what is
between is rounding to half (half of the time), the resize in double and the checksums.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etad.data.annotations import Video
from etad.data.features import FeatureSource
from etad.data.packed import Contents, open_packed
from etad.data.packing import write_packed
from etad.data.sources import plan_rows
from etad.data.windows import RowMaker

VIDEOS, C, T = 64, 512, 128


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features as ActivityNet's TSP ones: 512 channels, 64 to 900 columns, float32."""
    folder, rng = tmp_path_factory.mktemp("raw"), np.random.default_rng(0)
    for i, t in enumerate(rng.integers(64, 900, VIDEOS)):
        np.save(folder / f"{i}.npy", rng.standard_normal((t, C), np.float32))
    return folder


def copied(raw: Path, out: Path) -> None:
    with open(out, "wb") as file:
        for i in range(VIDEOS):
            features = np.load(raw / f"{i}.npy")
            file.write(np.resize(features[:T], (T, C)).astype(np.float16).tobytes())


def test_packing(benchmark: Any, raw: Path, tmp_path: Path) -> None:
    videos = [Video(str(i), "training", 100.0, np.zeros((0, 2)), np.zeros(0, np.int64)) for i in range(VIDEOS)]
    maker = RowMaker(FeatureSource(raw, "{id}.npy", "TC"), T, None)
    plan, channels = plan_rows(videos, maker)
    contents = Contents(tscale=T, channels=channels, windows=None, sources={})
    floors: list[float] = []
    folders = iter(range(100))

    def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
        begin = time.perf_counter()
        copied(raw, tmp_path / "floor")
        floors.append(time.perf_counter() - begin)
        return (tmp_path / str(next(folders)), contents, plan, maker), {}

    benchmark.pedantic(write_packed, setup=setup, rounds=5, warmup_rounds=1)
    seconds, megabytes = benchmark.stats["median"], sum(path.stat().st_size for path in raw.iterdir()) / 1e6
    benchmark.extra_info.update(
        raw_mb_per_s=round(megabytes / seconds, 1),
        packed_mb_per_s=round(VIDEOS * T * C * 2 / 1e6 / seconds, 1),
        share_of_floor=round(float(np.median(floors)) / seconds, 3),
    )


def test_verifying(benchmark: Any, raw: Path, tmp_path: Path) -> None:
    plan, _ = plan_rows(
        [Video(str(i), "training", 1.0, np.zeros((0, 2)), np.zeros(0, np.int64)) for i in range(VIDEOS)],
        maker := RowMaker(FeatureSource(raw, "{id}.npy", "TC"), T, None),
    )
    write_packed(tmp_path, Contents(tscale=T, channels=C, windows=None, sources={}), plan, maker)
    pack = open_packed(tmp_path)
    benchmark(pack.verify)
    benchmark.extra_info["mb_per_s"] = round(pack.features.nbytes / 1e6 / benchmark.stats["median"], 1)
