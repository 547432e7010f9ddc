"""Raw feature sequences of videos, one .npy file each or one HDF5 file, and their resize to T columns."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import Any

import h5py
import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from etad.data.annotations import DataError

EXPONENT = np.uint16(0x7C00)  # bits of a half that are all set in NaN and infinity only


def check_pattern(pattern: str, example: str) -> None:
    """Raises DataError where a pattern of file names does not hold {id} once."""
    if pattern.count("{id}") != 1:
        raise DataError(f"pattern {pattern!r}: write where the video's id stands, once, as in {example!r}")


def name_below(path: Path, pattern: str, id: str) -> str:
    """The name that a pattern gives a video. Raises DataError where it would lead out of `path`."""
    name = pattern.replace("{id}", id)
    parts = PureWindowsPath(name)  # knows both slashes and drives
    if parts.drive or parts.root or ".." in parts.parts or "\0" in name:
        raise DataError(f"{path}: video {id!r} would be read from outside it; rename this video")
    return name


def columns_and_width(array: Any, layout: str) -> tuple[int, int]:
    """(t, C) of an array that states its dtype and shape. Raises ValueError, saying what is wrong with it."""
    if array.dtype.kind != "f":
        raise ValueError(f"holds {array.dtype}, not floating point numbers; convert it")
    if array.ndim != 2:
        raise ValueError(f"has {array.ndim} axes, not the two of layout {layout}; squeeze or remove it")
    if 0 in array.shape:
        raise ValueError(f"is empty {array.shape}; extract its features again")
    t, channels = array.shape if layout == "TC" else array.shape[::-1]
    return int(t), int(channels)


def as_half(raw: NDArray[Any], layout: str) -> NDArray[np.float16]:
    """Features [t, C] rounded to half. Raises ValueError on NaN, infinity and what a half cannot hold."""
    with np.errstate(over="ignore"):
        half = raw.astype(np.float16, copy=False)
    if ((half.view(np.uint16) & EXPONENT) == EXPONENT).any():  # ten times faster than isfinite on halves
        if not np.isfinite(raw).all():
            raise ValueError("holds NaN or infinity; extract its features again")
        raise ValueError(f"reaches {np.abs(raw).max():.4g}, beyond float16's 65504; scale these features")
    return np.ascontiguousarray(half if layout == "TC" else half.T)


@dataclass(frozen=True)
class FeatureSource:
    """Where each video's raw features lie: `pattern` names a file inside a folder, or a dataset of an HDF5 file.

    `layout` states how each array stands: TC is [t, C], CT is [C, t]. Nothing is guessed. Raises DataError.
    """

    path: Path
    pattern: str
    layout: str

    def __post_init__(self) -> None:
        check_pattern(self.pattern, "v_{id}.npy")
        if self.layout not in ("TC", "CT"):
            raise DataError(f"layout {self.layout!r}: declare TC for arrays [t, C] or CT for [C, t]")
        if not self.path.is_dir() and not (self.path.is_file() and h5py.is_hdf5(self.path)):
            raise DataError(f"{self.path}: neither a folder of .npy files nor an HDF5 file; give one of them")

    @property
    def description(self) -> str:
        return f"{self.path.name}, {self.pattern}, {self.layout}"

    def name(self, id: str) -> str:
        """The file or dataset of a video, always below `path`. Raises DataError where the id leads elsewhere."""
        return name_below(self.path, self.pattern, id)

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Those ids that have no features here."""
        if self.path.is_dir():
            return [id for id in ids if not (self.path / self.name(id)).is_file()]
        with h5py.File(self.path, "r") as file:
            return [id for id in ids if self.name(id) not in file]

    def shape(self, id: str) -> tuple[int, int]:
        """(t, C) of a video, read from the array's header, its stored size checked. Raises DataError."""
        with self._open(id) as array:
            return self._checked_shape(id, array)

    def state(self, id: str) -> str:
        """Changes when the stored file changes, without reading it."""
        stat = (self.path / self.name(id) if self.path.is_dir() else self.path).stat()
        return f"{stat.st_size}.{stat.st_mtime_ns}"

    def read(self, id: str) -> NDArray[np.float16]:
        """The features [t, C] of a video, rounded to half. Raises DataError on NaN, infinity or a broken file."""
        with self._open(id) as array:
            self._checked_shape(id, array)
            raw = np.asarray(array[:])
        try:
            return as_half(raw, self.layout)
        except ValueError as error:
            raise self._broken(id, str(error)) from None

    def _checked_shape(self, id: str, array: Any) -> tuple[int, int]:
        try:
            return columns_and_width(array, self.layout)
        except ValueError as error:
            raise self._broken(id, str(error)) from None

    @contextmanager
    def _open(self, id: str) -> Iterator[Any]:
        name = self.name(id)
        try:
            if self.path.is_dir():
                yield self._open_npy(id, self.path / name)
                return
            with h5py.File(self.path, "r") as file:
                array = file[name]
                # Links, external and virtual storage could lead to another file.
                own = isinstance(array, h5py.Dataset) and array.file.filename == file.filename
                if not own or array.external or array.is_virtual:
                    raise self._broken(id, "is not a dataset stored in this file")
                yield array
        except DataError:
            raise
        except KeyError:
            raise self._broken(id, "is missing") from None
        except (OSError, ValueError, EOFError) as error:
            raise self._broken(id, f"cannot be read ({str(error).splitlines()[0]}); copy or extract it again") from None

    def _open_npy(self, id: str, path: Path) -> NDArray[Any]:
        if path.stat().st_size == 0:
            raise self._broken(id, "is an empty file; copy or extract it again")
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            stored, needed = path.stat().st_size - file.tell(), math.prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise self._broken(id, "holds pickled objects, which are never opened; save it as plain numbers")
        if stored != needed:
            raise self._broken(id, f"is {'cut off' if stored < needed else 'too long'}: {stored} of {needed} bytes")
        return np.zeros(shape, dtype) if needed == 0 else np.load(path, mmap_mode="r", allow_pickle=False)

    def _broken(self, id: str, what: str) -> DataError:
        return DataError(f"{self.path / self.name(id)}: {what} (video {id!r})")


@lru_cache(maxsize=512)
def _weights(t: int, tscale: int) -> scipy.sparse.csr_array:
    """The resize as a matrix [tscale, t] of interpolation weights, float64."""
    per_bin = math.ceil(t / tscale)
    at = np.maximum((np.arange(tscale * per_bin) + 0.5) * (t / (tscale * per_bin)) - 0.5, 0.0)
    low = np.minimum(at.astype(np.int64), t - 1)
    high = np.minimum(low + 1, t - 1)
    share = at - low  # where low is the last column, high is the same one: the shares still add up to one
    row = np.arange(tscale * per_bin) // per_bin
    values = np.concatenate([1 - share, share]) / per_bin
    where = (np.concatenate([row, row]), np.concatenate([low, high]))
    return scipy.sparse.coo_array((values, where), shape=(tscale, t)).tocsr()


def resize(features: NDArray[Any], tscale: int) -> NDArray[np.float64]:
    """[t, C] as [tscale, C]: RoIAlign of the box [0, t], in double on an input rounded to half.

    Aligned, so shifted by -0.5; ceil(t / tscale) samples a bin, linearly interpolated, their mean taken.
    Source: METHOD 1.
    """
    rounded = features.astype(np.float16, copy=False).astype(np.float64)
    return np.asarray(_weights(len(features), tscale) @ rounded)
