"""Decoding: the frames shown at given times, against everything decoded to a list; and files that are broken."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from clips import decode_all, noise, write_clip
from numpy.typing import NDArray

from etad.data.video import SLACK_S, VideoError, inspect, read_frames


def oracle(path: Path, times_s: NDArray[np.float64], height: int, width: int) -> NDArray[np.uint8]:
    """[T, 3, L, H, W]: for each time the last of all frames that appears no later, SLACK_S allowed."""
    stamps, pictures = decode_all(path, height, width)
    out = np.zeros((*times_s.shape, height, width, 3), np.uint8)
    for place in np.ndindex(times_s.shape):
        past = [p for s, p in zip(stamps, pictures, strict=True) if s <= Fraction(times_s[place]) + Fraction(SLACK_S)]
        out[place] = past[-1] if past else pictures[0]
    return out.transpose(0, 4, 1, 2, 3)


STEADY = [n / 10 for n in range(60)]
UNEVEN = list(np.cumsum(np.random.default_rng(1).choice([0.033, 0.034, 0.1, 0.7], 60)).round(3))
FILES = {
    "mpeg4": {"codec": "mpeg4"},
    "b-frames": {"codec": "libx264", "bf": "3", "crf": "10"},
    "open-groups": {"codec": "libx264", "bf": "3", "crf": "10", "x264-params": "open-gop=1"},
    "vp9": {"codec": "libvpx-vp9"},
    "one-group": {"codec": "libx264", "g": "250", "crf": "10"},
}


@pytest.mark.parametrize("stamps_s", [STEADY, UNEVEN], ids=["steady", "uneven"])
@pytest.mark.parametrize("kind", FILES)
def test_the_frames_shown_are_those_of_the_time_stamps(kind: str, stamps_s: list[float], tmp_path: Path) -> None:
    suffix = "webm" if kind == "vp9" else "mp4"
    path = write_clip(tmp_path / f"clip.{suffix}", noise(60), stamps_s, **FILES[kind])
    video = inspect(path, stamps_s[-1])
    rng = np.random.default_rng(0)
    some = [
        rng.uniform(-1, stamps_s[-1] + 2, (5, 3)),  # anywhere, outside as well
        np.array([stamps_s[-12:]]),  # at the stamps themselves, late ones only: most groups are passed over
        np.array([[2.51, 2.52], [0.0, 2.499]]),
        rng.uniform(0.3, 0.4, (2, 2)),
    ]
    for times_s in some:
        got = read_frames(video, times_s, short_side=16)
        np.testing.assert_array_equal(got, oracle(path, times_s, 16, 21))
        assert got.shape == (times_s.shape[0], 3, times_s.shape[1], 16, 21)


def test_control_the_clip_has_different_frames(tmp_path: Path) -> None:
    _, pictures = decode_all(write_clip(tmp_path / "a.mp4", noise(20)), 16, 21)
    apart = [np.abs(a.astype(int) - b).mean() for a, b in pairwise(pictures)]
    assert min(apart) > 20


def test_a_zero_byte_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(VideoError, match=r"empty\.mp4: is an empty file"):
        inspect(tmp_path / "empty.mp4", 1.0)
