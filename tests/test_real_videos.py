"""Real video files: every frame of them, and a step of training on the ones with segments."""

from pathlib import Path

import numpy as np
import pytest
from clips import decode_all
from conftest import ROOT

from etad import build
from etad.data.video import inspect, read_frames
from etad.spec import read_spec

CLIPS = {  # file -> frames, frames a second, height, width; counted once by PyAV alone
    "anet2016-cuhk__plastering.avi": (1616, 30000 / 1001, 256, 340),
    "mmaction2__demo_demo.mp4": (280, 28, 256, 340),
    "mmaction2__tests_data_test.avi": (164, 25, 240, 320),
}


@pytest.mark.parametrize("name", CLIPS)
def test_a_clip_whole(name: str, shared: Path) -> None:
    """Frames missing in the middle (the first file) and time stamps that fall back (the last) included."""
    path = shared / "data" / "clips" / name
    if not path.exists():
        pytest.skip(f"no {path}")
    video = inspect(path, 1.0)
    count, rate, height, width = CLIPS[name]
    assert (video.frame_rate, video.height, video.width) == (pytest.approx(rate), height, width)
    stamps, pictures = decode_all(path, 32, round(width * 32 / height))
    assert count - 60 <= len(pictures) <= count
    got = read_frames(video, np.array([[float(s) for s in stamps]]), short_side=32)
    np.testing.assert_array_equal(got[0].transpose(1, 2, 3, 0), pictures)


def test_urfd_whole_and_one_batch(shared: Path) -> None:
    folder = shared / "data" / "urfd"
    if not folder.exists():
        pytest.skip(f"no {folder}")
    paths = [
        f"data.source.args.videos={folder / 'videos'}",
        f"data.source.args.annotations={folder / 'annotations.json'}",
    ]
    spec = read_spec(ROOT / "experiments" / "specs" / "urfd.yaml", paths)
    corpus = build.build_corpus(spec)
    videos = corpus.annotations.videos
    assert {name: len(samples.ids) for name, samples in corpus.subsets.items()} == {"training": 47, "validation": 23}
    assert sum(len(video.labels) for video in videos.values()) == 97
    frames = 0
    for id, annotated in videos.items():
        video = inspect(folder / "videos" / f"{id}.mp4", annotated.duration_s)
        assert (video.frame_rate, video.height, video.width) == (30, 240, 320)
        frames += round(video.last_s * 30) + 1
        assert round(video.last_s * 30) + 1 == round(annotated.duration_s * 30)
    assert frames == 11_936
    batch = build.build_rows(spec, corpus).__getitems__([(0, 0, 0), (0, 0, 1)])
    assert batch["frames"].shape == (2, 32, 3, 8, 48, 48)
    assert batch["frames"].float().std() > 20
