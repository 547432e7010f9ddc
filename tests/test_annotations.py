import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etad.data.annotations import (
    DataError,
    load_json,
    match_id,
    read_annotations,
    read_blocked,
    without,
    write_annotations,
)


def entry(*segments: Any, duration: Any = 100.0, subset: Any = "training", label: Any = "Run") -> dict[str, Any]:
    return {"duration": duration, "subset": subset, "annotations": [{"segment": s, "label": label} for s in segments]}


def written(tmp_path: Path, database: Any) -> Path:
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"version": "1.3", "taxonomy": [], "database": database}), encoding="utf-8")
    return path


def test_each_flaw_is_mended_and_counted(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {
            "a": entry([5, 5], [9, 4], [10, 20], [10, 20]),
            "b": entry([-3, 7], [90, 100.05], [95, 101]),
            "c": entry([120, 130], [-5, -1]),
            "d": entry(),
        },
    )
    got = read_annotations(path)
    assert got.flaws == {
        "zero_or_negative_length": 2,
        "duplicates": 1,
        "starts_before_zero": 2,
        "end_past_video": 2,
        "outside_video": 2,
        "without_segments": 2,
    }
    assert got.policies.keys() == got.flaws.keys()
    assert got.videos["a"].segments_s.tolist() == [[10, 20], [10, 20]]
    assert got.videos["b"].segments_s.tolist() == [[0, 7], [90, 100], [95, 100]]
    assert got.videos["c"].segments_s.shape == (0, 2)
    assert got.videos["d"].labels.dtype == np.int64


def test_labels_index_the_sorted_classes_of_the_whole_file(tmp_path: Path) -> None:
    path = written(
        tmp_path, {"a": entry([0, 1], label="Zumba"), "é/../b": entry([0, 1], label="Archery", subset="validation")}
    )
    got = read_annotations(path)
    assert got.classes == ("Archery", "Zumba")
    assert [v.labels.tolist() for v in got.videos.values()] == [[1], [0]]
    assert [v.id for v in got.subset("validation")] == ["é/../b"]


BROKEN = {
    "subset missing": {"duration": 1.0, "annotations": []},
    "duration missing": {"subset": "training", "annotations": []},
    "annotations missing": {"subset": "training", "duration": 1.0},
    "negative duration": entry(duration=-1.0),
    "zero duration": entry(duration=0),
    "text as duration": entry(duration="12"),
    "truth value as duration": entry(duration=True),
    "NaN duration": entry(duration=math.nan),
    "infinite end": entry([0.0, math.inf]),
    "NaN start": entry([math.nan, 1.0]),
    "huge integer": entry([0, 10**400]),
    "one number": entry([1.0]),
    "three numbers": entry([1.0, 2.0, 3.0]),
    "text segment": entry("1-2"),
    "null label": entry([0, 1], label=None),
    "empty label": entry([0, 1], label=""),
    "half a surrogate pair": entry([0, 1], label="\ud800"),
    "number as subset": entry(subset=3),
    "list as entry": [1, 2],
    "text as annotation": {"subset": "training", "duration": 1.0, "annotations": ["x"]},
    "segment missing": {"subset": "training", "duration": 1.0, "annotations": [{"label": "Run"}]},
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_entry_is_one_error_with_file_and_video(tmp_path: Path, broken: Any) -> None:
    path = written(tmp_path, {"fine": entry([0, 1]), "bad one": broken})
    with pytest.raises(DataError, match=r"truth\.json: video 'bad one': .*; mend") as caught:
        read_annotations(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"database": {"a": ', "not usable as JSON"),
        (b'{"database": {"a": {"duration": 1}, "a": {"duration": 2}}}', "'a' stands twice"),
        (b"\xff\xfe\x00", "not usable as JSON"),
        (b"[" * 100_000, "not usable as JSON"),
        (b"[]", "no videos"),
        (b'{"database": {}}', "no videos"),
        (b'{"database": []}', "no videos"),
    ],
)
def test_a_broken_file_is_one_error_with_its_name(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "truth.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_annotations(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        read_annotations(tmp_path / "nowhere.json")


seconds = st.floats(-50, 250, allow_nan=False).map(lambda x: round(x, 3))


@given(st.lists(st.tuples(seconds, seconds, st.sampled_from("xyz")), max_size=12), st.floats(0.5, 200))
def test_what_is_read_lies_inside_and_nothing_vanishes_uncounted(
    tmp_path_factory: pytest.TempPathFactory, instances: list[tuple[float, float, str]], duration: float
) -> None:
    made = {"annotations": [{"segment": [s, e], "label": c} for s, e, c in instances]}
    path = written(tmp_path_factory.mktemp("t"), {"v": {"duration": duration, "subset": "training", **made}})
    got = read_annotations(path)
    segments = got.videos["v"].segments_s
    assert (segments[:, 0] >= 0).all()
    assert (segments[:, 1] <= duration).all()
    assert (segments[:, 0] < segments[:, 1]).all()
    assert len(instances) == len(segments) + got.flaws["zero_or_negative_length"] + got.flaws["outside_video"]
    lengthy = [i for i in instances if i[1] > i[0]]
    assert got.flaws["duplicates"] == len(lengthy) - len(Counter(lengthy))
    again = path.with_name("again.json")
    write_annotations(again, got)
    back = read_annotations(again)
    np.testing.assert_array_equal(back.videos["v"].segments_s, segments)
    assert back.classes == got.classes


def test_ids_match_with_and_without_their_prefix() -> None:
    known = {"abc", "v_own"}
    assert match_id("v_abc", known) == "abc"
    assert match_id("abc", known) == "abc"
    assert match_id("v_own", known) == "v_own"
    assert match_id("v_v_own", known) == "v_own"
    assert match_id("own", known) == "v_own"
    assert match_id("xyz", known) is None


def test_blocked_lists(tmp_path: Path) -> None:
    ids, sha256 = read_blocked("anet-79")
    assert len(ids) == 79
    path = tmp_path / "blocked.json"
    path.write_text(json.dumps(["v_a", "unknown"]))
    own, other = read_blocked(path)
    assert own == {"v_a", "unknown"}
    assert sha256 != other
    truth = read_annotations(written(tmp_path, {"a": entry([0, 1]), "b": entry([0, 1])}))
    assert list(without(truth, own).videos) == ["b"]
    assert list(truth.videos) == ["a", "b"]


@pytest.mark.parametrize("content", ["{}", "[1]", '[""]', "["])
def test_a_broken_blocked_list_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "blocked.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"blocked\.json"):
        read_blocked(path)


def test_an_unknown_blocked_name_lists_the_known() -> None:
    with pytest.raises(DataError, match="anet-79"):
        read_blocked("anet-80")


def test_activitynet_counts(shared: Path) -> None:
    got = read_annotations(shared / "data" / "anet" / "activity_net.v1-3.json")
    assert got.flaws["zero_or_negative_length"] == 12
    assert got.flaws["end_past_video"] == 495
    assert got.flaws["duplicates"] == 49
    assert len(got.classes) == 200
    assert [len(got.subset(s)) for s in ("training", "validation", "testing")] == [10_024, 4_926, 5_044]
    ids, sha256 = read_blocked("anet-79")
    assert len(without(got, ids).subset("validation")) == 4_895
    assert sha256 == load_json(shared / "data" / "anet" / "blocked.json")[1]
