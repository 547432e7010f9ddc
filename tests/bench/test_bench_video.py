"""Reading snippets against its floor: decoding the same file by PyAV and doing nothing with it.

python -m pytest tests/bench/test_bench_video.py --benchmark-only
Stated, at 320 x 240 on one thread: a row of 32 snippets of 16 frames, which shows every frame, takes at most twice the
floor (the rest is scaling to 128 and cutting out 112); a row of which one group of frames in four is shown takes at most
half of that; a row from the cache takes a tenth of the floor.
"""

import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import write_clip

from etad.data.snippet_cache import SnippetCache
from etad.data.video import Video, inspect, read_frames

FRAMES, RATE = 600, 30


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Video:
    """Twenty seconds of a moving gradient under noise, with a key frame each second."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, 400).astype(np.uint8)
    frames = np.stack([np.broadcast_to(ramp[n % 80 : n % 80 + 320, None], (240, 320, 3)) for n in range(FRAMES)])
    frames = frames + rng.integers(0, 30, frames.shape, dtype=np.uint8)
    folder = tmp_path_factory.mktemp("bench")
    path = write_clip(folder / "a.mp4", frames, rate=RATE, codec="libx264", g="30", crf="23", preset="veryfast")
    return inspect(path, FRAMES / RATE)


def plainly_decoded(path: Path) -> int:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return sum(1 for _ in container.decode(stream))


def floor_seconds(video: Video) -> float:
    def once() -> float:
        begin = time.perf_counter()
        assert plainly_decoded(video.path) == FRAMES
        return time.perf_counter() - begin

    return float(np.median([once() for _ in range(5)]))


def every_time() -> np.ndarray:
    """[32, 16] times that show every frame at least once."""
    return (np.linspace(0, FRAMES - 1, 512) / RATE).reshape(32, 16)


def some_times() -> np.ndarray:
    """[5, 16] times inside every fourth second."""
    return np.arange(5)[:, None] * 4 + 0.2 + np.arange(16) / RATE


@pytest.mark.parametrize("shown", ["all", "some"])
def test_reading(benchmark: Any, video: Video, shown: str) -> None:
    times_s = every_time() if shown == "all" else some_times()
    box = (8, 29, 112)
    benchmark.pedantic(
        lambda: read_frames(video, times_s, short_side=128, box=box, threads=1), rounds=5, warmup_rounds=1
    )
    seconds = benchmark.stats["median"]
    benchmark.extra_info.update(
        frames_per_s=round(times_s.size / seconds),
        plain_frames_per_s=round(FRAMES / floor_seconds(video)),
        times_the_floor=round(seconds / floor_seconds(video), 2),
    )


def test_reading_from_the_cache(benchmark: Any, video: Video, tmp_path: Path) -> None:
    cache = SnippetCache(tmp_path)

    def row() -> Any:
        whole = cache.get(video.path, "s", lambda: read_frames(video, every_time(), short_side=128))
        return np.ascontiguousarray(whole[..., 8:120, 29:141])

    benchmark.pedantic(row, rounds=5, warmup_rounds=1)
    benchmark.extra_info["times_the_floor"] = round(benchmark.stats["median"] / floor_seconds(video), 3)
