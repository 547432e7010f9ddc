"""Detection files: written whole, read strictly."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etad.data.annotations import DataError
from etad.detections import Detections, read_detections, tiou, write_detections

ROW = {"segment": [1.0, 2], "label": "run", "score": 0.5}


def written(tmp_path: Path, text: object) -> Path:
    path = tmp_path / "detections.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return path


def rows(ids: tuple[str, ...], video: list[int], scores: list[float]) -> Detections:
    rng = np.random.default_rng(len(video))
    return Detections(
        ids=ids,
        classes=('a "quoted"\nclass', "läufer"),
        video=np.array(video, np.int64),
        segments_s=rng.random((len(video), 2)) * 1e3,
        label=rng.integers(0, 2, len(video)),
        score=np.array(scores),
    )


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(-1e9, 1e9)), max_size=9))
def test_reads_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, given: list[tuple[int, float]]) -> None:
    path = tmp_path_factory.mktemp("d") / "detections.json"
    made = rows(("v_1", 'v"2', "ü"), [video for video, _ in given], [score for _, score in given])
    write_detections(path, made, {"who": "test"})
    got = read_detections(path, made.classes)
    order = np.argsort(made.video, kind="stable")
    assert (got.ids, got.classes) == (made.ids, made.classes)
    for name in ("video", "segments_s", "label", "score"):
        assert np.array_equal(getattr(got, name), getattr(made, name)[order]), name
    tree = json.loads(path.read_text(encoding="utf-8"))
    assert tree["external_data"] == {"who": "test"}
    assert set(tree["results"]) == set(made.ids)


def test_nothing_is_written_over_by_what_is_not_finite(tmp_path: Path) -> None:
    path = written(tmp_path, "old")
    with pytest.raises(ValueError, match="NaN"):
        write_detections(path, rows(("a",), [0], [np.nan]))
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not plain JSON"),
        ("[]", "'results'"),
        ({"results": []}, "'results'"),
        ({"results": {"a": ROW}}, "video 'a'"),
        ({"results": {"a": [1]}}, "video 'a'"),
        ({"results": {"a": [{k: v for k, v in ROW.items() if k != "score"}]}}, "'score'"),
        ({"results": {"a": [{**ROW, "score": "0.5"}]}}, "score is not a number"),
        ({"results": {"a": [{**ROW, "score": True}]}}, "score is not a number"),
        ({"results": {"a": [{**ROW, "score": None}]}}, "score is not a number"),
        ({"results": {"a": [{**ROW, "score": 10**400}]}}, "too large"),
        ('{"results": {"a": [{"segment": [0, 1], "label": "run", "score": NaN}]}}', "not plain JSON"),
        ('{"results": {"a": [{"segment": [0, Infinity], "label": "run", "score": 1}]}}', "not plain JSON"),
        ('{"results": {"a": [{"segment": [0, 1e999], "label": "run", "score": 1}]}}', "too large"),
        ({"results": {"a": [{**ROW, "segment": [1, 2, 3]}]}}, "segment"),
        ({"results": {"a": [{**ROW, "segment": "12"}]}}, "segment"),
        ({"results": {"a": [{**ROW, "segment": [1, [2]]}]}}, "segment is not a number"),
        ({"results": {"a": [{**ROW, "label": 3}]}}, "label is not text"),
        (
            {"results": {"a": [{**ROW, "label": "fly"}, {**ROW, "label": "fly"}, ROW]}},
            "2 detections carry 1 labels.*fly",
        ),
        (f'{{"results": {{"a": [{json.dumps(ROW)}], "a": []}}}}', "twice"),
    ],
)
def test_a_broken_file_is_one_clear_error(tmp_path: Path, content: object, says: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(DataError, match=f"(?s)detections.json.*{says}"):
        read_detections(path, ("run",))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        read_detections(tmp_path / "nowhere.json")


def test_a_label_called_segment_and_foreign_keys_do_no_harm(tmp_path: Path) -> None:
    path = written(tmp_path, {"results": {"a": [{**ROW, "label": "segment", "extra": {"segment": 1}}], "b": []}})
    got = read_detections(path)
    assert (got.ids, got.classes, len(got.score)) == (("a", "b"), ("segment",), 1)


def test_tiou() -> None:
    a = np.array([[0.0, 10.0], [0.0, 10.0], [0.0, 10.0], [3.0, 3.0], [3.0, 3.0], [5.0, 3.0]])
    b = np.array([[5.0, 15.0], [0.0, 10.0], [10.0, 20.0], [0.0, 10.0], [7.0, 7.0], [0.0, 10.0]])
    got = tiou(a, b)
    assert got[:4] == pytest.approx([1 / 3, 1, 0, 0])
    assert np.isnan(got[4])
    assert got[5] == 0
