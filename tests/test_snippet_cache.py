"""Decoded snippets on disk: found by content, damage noticed, two writers, as good as decoding."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from clips import noise, write_clip
from numpy.typing import NDArray

from etad.data.snippet_cache import SnippetCache

MADE = np.arange(2 * 3 * 2 * 4 * 5, dtype=np.uint8).reshape(2, 3, 2, 4, 5)


def refuse() -> NDArray[np.uint8]:
    raise AssertionError("made although it is there")


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "a.mp4", noise(5))


def stored(folder: Path) -> Path:
    (path,) = folder.glob("??/*.npy")
    return path


def test_made_once_and_memory_mapped(video: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    np.testing.assert_array_equal(SnippetCache(folder).get(video, "s", lambda: MADE), MADE)
    again = SnippetCache(folder).get(video, "s", refuse)
    np.testing.assert_array_equal(again, MADE)
    assert isinstance(again, np.memmap)
    assert not again.flags.writeable


def test_found_by_content_wherever_the_file_lies(video: Path, tmp_path: Path) -> None:
    cache = SnippetCache(tmp_path / "cache")
    cache.get(video, "s", lambda: MADE)
    moved = video.rename(tmp_path / "b.mp4")
    np.testing.assert_array_equal(cache.get(moved, "s", refuse), MADE)


@pytest.mark.parametrize("change", ["settings", "content"])
def test_other_settings_or_content_are_made_anew(change: str, video: Path, tmp_path: Path) -> None:
    cache = SnippetCache(tmp_path / "cache")
    cache.get(video, "s", lambda: MADE)
    if change == "content":
        write_clip(video, noise(5, seed=1))
    other = cache.get(video, "t" if change == "settings" else "s", lambda: MADE + 1)
    np.testing.assert_array_equal(other, MADE + 1)


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "no array"])
def test_a_damaged_file_is_noticed_and_made_again(damage: str, video: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    SnippetCache(folder).get(video, "s", lambda: MADE)
    raw = bytearray(stored(folder).read_bytes())
    if damage == "flipped":
        raw[-20] ^= 1
    stored(folder).write_bytes({"flipped": bytes(raw), "cut": bytes(raw[:-30]), "emptied": b""}.get(damage, b"x" * 300))
    with pytest.warns(UserWarning, match="damaged"):
        np.testing.assert_array_equal(SnippetCache(folder).get(video, "s", lambda: MADE), MADE)
    np.testing.assert_array_equal(SnippetCache(folder).get(video, "s", refuse), MADE)


def write_many(folder: Path, video: Path, go: "multiprocessing.synchronize.Event") -> None:
    go.wait()
    for n in range(20):
        got = SnippetCache(folder).get(video, str(n), lambda n=n: np.full((2, 3, 2, 40, 50), n, np.uint8))
        assert (got == n).all()


def test_two_writers_at_once(video: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    go = context.Event()
    writers = [context.Process(target=write_many, args=(tmp_path / "cache", video, go)) for _ in range(2)]
    for writer in writers:
        writer.start()
    go.set()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert not list((tmp_path / "cache").rglob("*.part"))
    for n in range(20):
        assert (SnippetCache(tmp_path / "cache").get(video, str(n), refuse) == n).all()
