import math
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from etad.data.annotations import DataError
from etad.data.features import FeatureSource, resize


def slow_resize(features: NDArray[Any], tscale: int) -> NDArray[np.float64]:
    """RoIAlign of [0, t], sample by sample, in the words of METHOD 1."""
    x = features.astype(np.float16).astype(np.float64)
    t = len(x)
    start, size = 0 - 0.5, t / tscale
    count = math.ceil(size)
    out = np.zeros((tscale, x.shape[1]))
    for b in range(tscale):
        for k in range(count):
            at = start + b * size + (k + 0.5) * size / count
            if at < -1 or at > t:
                continue
            at = max(at, 0.0)
            low = int(at)
            high = min(low + 1, t - 1)
            value = (high - at) * x[low] + (at - low) * x[high] if high > low else x[t - 1]
            out[b] += value / count
    return out


@given(st.integers(1, 90), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_resize_is_the_slow_one(t: int, tscale: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(t, 3)) * 10
    np.testing.assert_allclose(resize(x, tscale), slow_resize(x, tscale), atol=1e-12)


def test_resize_keeps_a_sequence_of_the_right_length() -> None:
    x = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float16)
    np.testing.assert_array_equal(resize(x, 64), x.astype(np.float64))


def test_resize_gives_the_released_arrays(parity: Path) -> None:
    stored = np.load(parity / "resize.npz")
    for i in range(len(stored.files) // 2):
        got = resize(stored[f"in{i}"].T, stored[f"out{i}"].shape[1])
        np.testing.assert_array_equal(got.astype(np.float32).T, stored[f"out{i}"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "features"
    made.mkdir()
    return made


X = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_both_layouts_of_npy(folder: Path, dtype: Any, order: Any) -> None:
    np.save(folder / "v_a.npy", np.asarray(X, dtype, order=order))
    np.save(folder / "b.npy", np.asarray(X.T, dtype, order=order))
    tc, ct = FeatureSource(folder, "v_{id}.npy", "TC"), FeatureSource(folder, "{id}.npy", "CT")
    for source, id in ((tc, "a"), (ct, "b")):
        assert source.shape(id) == (4, 3)
        got = source.read(id)
        assert got.dtype == np.float16
        assert got.flags.c_contiguous
        np.testing.assert_array_equal(got, X)
    assert tc.missing(["a", "b"]) == ["b"]


def test_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "all.h5"
    with h5py.File(path, "w") as file:
        file["a/features"] = X.T
        file["b/features"] = h5py.ExternalLink("other.h5", "/x")
        file["c/features/deep"] = X
        file["text/features"] = "abc"
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = X
    source = FeatureSource(path, "{id}/features", "CT")
    np.testing.assert_array_equal(source.read("a"), X)
    assert source.missing(["a", "zzz"]) == ["zzz"]
    for id in ("b", "c", "text", "zzz"):
        with pytest.raises(DataError, match=f"all.h5/{id}/features.*'{id}'"):
            source.read(id)


@pytest.mark.parametrize("id", ["../a", "x/../../a", "/etc/passwd", "..\\a", "\\a", "C:\\a", "..", "a\0b"])
def test_an_id_never_leaves_its_folder(folder: Path, id: str) -> None:
    np.save(folder.parent / "a.npy", X)
    source = FeatureSource(folder, "{id}/a.npy" if id == ".." else "{id}.npy", "TC")
    for use in (source.read, source.shape, source.state, lambda i: source.missing([i])):
        with pytest.raises(DataError, match="outside"):
            use(id)


def test_unicode_and_nested_ids(folder: Path) -> None:
    (folder / "sub").mkdir()
    np.save(folder / "sub" / "é {x}.npy", X)
    np.testing.assert_array_equal(FeatureSource(folder, "{id}.npy", "TC").read("sub/é {x}"), X)


def broken_arrays() -> dict[str, Any]:
    nan, inf, big = X.copy(), X.copy(), X.copy()
    nan[3, 2], inf[0, 0], big[1, 1] = np.nan, -np.inf, 1e6
    return {
        "NaN": nan,
        "infinity": inf,
        "65504": big,
        "axes": X[None],
        "int32": X.astype(np.int32),
        "complex": X.astype(np.complex64),
        "is empty": X[:0],
        "pickled": np.array([{"a": 1}], dtype=object),
    }


@pytest.mark.parametrize("words", broken_arrays())
def test_broken_arrays_are_refused_by_name(folder: Path, words: str) -> None:
    np.save(folder / "a.npy", broken_arrays()[words], allow_pickle=True)
    with pytest.raises(DataError, match=f"a.npy: .*{words}.*'a'") as caught:
        FeatureSource(folder, "{id}.npy", "TC").read("a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 5, 40, 130, -1, 5000])
def test_files_of_the_wrong_size_are_refused_by_name(folder: Path, size: int) -> None:
    path = folder / "a.npy"
    np.save(path, X)
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)
    source = FeatureSource(folder, "{id}.npy", "TC")
    for use in (source.read, source.shape):
        with pytest.raises(DataError, match=r"a\.npy: .*'a'"):
            use("a")


def test_other_files_are_refused_by_name(folder: Path) -> None:
    np.savez(folder / "zip.npz", X)
    (folder / "zip.npz").rename(folder / "zip.npy")
    (folder / "text.npy").write_text("not an array")
    source = FeatureSource(folder, "{id}.npy", "TC")
    for id in ("zip", "text", "absent"):
        with pytest.raises(DataError, match=f"{id}.npy"):
            source.read(id)


def test_a_source_is_declared_completely(folder: Path) -> None:
    with pytest.raises(DataError, match="pattern"):
        FeatureSource(folder, "v_.npy", "TC")
    with pytest.raises(DataError, match="layout"):
        FeatureSource(folder, "{id}.npy", "auto")
    with pytest.raises(DataError, match="nowhere"):
        FeatureSource(folder / "nowhere", "{id}.npy", "TC")
