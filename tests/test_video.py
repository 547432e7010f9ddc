"""Decoding: the frames shown at given times, against everything decoded to a list; and files that are broken."""

import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from clips import decode_all, noise, write_clip
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from etad.data.annotations import DataError
from etad.data.video import SLACK_S, VideoError, _check, _decoded, inspect, read_frames


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
    "open-groups": {  # frames that are shown before the key frame in front of them, and refer to the group before
        "codec": "libx264",
        "crf": "10",
        "x264-params": "open-gop=1:bframes=3:b-adapt=0:scenecut=0:keyint=8",
    },
    "vp9": {"codec": "libvpx-vp9"},
    "transport-stream": {"codec": "libx264", "bf": "3", "crf": "10"},
    "cut-in": {"codec": "libx264", "bf": "3", "crf": "10"},
    "one-group": {"codec": "libx264", "g": "250", "crf": "10"},
}


@pytest.mark.parametrize("stamps_s", [STEADY, UNEVEN], ids=["steady", "uneven"])
@pytest.mark.parametrize("seek_s", [0.3, 100.0], ids=["sought", "from the start"])
@pytest.mark.parametrize("kind", FILES)
def test_the_frames_shown_are_those_of_the_time_stamps(
    kind: str, seek_s: float, stamps_s: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etad.data.video.SEEK_S", seek_s)
    suffix = {"vp9": "webm", "transport-stream": "ts"}.get(kind, "mp4")
    if kind == "cut-in":  # an edit list leaves the first frames out, on which the others rest
        stamps_s = [s - 0.35 for s in stamps_s]
    path = write_clip(tmp_path / f"clip.{suffix}", noise(60), stamps_s, **FILES[kind])
    video = inspect(path, stamps_s[-1])
    rng = np.random.default_rng(0)
    some = [
        rng.uniform(-1, stamps_s[-1] + 2, (5, 3)),  # anywhere, outside as well
        np.array([stamps_s[-12:]]),  # at the stamps themselves, late ones only: most groups are passed over
        np.array([[2.51, 2.52], [0.0, 2.499]]),
        rng.uniform(0.3, 0.4, (2, 2)),
        stamps_s[20] + rng.uniform(0, 0.2, (2, 2)),
        np.array([[stamps_s[30], stamps_s[50]]]),
    ]
    for times_s in some:
        got = read_frames(video, times_s, short_side=16)
        np.testing.assert_array_equal(got, oracle(path, times_s, 16, 21))
        assert got.shape == (times_s.shape[0], 3, times_s.shape[1], 16, 21)


def test_control_open_groups_are_open(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", noise(60), **FILES["open-groups"])
    with av.open(str(path)) as container:
        packets = [(p.pts, p.is_keyframe) for p in container.demux(video=0) if p.size]
    assert any(a[1] and b[0] < a[0] for a, b in pairwise(packets))


def test_control_the_clip_has_different_frames(tmp_path: Path) -> None:
    _, pictures = decode_all(write_clip(tmp_path / "a.mp4", noise(20)), 16, 21)
    apart = [np.abs(a.astype(int) - b).mean() for a, b in pairwise(pictures)]
    assert min(apart) > 20


def test_a_zero_byte_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(VideoError, match=r"empty\.mp4: is an empty file"):
        inspect(tmp_path / "empty.mp4", 1.0)


def test_frames_that_are_lost_silently_are_noticed(tmp_path: Path) -> None:
    video = inspect(write_clip(tmp_path / "a.mp4", noise(30)), 3.0)
    times_s, stored_s = np.array([0.5, 1.0, 2.0]), np.arange(30) / 10
    _check(video, times_s, np.array([0.5, 1.0, 1.9]), stored_s)
    with pytest.raises(VideoError, match=r"a\.mp4: decoding fails: the frame at 2\.00 s is lost"):
        _check(video, times_s, np.array([0.5, 1.0, 1.7]), stored_s)


@pytest.mark.parametrize("times", [[0.5, 1.0], [0.5, 2.9]])
def test_a_file_that_was_cut_off_since_it_was_looked_at(times: list[float], tmp_path: Path) -> None:
    """Noticed once the cut is reached; a row that ends before it is right."""
    path = write_clip(tmp_path / "a.mkv", noise(30))
    video, whole = inspect(path, 3.0), path.read_bytes()
    expected = oracle(path, np.array([times]), 16, 21)
    path.write_bytes(whole[: int(0.7 * len(whole))])
    if times[-1] < 2:
        np.testing.assert_array_equal(read_frames(video, np.array([times]), short_side=16), expected)
    else:
        with pytest.raises(VideoError, match=r"a\.mkv: decoding fails: it ends at"):
            read_frames(video, np.array([times]), short_side=16)
    concealed = read_frames(video, np.array([times]), short_side=16, conceal=True)
    np.testing.assert_array_equal(concealed[..., 0, :, :], expected[..., 0, :, :])


def test_a_long_gap_at_the_end_of_a_group_is_no_damage(tmp_path: Path) -> None:
    """The fifth frame stays for ten seconds until the next key frame, whose group is not decoded."""
    stamps_s = [0.0, 0.1, 0.2, 0.3, 0.4, *(10.4 + n / 10 for n in range(10))]
    path = write_clip(tmp_path / "a.mp4", noise(15), stamps_s)
    times_s = np.array([[0.15, 7.0]])
    got = read_frames(inspect(path, 11.0), times_s, short_side=16)
    np.testing.assert_array_equal(got, oracle(path, times_s, 16, 21))


@settings(max_examples=40, deadline=None)
@given(
    gaps=st.lists(st.sampled_from([0.02, 0.1, 0.1, 0.1, 0.35, 4.0]), min_size=1, max_size=25),
    group=st.integers(1, 9),
    kind=st.sampled_from(["mpeg4", "b-frames", "open-groups"]),
    shares=st.lists(st.floats(-0.1, 1.1), min_size=1, max_size=6),
)
def test_any_spacing_of_frames_and_key_frames(
    gaps: list[float], group: int, kind: str, shares: list[float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    stamps_s = [0.0, *np.cumsum(gaps).round(3)]
    options = {**FILES[kind], "g": str(group)}
    path = write_clip(tmp_path_factory.mktemp("any") / "a.mp4", noise(len(stamps_s)), stamps_s, **options)
    times_s = np.array([shares]) * stamps_s[-1]
    got = read_frames(inspect(path, stamps_s[-1]), times_s, short_side=16)
    np.testing.assert_array_equal(got, oracle(path, times_s, 16, 21))


@pytest.mark.parametrize("kind", ["mpeg4", "b-frames", "vp9"])
def test_groups_that_show_nothing_are_not_decoded(kind: str, tmp_path: Path) -> None:
    path = write_clip(tmp_path / f"clip.{'webm' if kind == 'vp9' else 'mp4'}", noise(60), **FILES[kind])
    decoded = list(_decoded(inspect(path, 6.0), np.array([1.0, 5.2]), False, 1, []))
    assert 2 <= len(decoded) <= 20


def test_any_number_of_threads_decodes_the_same(tmp_path: Path) -> None:
    video = inspect(write_clip(tmp_path / "a.mp4", noise(60), **FILES["b-frames"]), 6.0)
    times_s = np.random.default_rng(0).uniform(0, 6, (6, 4))
    one, some = (read_frames(video, times_s, short_side=16, threads=threads) for threads in (1, 3))
    np.testing.assert_array_equal(one, some)


@pytest.mark.parametrize("box", [(0, 0, 16), (0, 5, 16), (3, 2, 9)])
def test_a_box_is_cut_out_of_the_whole(box: tuple[int, int, int], tmp_path: Path) -> None:
    video = inspect(write_clip(tmp_path / "a.mp4", noise(20)), 2.0)
    times_s = np.array([[0.4, 1.3]])
    top, left, size = box
    whole = read_frames(video, times_s, short_side=16)
    np.testing.assert_array_equal(
        read_frames(video, times_s, short_side=16, box=box), whole[..., top : top + size, left : left + size]
    )


def test_without_pyav_it_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"pip install") as caught:
        inspect(tmp_path / "a.mp4", 1.0)
    assert not isinstance(caught.value, VideoError), "a policy of skipping videos must not skip all of them"


def test_a_file_without_video_is_named(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.sample_rate = 16000
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match=r"sound\.mp4: holds no video"):
        inspect(tmp_path / "sound.mp4", 1.0)
