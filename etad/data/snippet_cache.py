"""Decoded snippets on disk, found by what they are made of: the file's content and how it is decoded.

A folder holds
  XX/KEY.npy        uint8 [T, 3, L, H, W], whole frames before any cut, and behind them the checksum of its bytes
  contents/NAME     the sha256 of a video file, NAME being a hash of its path, size and time of change
"""

import errno
import hashlib
import os
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from etad.data.annotations import DataError
from etad.record import replacing

CHECKSUM_BYTES = 4


class SnippetCache:
    """Any number of processes may share a folder: files appear whole, and two that make the same one make it equal."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.checked: set[Path] = set()  # files whose checksum this process has compared

    def get(self, video: Path, settings: str, make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """What `make` gives for this video file and these settings, memory-mapped; made only where it is not there.

        A damaged file is made again, with a warning. Raises DataError where the disk is full.
        """
        key = hashlib.sha256(f"{self._content(video)}|{settings}".encode()).hexdigest()
        path = self.folder / key[:2] / f"{key}.npy"
        stored = self._read(path)
        if stored is not None:
            return stored
        made = np.ascontiguousarray(make())
        try:
            with replacing(path, "wb") as file:
                np.save(file, made)
                file.write(zlib.crc32(made).to_bytes(CHECKSUM_BYTES, "little"))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DataError(
                f"{self.folder}: the disk is full; make room, or decode each time (data.video.cache=null)"
            ) from None
        self.checked.add(path)
        return made

    def _read(self, path: Path) -> NDArray[np.uint8] | None:
        try:
            stored: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
            if path not in self.checked:
                with open(path, "rb") as file:
                    file.seek(-CHECKSUM_BYTES, os.SEEK_END)
                    checksum = int.from_bytes(file.read(), "little")
                if zlib.crc32(stored) != checksum:
                    raise ValueError("its bytes do not fit its checksum")
                self.checked.add(path)
            return stored
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError) as error:
            warnings.warn(f"{path}: damaged ({error}); decoded again", stacklevel=2)
            return None

    def _content(self, video: Path) -> str:
        """The sha256 of a file, read once as long as its path, size and time of change stay."""
        stat = video.stat()
        name = hashlib.sha256(f"{video.resolve()}|{stat.st_size}|{stat.st_mtime_ns}".encode()).hexdigest()
        known = self.folder / "contents" / name
        try:
            text = known.read_text(encoding="ascii")
            if len(text) == 64:
                return text
        except (OSError, ValueError):
            pass
        digest = hashlib.sha256()
        with open(video, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        with replacing(known) as out:
            out.write(digest.hexdigest())
        return digest.hexdigest()
