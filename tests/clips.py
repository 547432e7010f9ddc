"""Small video files for tests, and how they look to somebody who decodes all of them."""

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

TICK = 1000  # time stamps a second


def noise(count: int, height: int = 24, width: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    """Frames [n, H, W, 3] of coarse coloured noise, each different, that survive a lossy codec."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, -(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)[:, :height, :width]


def write_clip(
    path: Path,
    frames: NDArray[np.uint8],
    stamps_s: Sequence[float] | None = None,
    *,
    rate: int = 10,
    codec: str = "mpeg4",
    pix_fmt: str = "yuv420p",
    turn: int = 0,
    container: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """A video file of RGB frames [n, H, W, 3] shown at these seconds, by default `rate` a second."""
    stamps_s = [n / rate for n in range(len(frames))] if stamps_s is None else stamps_s
    with av.open(str(path), "w", options=container) as out:
        stream = out.add_stream(codec, rate=rate, options={"g": "5", **options})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.time_base, stream.codec_context.time_base = pix_fmt, *[Fraction(1, TICK)] * 2
        if codec == "mpeg4":
            stream.codec_context.qmin = stream.codec_context.qmax = 2
        if turn:
            stream.set_display_rotation(turn)
        for picture, at_s in zip(frames, stamps_s, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts = round(at_s * TICK)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def write_truth(path: Path, durations_s: dict[str, float], validation: Sequence[str] = ()) -> Path:
    """Ground truth with one segment a video, from a fifth to a half of it."""
    database: dict[str, Any] = {
        id: {
            "duration": duration_s,
            "subset": "validation" if id in validation else "training",
            "annotations": [{"segment": [0.2 * duration_s, 0.5 * duration_s], "label": "a"}],
        }
        for id, duration_s in durations_s.items()
    }
    path.write_text(json.dumps({"database": database}))
    return path


def decode_all(path: Path, height: int, width: int) -> tuple[list[Fraction], list[NDArray[np.uint8]]]:
    """Every frame of a file, resized, with its time since the first; frames whose time stamps fall back left out."""
    stamps: list[Fraction] = []
    pictures = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            at_s = Fraction(frame.pts) * Fraction(frame.time_base)
            if not stamps or at_s > stamps[-1]:
                stamps.append(at_s)
                turned = frame.rotation % 180 != 0
                size = {"width": height, "height": width} if turned else {"width": width, "height": height}
                picture = frame.reformat(**size, format="rgb24").to_ndarray()
                pictures.append(np.rot90(picture, frame.rotation // 90))
    return [s - stamps[0] for s in stamps], pictures
