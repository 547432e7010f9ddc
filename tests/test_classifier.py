import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etad.data.annotations import DataError, read_annotations
from etad.data.classifier import check_labels, read_classifier


def written(tmp_path: Path, content: Any, name: str = "scores.json") -> Path:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_the_matrix_layout_is_sorted_stably(tmp_path: Path) -> None:
    tree = {"results": {"a": [0.1, 0.7, 0.1, 0.7], "other": [1, 0, 0, 0]}, "class": ["w", "x", "y", "z"]}
    assert read_classifier(written(tmp_path, tree), ["a", "b"]) == {
        "a": (("x", 0.7), ("z", 0.7), ("w", 0.1), ("y", 0.1))
    }


def test_one_class_a_video_with_prefixes(tmp_path: Path) -> None:
    tree = {"v_a": {"class": "x", "score": 1}, "v_own": {"class": "y", "score": 0.5}}
    assert read_classifier(written(tmp_path, tree), ["a", "v_own"]) == {"a": (("x", 1.0),), "v_own": (("y", 0.5),)}


def test_csv_rows(tmp_path: Path) -> None:
    path = written(tmp_path, '\ufeffid,label,score\na,x,0.2\r\na,"y, z",0.8\nv_b,x,1e-3\n', "scores.csv")
    assert read_classifier(path, ["a", "b"]) == {"a": (("y, z", 0.8), ("x", 0.2)), "b": (("x", 1e-3),)}


BROKEN: dict[str, Any] = {
    "short row": {"results": {"a": [0.5]}, "class": ["x", "y"]},
    "class twice": {"results": {"a": [0.5, 0.5]}, "class": ["x", "x"]},
    "no results": {"class": ["x"]},
    "NaN in a row": '{"results": {"a": [NaN]}, "class": ["x"]}',
    "infinite": '{"a": {"class": "x", "score": 1e999}}',
    "negative": {"a": {"class": "x", "score": -0.1}},
    "extra key": {"a": {"class": "x", "score": 1, "rank": 1}},
    "score missing": {"a": {"class": "x"}},
    "score as text": {"a": {"class": "x", "score": "0.5"}},
    "two keys for one video": {"a": {"class": "x", "score": 1}, "v_a": {"class": "y", "score": 1}},
    "list": [1],
    "cut off": '{"a": {',
    "nobody known": {"zzz": {"class": "x", "score": 1}},
    "empty": "",
    "csv without header": "a,x,0.5\n",
    "csv with text": "id,label,score\na,x,high\n",
    "csv with NaN": "id,label,score\na,x,nan\n",
    "csv with two columns": "id,label,score\na,x\n",
    "csv label twice": "id,label,score\na,x,0.1\na,x,0.2\n",
    "csv open quote": 'id,label,score\na,"x,0.5\n',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_one_error_with_its_name(tmp_path: Path, content: Any) -> None:
    with pytest.raises(DataError, match=r"scores\.json: ") as caught:
        read_classifier(written(tmp_path, content), ["a", "b"])
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_one_error(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match=r"scores\.csv"):
        read_classifier(path, ["a"])


def test_an_array_is_named_by_the_json_beside_it(tmp_path: Path) -> None:
    np.save(tmp_path / "scores.npy", np.array([[0.1, 0.9, 5.0], [0.8, 0.2, 5.0]], np.float32))
    (tmp_path / "scores.json").write_text(json.dumps({"ids": ["a", "v_b"], "columns": {"x": 0, "y": 1}}))
    found = read_classifier(tmp_path / "scores.npy", ["a", "b"])
    assert {id: [label for label, _ in of] for id, of in found.items()} == {"a": ["y", "x"], "b": ["x", "y"]}
    assert found["a"][0][1] == pytest.approx(0.9)


def test_an_array_alone_is_untrimmednets(tmp_path: Path) -> None:
    scores = np.zeros((3, 101), np.float32)
    scores[1, [6, 96, 0]] = (0.5, 0.25, 2.0)  # the first column is none of THUMOS-14's classes
    np.save(tmp_path / "scores.npy", scores)
    found = read_classifier(tmp_path / "scores.npy", ["video_test_0000002"])["video_test_0000002"]
    assert found[:2] == (("BaseballPitch", 0.5), ("VolleyballSpiking", 0.25))
    assert len(found) == 20


ARRAYS = {
    "one axis": np.zeros(101),
    "too few columns": np.zeros((2, 20)),
    "NaN": np.full((2, 101), np.nan),
    "text": np.array([["x"] * 101]),
    "objects": np.array([[None] * 101], dtype=object),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_a_broken_array_is_one_error_with_its_name(tmp_path: Path, array: Any) -> None:
    np.save(tmp_path / "scores.npy", array)
    with pytest.raises(DataError, match=r"scores\.npy: ") as caught:
        read_classifier(tmp_path / "scores.npy", ["video_test_0000001"])
    assert "\n" not in str(caught.value)


def test_names_that_do_not_fit_their_array_are_one_error(tmp_path: Path) -> None:
    np.save(tmp_path / "scores.npy", np.zeros((2, 2)))
    for named in ({"ids": ["a"], "columns": {"x": 0}}, {"ids": ["a", "b"], "columns": {"x": 2}}, {"ids": ["a", "b"]}):
        (tmp_path / "scores.json").write_text(json.dumps(named))
        with pytest.raises(DataError, match=r"scores\.npy: .*scores\.json"):
            read_classifier(tmp_path / "scores.npy", ["a", "b"])


def test_unknown_labels_are_named_together() -> None:
    scores = {"a": (("x", 1.0), ("Rum", 0.5)), "b": (("Gin", 1.0),)}
    with pytest.raises(DataError, match=r"2 labels .*'Gin', 'Rum'"):
        check_labels(scores, ("x", "y"))
    check_labels(scores, ("x", "Rum", "Gin"))


def test_untrimmednet_knows_the_real_test_videos(shared: Path) -> None:
    truth = read_annotations(shared / "data" / "thumos" / "thumos14.json")
    scores = read_classifier(shared / "data" / "thumos" / "uNet_test.npy", truth.videos)
    check_labels(scores, truth.classes)
    test = [video for video in truth.subset("test") if len(video.labels)]
    right = [scores[v.id][0][0] in {truth.classes[i] for i in v.labels} for v in test]
    assert sum(right) / len(right) > 0.9


def test_the_real_classifier_is_right_where_it_was_reported(shared: Path) -> None:
    truth = read_annotations(shared / "data" / "anet" / "activity_net.v1-3.json")
    scores = read_classifier(shared / "data" / "anet" / "video_top1.json", truth.videos)
    check_labels(scores, truth.classes)
    validation = truth.subset("validation")
    right = [scores[v.id][0][0] in {truth.classes[i] for i in v.labels} for v in validation]
    assert round(100 * sum(right) / len(right), 1) == 88.5
