"""The data set of video files: what is in a batch, and what becomes of files that are broken, odd or not there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import decode_all, noise, write_clip, write_truth
from torch.utils.data import DataLoader

from etad import build
from etad.data.ahead import Ahead
from etad.data.annotations import DataError
from etad.data.augment import draw_view
from etad.data.batches import EpochBatches
from etad.data.samples import Corpus, Frames, Samples
from etad.data.snippets import snippet_times
from etad.data.video import SLACK_S, VideoError
from etad.spec import Spec, SpecError, parse_spec

DURATION_S = 3.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six videos of 30 frames, two of them for validation."""
    names = ["a", "b", "c", "d", "e", "f"]
    for n, name in enumerate(names):
        write_clip(tmp_path / f"{name}.mp4", noise(30, seed=n))
    write_truth(tmp_path / "gt.json", dict.fromkeys(names, DURATION_S), validation=("e", "f"))
    return tmp_path


def spec(folder: Path, data: dict[str, Any] | None = None, **video: Any) -> Spec:
    args = {"videos": str(folder), "pattern": "{id}.mp4", "annotations": str(folder / "gt.json")}
    shown = {"frames": 3, "short_side": 16, "size": 12, "jitter": 0.1} | video
    tree = {"source": {"name": "videos", "args": args}, "tscale": 5, "video": shown} | (data or {})
    return parse_spec({"data": tree, "training": {"seed": 7}, "encoder": {}})


def corpus(folder: Path, data: dict[str, Any] | None = None, **video: Any) -> Corpus:
    return build.build_corpus(spec(folder, data, **video))


def frames(samples: Samples) -> Frames:
    assert samples.frames is not None
    return samples.frames


def test_a_row_is_the_video_as_decoded_whole_cut_and_coloured(folder: Path) -> None:
    held = frames(corpus(folder).subsets["training"])
    stamps, pictures = decode_all(folder / "b.mp4", 16, 21)
    times = snippet_times((0.0, DURATION_S), tscale=5, frames=3, stride=1, frame_rate=10)
    number = [[max(n for n, s in enumerate(stamps) if float(s) <= t + SLACK_S or n == 0) for t in row] for row in times]
    whole = np.array([[pictures[n] for n in row] for row in number]).transpose(0, 4, 1, 2, 3)
    np.testing.assert_array_equal(held[1], whole[..., 2:14, 4:16])
    assert held[1].dtype == np.uint8
    for epoch in range(6):
        view = draw_view(seed=7, epoch=epoch, row=1, crop="random", flip=0.5, jitter=0.1)
        top, left, size = view.box(16, 21, 12)
        cut = whole[..., top : top + size, left : left + size]
        np.testing.assert_array_equal(held.augmented(1, seed=7, epoch=epoch), view.apply(cut))


def batches(spec: Spec, workers: int) -> list[dict[str, Any]]:
    rows = build.build_rows(spec, build.build_corpus(spec))
    order = EpochBatches(len(rows), batch=2, seed=spec.training.seed)
    order.epoch = 1
    return list(DataLoader(rows, batch_sampler=order, num_workers=workers, collate_fn=lambda batch: batch))


def test_batches_are_the_same_for_any_number_of_workers_and_from_the_cache(folder: Path) -> None:
    alone = batches(spec(folder), 0)
    cached = spec(folder, cache=str(folder / "cache"))
    assert [batch["frames"].shape for batch in alone] == [(2, 5, 3, 3, 12, 12)] * 2
    for others in (batches(spec(folder), 2), batches(cached, 2), batches(cached, 0)):
        assert len(others) == 2
        for a, b in zip(alone, others, strict=True):
            assert a.keys() == b.keys() == {"frames", "segments", "labels", "present", "row", "epoch", "iteration"}
            assert a["frames"].equal(b["frames"])
            assert a["row"].equal(b["row"])
    assert len(list((folder / "cache").glob("??/*.npy"))) == 4


def test_epochs_see_other_views(folder: Path) -> None:
    held = frames(corpus(folder).subsets["training"])
    views = [held.augmented(0, seed=7, epoch=epoch).tobytes() for epoch in range(4)]
    assert len(set(views)) == 4


def test_rows_end(folder: Path) -> None:
    held = frames(corpus(folder).subsets["validation"])
    assert len(held) == 2
    assert len(list(held)) == 2  # type: ignore[call-overload]
    with pytest.raises(IndexError):
        held[2]


@pytest.mark.parametrize("count", [0, 1, 3, 20])
def test_rows_decoded_ahead_are_the_same_in_any_order(count: int, folder: Path) -> None:
    held = frames(corpus(folder).subsets["training"])
    ahead = Ahead(held, count)
    assert len(ahead) == len(held) == 4
    for row in (0, 1, 2, 3, 0, 2, 2, 1, 3, 0):
        np.testing.assert_array_equal(ahead[row], held[row])
    with pytest.raises(IndexError):
        ahead[4]
    (folder / "b.mp4").write_bytes(b"")
    ahead = Ahead(held, count)
    np.testing.assert_array_equal(ahead[0], held[0])
    with pytest.raises(VideoError, match=r"b\.mp4"):
        ahead[1]


def cut(path: Path, share: float) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])


def faststart(path: Path, share: float) -> None:
    """The index in front, the file cut off: its header still promises all of it."""
    write_clip(path, noise(30), container={"movflags": "faststart"})
    cut(path, share)


def one_frame(path: Path) -> None:
    write_clip(path, noise(1))


def no_video(path: Path) -> None:
    path.write_bytes((np.arange(5000) % 251).astype(np.uint8).tobytes())


BROKEN = {
    "zero bytes": (lambda path: path.write_bytes(b""), "is an empty file"),
    "garbage": (no_video, "cannot be opened"),
    "truncated, index lost": (lambda path: cut(path, 0.5), "cannot be opened"),
    "truncated behind its index": (lambda path: faststart(path, 0.5), "too short: it ends at"),
    "one frame": (one_frame, "too short: it holds one frame"),
    "half as long as annotated": (
        lambda path: write_clip(path, noise(15)),
        r"too short: it ends at 1\.50 s of 3\.00 s annotated",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named_or_left_out_and_counted(kind: str, folder: Path) -> None:
    spoil, said = BROKEN[kind]
    spoil(folder / "b.mp4")
    with pytest.raises(VideoError, match=rf"1 of 6 videos cannot be used: .*b\.mp4: {said}.*data\.video\.broken=skip"):
        corpus(folder)
    left = corpus(folder, broken="skip")
    assert left.subsets["training"].ids == ("a", "c", "d")
    assert left.annotations.flaws["broken_video"] == 1
    assert "b.mp4" in left.sources["videos left out"]
    assert "left out" in left.annotations.policies["broken_video"]


def test_a_missing_file_is_named_or_left_out(folder: Path) -> None:
    (folder / "b.mp4").unlink()
    with pytest.raises(DataError, match=r"1 of 6 videos have no files: b"):
        corpus(folder)
    left = corpus(folder, {"missing": "skip"})
    assert left.subsets["training"].ids == ("a", "c", "d")
    assert left.annotations.flaws["without_files"] == 1
    for name in ("a", "c", "d"):
        (folder / f"{name}.mp4").unlink()
    with pytest.raises(DataError, match="no video of the subset training"):
        corpus(folder, {"missing": "skip"})


def test_files_of_any_ending(folder: Path) -> None:
    source = spec(folder).data.source
    source.args["pattern"] = "{id}.*"
    for name, ending in (("a", "mkv"), ("e", "avi")):
        (folder / f"{name}.mp4").rename(folder / f"{name}.{ending}")
    (folder / "f.mp4").rename(folder / "v.1.mp4")
    write_truth(folder / "gt.json", dict.fromkeys(["a", "b", "e", "v.1"], DURATION_S), validation=("e", "v.1"))
    any_ending = {"source": source.model_dump()}
    assert corpus(folder, any_ending).subsets["validation"].ids == ("e", "v.1")
    (folder / "e.mp4").write_bytes(b"")
    (folder / "other.mp4").write_bytes(b"")
    (folder / "other.mkv").write_bytes(b"")
    with pytest.raises(DataError, match=r"e\.(avi|mp4) is beside it"):
        corpus(folder, any_ending)


@pytest.mark.parametrize(
    ("height", "width", "turn", "shown"), [(48, 24, 0, (32, 16)), (24, 48, 90, (32, 16)), (26, 34, -90, (21, 16))]
)
def test_portrait_and_turned_and_odd_sizes(
    height: int, width: int, turn: int, shown: tuple[int, int], folder: Path
) -> None:
    path = write_clip(folder / "a.mp4", noise(30, height, width), turn=turn)
    held = frames(corpus(folder, size=16).subsets["training"])
    assert held[0].shape == (5, 3, 3, 16, 16)
    stamps, pictures = decode_all(path, *shown)
    top, left = (shown[0] - 16) // 2, (shown[1] - 16) // 2
    n = max(n for n, s in enumerate(stamps) if s <= 0.3 + SLACK_S)
    np.testing.assert_array_equal(held[0][0, :, 1], pictures[n][top : top + 16, left : left + 16].transpose(2, 0, 1))


def test_a_turned_video_is_shown_upright(folder: Path) -> None:
    """A picture whose lower half is white, stored lying on its side as a telephone does."""
    upright = np.zeros((30, 32, 24, 3), np.uint8)
    upright[:, 16:] = 255
    write_clip(folder / "a.mp4", np.rot90(upright, -1, axes=(1, 2)), turn=90)
    row = frames(corpus(folder, size=16).subsets["training"])[0]
    assert row[..., :6, :].max() < 40
    assert row[..., 10:, :].min() > 200


def test_odd_pixel_counts(folder: Path) -> None:
    write_clip(folder / "a.mkv", noise(30, 25, 33), codec="ffv1", pix_fmt="bgr0")
    (folder / "a.mkv").rename(folder / "a.mp4")  # a file is what it holds, not what it is called
    assert frames(corpus(folder).subsets["training"])[0].shape == (5, 3, 3, 12, 12)


def test_damage_inside_is_named_or_concealed(folder: Path) -> None:
    raw = bytearray((folder / "a.mp4").read_bytes())
    begin, end = len(raw) // 4, len(raw) // 2
    raw[begin:end] = bytes(end - begin)
    (folder / "a.mp4").write_bytes(raw)
    strict = frames(corpus(folder).subsets["training"])
    with pytest.raises(VideoError, match=r"a\.mp4: decoding"):
        strict[0]
    row = frames(corpus(folder, broken="skip").subsets["training"])[0]
    whole = frames(corpus(folder).subsets["training"])[1]
    assert row.shape == whole.shape


def test_windows_of_a_long_video(folder: Path) -> None:
    write_clip(folder / "a.mp4", noise(160))
    names = ["a", "b", "e"]
    write_truth(folder / "gt.json", dict.fromkeys(names, DURATION_S) | {"a": 16.0}, validation=("e",))
    samples = corpus(folder, {"windows": {"stride_s": 1.0}}).subsets["training"]
    spans = [span for id, span in zip(samples.ids, samples.span_s.tolist(), strict=True) if id == "a"]
    assert spans == [[0, 5], [2, 7], [4, 9], [6, 11], [8, 13], [10, 15], [11, 16]]
    stamps, pictures = decode_all(folder / "a.mp4", 16, 21)
    n = max(n for n, s in enumerate(stamps) if s <= 15.5)
    np.testing.assert_array_equal(frames(samples)[6][4, :, 1], pictures[n][2:14, 4:16].transpose(2, 0, 1))


def test_frames_need_their_knobs(folder: Path) -> None:
    with pytest.raises(SpecError, match=r"data\.video"):
        corpus(folder, {"video": None})
    with pytest.raises(SpecError, match=r"video\.size=20 does not fit"):
        spec(folder, size=20)
    with pytest.raises(DataError, match="once, as in"):
        corpus(
            folder,
            {
                "source": {
                    "name": "videos",
                    "args": {"videos": ".", "pattern": "a.mp4", "annotations": str(folder / "gt.json")},
                }
            },
        )
    (folder / "gt.json").write_text(
        json.dumps({"database": {"../x": {"duration": 1, "subset": "training", "annotations": []}}})
    )
    with pytest.raises(DataError, match="outside"):
        corpus(folder)
