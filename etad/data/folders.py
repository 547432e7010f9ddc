"""What a folder of features holds: how its files are named after videos, and which of their axes is time."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import h5py

from etad.data.annotations import DataError
from etad.data.features import FeatureSource

LOOKED_AT = 20  # ids that patterns are made of


def find_pattern(path: Path, ids: Sequence[str], suffixes: Sequence[str] = (".npy",)) -> str:
    """The pattern, such as 'v_{id}.npy', that most of these ids have a file (or HDF5 dataset) by.

    Raises DataError where none has, or where two patterns serve equally many.
    """
    names = _names(path, suffixes)
    candidates = {name.replace(id, "{id}") for id in ids[:LOOKED_AT] for name in names if id and name.count(id) == 1}
    hits = Counter({pattern: sum(pattern.replace("{id}", id) in names for id in ids) for pattern in candidates})
    best = hits.most_common(2)
    if not best:
        held = ", ".join(sorted(names)[:3]) or "nothing of the kind"
        raise DataError(
            f"{path}: no file is named after a video such as {', '.join(ids[:3])}; it holds {held} "
            f"({'/'.join(suffixes)}); rename them, or say how they are named (--pattern)"
        )
    if len(best) == 2 and best[0][1] == best[1][1]:
        raise DataError(f"{path}: both {best[0][0]} and {best[1][0]} name files of the videos; choose with --pattern")
    return best[0][0]


def _names(path: Path, suffixes: Sequence[str]) -> set[str]:
    if path.is_dir():
        return {file.relative_to(path).as_posix() for file in path.rglob("*") if file.suffix.lower() in suffixes}
    names: set[str] = set()
    if not path.is_file() or not h5py.is_hdf5(path):
        raise DataError(f"{path}: neither a folder nor an HDF5 file; give one of them")
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: names.add(name) if isinstance(item, h5py.Dataset) else None)
    return names


def find_layout(path: Path, pattern: str, ids: Sequence[str]) -> str:
    """TC or CT: the axis of one size in all videos is the channels. Raises DataError where the sizes do not tell."""
    source = FeatureSource(path, pattern, "TC")
    shapes = [source.shape(id) for id in ids]
    first, second = (len({shape[axis] for shape in shapes}) for axis in (0, 1))
    if first == second:
        raise DataError(
            f"{path}: the sizes {', '.join(map(str, shapes[:3]))} do not tell which axis is time; say so with "
            "--layout TC ([snippets, channels]) or CT"
        )
    return "TC" if second < first else "CT"
