from pathlib import Path

import h5py
import numpy as np
import pytest

from etad.data.annotations import DataError
from etad.data.folders import find_layout, find_pattern


def fill(folder: Path, names: list[str], shapes: list[tuple[int, int]] | None = None) -> Path:
    for n, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.zeros(shapes[n] if shapes else (3 + n, 4), np.float32))
    return folder


@pytest.mark.parametrize("pattern", ["{id}.npy", "v_{id}.npy", "{id}_rgb.npy", "deep/er/{id}/feats.npy"])
def test_patterns_are_found_out(tmp_path: Path, pattern: str) -> None:
    ids = ["a", "ab", "é 1", "x/y"]
    fill(tmp_path, [pattern.replace("{id}", id) for id in ids] + ["notes.npy"])
    assert find_pattern(tmp_path, ids) == pattern


def test_ids_inside_each_other_and_missing_ones(tmp_path: Path) -> None:
    fill(tmp_path, [f"v_{n}.npy" for n in (1, 10, 11, 12)])
    assert find_pattern(tmp_path, ["99", "1", "10", "11", "12"]) == "v_{id}.npy"


def test_datasets_of_a_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "all.h5", "w") as file:
        for id in ("a", "b"):
            file[f"{id}/c3d"] = np.zeros((2, 4))
    assert find_pattern(tmp_path / "all.h5", ["a", "b"]) == "{id}/c3d"


def test_what_cannot_be_found_out_is_one_error(tmp_path: Path) -> None:
    fill(tmp_path, ["one.npy", "two.npy"])
    with pytest.raises(DataError, match=r"no file is named after a video such as a, b; it holds one\.npy"):
        find_pattern(tmp_path, ["a", "b"])
    fill(tmp_path, [f"{id}_{kind}.npy" for id in "ab" for kind in ("rgb", "flow")])
    with pytest.raises(DataError, match="choose with --pattern"):
        find_pattern(tmp_path, ["a", "b"])
    with pytest.raises(DataError, match="neither a folder nor"):
        find_pattern(tmp_path / "nowhere", ["a"])


@pytest.mark.parametrize(
    ("shapes", "layout"),
    [([(3, 8), (5, 8), (7, 8)], "TC"), ([(8, 3), (8, 5), (8, 8)], "CT"), ([(3, 8), (3, 8), (4, 8)], "TC")],
)
def test_the_axis_of_one_size_is_the_channels(tmp_path: Path, shapes: list[tuple[int, int]], layout: str) -> None:
    fill(tmp_path, ["a.npy", "b.npy", "c.npy"], shapes)
    assert find_layout(tmp_path, "{id}.npy", ["a", "b", "c"]) == layout


@pytest.mark.parametrize("shapes", [[(3, 8), (3, 8)], [(3, 8), (5, 9)]])
def test_sizes_that_do_not_tell_are_one_error(tmp_path: Path, shapes: list[tuple[int, int]]) -> None:
    fill(tmp_path, ["a.npy", "b.npy"], shapes)
    with pytest.raises(DataError, match=r"3, 8.*--layout TC"):
        find_layout(tmp_path, "{id}.npy", ["a", "b"])
