"""One memory-mapped float16 array [rows, T, C] of prepared features, with its index.

A pack is a folder with
  index.json         the Index below, written last: a folder without it is not a finished pack
  features-*.npy     the array, named after what went into it, so that no index ever points at another pack's array
  features-*.jsonl   while packing.py writes: one line a finished video with its checksums, compared on resumption
"""

import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from etad.data.annotations import DataError
from etad.data.samples import Samples
from etad.spec import Frozen


class Row(Frozen):
    id: str
    span_s: tuple[float, float]
    crc32: int  # of the row's bytes


class WindowRule(Frozen):
    """The part of a WindowSpec that shapes rows."""

    stride_s: float
    overlap: float
    fitted: bool = False


class Contents(Frozen):
    """What a pack holds, known before its features are read."""

    tscale: int
    channels: int
    windows: WindowRule | None  # None: whole videos, resized
    resize: str = "roi_align aligned adaptive, float64 on float16 input"  # the rule where windows is None
    sources: dict[str, str]  # what -> where the features come from, pattern, layout, generator settings
    missing: tuple[str, ...] = ()  # videos without features, left out


class Index(Contents):
    version: Literal[1] = 1
    file: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class PackedFeatures:
    """An open pack; `features` [rows, T, C] float16 is memory-mapped and read-only."""

    path: Path
    index: Index
    features: NDArray[np.float16]
    sha256: str  # of index.json, which holds the checksum of every row

    @cached_property
    def rows(self) -> dict[str, list[int]]:
        """Video id -> its row numbers."""
        found: dict[str, list[int]] = {}
        for number, row in enumerate(self.index.rows):
            found.setdefault(row.id, []).append(number)
        return found

    def samples(self, ids: Iterable[str]) -> Samples:
        """The rows of these videos, in their order: a view of the array where they lie side by side, else a copy."""
        numbers = np.array([number for id in ids for number in self.rows[id]], np.int64)
        together = len(numbers) > 0 and (np.diff(numbers) == 1).all()
        chosen = slice(numbers[0], numbers[-1] + 1) if together else numbers
        rows = [self.index.rows[number] for number in numbers]
        span_s = np.array([row.span_s for row in rows], np.float64).reshape(-1, 2)
        return Samples(tuple(row.id for row in rows), span_s, self.features[chosen])

    def verify(self) -> None:
        """Compare every row with its checksum. Raises DataError, naming the damaged videos."""
        damaged = [r.id for r, x in zip(self.index.rows, self.features, strict=True) if zlib.crc32(x) != r.crc32]
        if damaged:
            names = ", ".join(list(dict.fromkeys(damaged))[:5])
            raise DataError(f"{self.path}: {len(damaged)} damaged rows ({names}); delete this folder and prepare again")


def open_packed(path: str | Path) -> PackedFeatures:
    """A finished pack, its version, shape and size checked (checksums: `verify`). Raises DataError."""
    path = Path(path)
    try:
        raw = (path / "index.json").read_bytes()
        index = Index.model_validate_json(raw, strict=True)
        if Path(index.file).name != index.file:
            raise ValueError(f"its array {index.file!r} is not in the folder")
        features = np.load(path / index.file, mmap_mode="r", allow_pickle=False)
        shape = (len(index.rows), index.tscale, index.channels)
        if features.shape != shape or features.dtype != np.float16:
            raise ValueError(f"{index.file} is {features.dtype} {features.shape}, its index says float16 {shape}")
    except FileNotFoundError as error:
        raise DataError(f"{path}: not a finished pack (no {Path(error.filename).name}); run prepare (again)") from None
    except (OSError, ValidationError, ValueError, EOFError) as error:
        what = str(error).splitlines()[0]
        raise DataError(f"{path}: not a usable pack ({what}); delete this folder and prepare again") from None
    return PackedFeatures(path, index, features, hashlib.sha256(raw).hexdigest())
