"""Which rows are trained on, in which order, with which segments."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etad.data.annotations import Annotations, DataError, Video
from etad.data.batches import EpochBatches, TrainingRows
from etad.data.samples import Samples

sizes = st.tuples(st.integers(1, 40), st.integers(1, 8)).filter(lambda n: n[0] >= n[1])
seeds = st.integers(0, 2**31 - 1)


def batches(rows: int, batch: int, seed: int, epoch: int, begin: int = 0, **place: int) -> list[list[tuple[int, ...]]]:
    made = EpochBatches(rows, batch=batch, seed=seed, **place)
    made.epoch, made.begin = epoch, begin
    return list(made)


@given(sizes, seeds, st.integers(0, 50))
def test_an_epoch_reads_no_row_twice_and_numbers_its_iterations(size: tuple[int, int], seed: int, epoch: int) -> None:
    rows, batch = size
    made = batches(rows, batch, seed, epoch)
    read = [key[2] for keys in made for key in keys]
    assert len(read) == len(set(read)) == rows // batch * batch
    assert set(read) <= set(range(rows))
    assert [keys[0][1] for keys in made] == list(range(epoch * (rows // batch), (epoch + 1) * (rows // batch)))
    assert all(key[:2] == keys[0][:2] and key[0] == epoch for keys in made for key in keys)


def test_the_order_is_a_function_of_seed_and_epoch_alone() -> None:
    orders = {(s, e): [k[2] for keys in batches(40, 4, s, e) for k in keys] for s in (0, 1) for e in (0, 1, 2)}
    assert len({tuple(order) for order in orders.values()}) == 6
    np.random.seed(7)  # noqa: NPY002 - global generators must not matter
    assert orders[1, 2] == [k[2] for keys in batches(40, 4, 1, 2) for k in keys]


@given(sizes, seeds, st.integers(0, 40))
def test_begin_skips_exactly_the_batches_before_it(size: tuple[int, int], seed: int, begin: int) -> None:
    assert batches(*size, seed, 3, begin) == batches(*size, seed, 3)[begin:]


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), seeds)
def test_the_processes_share_a_batch_in_order(world: int, share: int, count: int, seed: int) -> None:
    rows, batch = world * share * count + share // 2, world * share
    parts = [batches(rows, batch, seed, 1, rank=rank, world=world) for rank in range(world)]
    joined = [[key for part in step for key in part] for step in zip(*parts, strict=True)]
    assert joined == batches(rows, batch, seed, 1)


def test_what_cannot_be_batched_is_an_error() -> None:
    with pytest.raises(DataError, match="7 training videos do not fill one batch of 8"):
        EpochBatches(7, batch=8, seed=0)
    with pytest.raises(DataError, match="does not divide among 3"):
        EpochBatches(30, batch=8, seed=0, world=3)


def made_rows(
    segments_s: dict[str, list[list[float]]], spans: list[tuple[str, float, float]], **rules: float
) -> TrainingRows:
    videos = {
        id: Video(id, "training", 100.0, np.array(s, float).reshape(-1, 2), np.arange(len(s)) + 3)
        for id, s in segments_s.items()
    }
    features = np.arange(len(spans), dtype=np.float16)[:, None, None] * np.ones((1, 4, 2), np.float16)
    samples = Samples(tuple(id for id, *_ in spans), np.array([s[1:] for s in spans]), features)
    given_rules = {"min_length": 0.01, "drop_short": False, "min_inside": 0.0} | rules
    return TrainingRows(samples, Annotations(videos, ("a",), {}, {}, ""), **given_rules)  # type: ignore[arg-type]


WHOLE = [("long", 0.0, 100.0), ("short", 0.0, 100.0), ("both", 0.0, 100.0), ("none", 0.0, 100.0)]
SEGMENTS = {"long": [[10.0, 50.0]], "short": [[3.0, 3.5]], "both": [[1.0, 1.25], [20.0, 40.0]], "none": []}


def test_rows_whose_every_segment_is_short_are_left_out() -> None:
    rows = made_rows(SEGMENTS, WHOLE)
    assert rows.ids == ("long", "both")
    batch = rows.__getitems__([(0, 5, 1), (0, 5, 0)])
    assert (batch["epoch"], batch["iteration"], batch["row"].tolist()) == (0, 5, [1, 0])
    assert batch["features"][:, 0, 0].tolist() == [2.0, 0.0]  # the rows of "both" and "long"
    assert batch["present"].tolist() == [[True, True], [True, False]]
    np.testing.assert_allclose(batch["segments"][0], [[0.01, 0.0125], [0.2, 0.4]])
    assert batch["labels"].tolist() == [[3, 4], [3, 0]]
    np.testing.assert_allclose(batch["segments"][1, 0], [0.1, 0.5])


def test_dropping_short_segments_keeps_the_long_ones_beside_them() -> None:
    rows = made_rows(SEGMENTS, WHOLE, drop_short=True)
    batch = rows.__getitems__([(0, 0, 0), (0, 0, 1)])
    assert rows.ids == ("long", "both")
    assert batch["present"].tolist() == [[True], [True]]
    np.testing.assert_allclose(batch["segments"][1], [[0.2, 0.4]])
    assert batch["labels"].tolist() == [[3], [4]]


def test_a_batch_is_as_wide_as_its_own_videos_need() -> None:
    assert made_rows(SEGMENTS, WHOLE).__getitems__([(0, 0, 0)])["segments"].shape == (1, 1, 2)


def test_without_a_row_left_training_is_an_error() -> None:
    with pytest.raises(DataError, match="no training row has a segment of at least 60%"):
        made_rows(SEGMENTS, WHOLE, min_length=0.6)


def test_a_window_keeps_the_segments_that_lie_inside_it() -> None:
    windows = [("v", 0.0, 40.0), ("v", 40.0, 80.0)]
    rows = made_rows({"v": [[10.0, 20.0], [36.0, 76.0], [75.0, 95.0]]}, windows, min_inside=0.9)
    batch = rows.__getitems__([(0, 0, 0), (0, 0, 1)])
    assert batch["present"].sum(1).tolist() == [1, 1]  # 36 of 40 s are inside the second: just enough; 5 of 20 are not
    np.testing.assert_allclose(batch["segments"][:, 0], [[0.25, 0.5], [0.0, 0.9]])
    assert batch["labels"].tolist() == [[3], [4]]
