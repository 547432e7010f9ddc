import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etad.data.annotations import DataError, read_annotations
from etad.data.tabular import TableVideo, layout, read_table

TABLE = """\
id,start,end,label,duration,subset
a,1,2.5,Run,10,training
b,,,,5,validation
a,3,4,"Jump, high",10.0,training
é/ü,0.5,1e1,Run,20,validation
"""


def written(folder: Path, content: str) -> Path:
    path = folder / "truth.csv"
    path.write_text(content, encoding="utf-8")
    return path


def test_a_table_becomes_the_layout(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, "\ufeff" + TABLE))
    assert table["a"] == TableVideo([(1.0, 2.5, "Run"), (3.0, 4.0, "Jump, high")], 10.0, "training")
    assert table["b"] == TableVideo([], 5.0, "validation")
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(layout(table, {}, train="training", test="validation")))
    truth = read_annotations(path)
    assert list(truth.videos) == ["a", "b", "é/ü"]
    assert truth.classes == ("Jump, high", "Run")
    assert truth.videos["é/ü"].segments_s.tolist() == [[0.5, 10.0]]


def test_columns_may_stand_in_any_order(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, "label,end,id,start\nRun,2,a,1\n"))
    assert table == {"a": TableVideo([(1.0, 2.0, "Run")])}


BROKEN = {
    "empty": ("", "the columns are none"),
    "a head alone": ("id,start,end,label\n", "no rows"),
    "no head": ("a,1,2,Run\n", "the columns are 'a', '1', '2', 'Run'"),
    "another column": ("id,start,end,label,split\na,1,2,Run,x\n", "'split'"),
    "a column twice": ("id,start,end,label,id\na,1,2,Run,a\n", "columns"),
    "too few": ("id,start,end,label\na,1,2\n", "line 2: it has not as many columns"),
    "too many": ("id,start,end,label\na,1,2,Run,x\n", "line 2: it has not as many columns"),
    "text for seconds": ("id,start,end,label\na,one,2,Run\n", "line 2: start 'one'"),
    "no end": ("id,start,end,label\na,1,,Run\n", "line 2: end ''"),
    "NaN": ("id,start,end,label\na,1,nan,Run\n", "line 2: end 'nan'"),
    "no label": ("id,start,end,label\na,1,2,\n", "line 2: label is empty"),
    "no id": ("id,start,end,label\n,1,2,Run\n", "line 2: id is empty"),
    "two durations": ("id,start,end,label,duration\na,1,2,R,3\na,1,2,R,4\n", "line 3: video 'a' has two durations"),
    "two subsets": ("id,start,end,label,subset\na,1,2,R,x\na,1,2,R,y\n", "line 3: video 'a' has two subsets"),
    "open quote": ('id,start,end,label\na,1,2,"Run\n', "line"),
    "semicolons": ("id;start;end;label\na;1;2;Run\n", "'id;start;end;label'"),
}


@pytest.mark.parametrize(("content", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_table_is_one_error_with_its_line(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        read_table(written(tmp_path, content))
    assert str(caught.value).startswith(str(tmp_path / "truth.csv"))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_and_no_file_are_one_error(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_bytes(b"id,start\n\xff\xfe")
    with pytest.raises(DataError, match="UTF-8"):
        read_table(tmp_path / "truth.csv")
    with pytest.raises(DataError, match="cannot read this file"):
        read_table(tmp_path / "nowhere.csv")


@given(st.sets(st.text(min_size=1, max_size=8), min_size=2, max_size=40))
def test_a_fifth_is_held_out_whatever_the_order(ids: set[str]) -> None:
    def held(order: list[str]) -> set[str]:
        tree = layout({id: TableVideo(duration_s=1.0) for id in order}, {}, train="training", test="validation")
        return {id for id, video in tree["database"].items() if video["subset"] == "validation"}

    chosen = held(sorted(ids))
    assert chosen == held(sorted(ids, reverse=True))
    assert len(chosen) == -(-len(ids) // 5)
    assert chosen < ids


def test_durations_come_from_elsewhere_or_are_asked_for() -> None:
    table = {"a": TableVideo(duration_s=3.0), "b": TableVideo()}
    tree = layout(table, {"a": 9.0, "b": 4.0}, train="training", test="validation")
    assert [video["duration"] for video in tree["database"].values()] == [3.0, 4.0]
    with pytest.raises(DataError, match=r"1 videos have no duration \(b\).*--column-s"):
        layout(table, {}, train="training", test="validation")
    with pytest.raises(DataError, match="1 videos are in no subset"):
        layout(
            {"a": TableVideo([], 1.0, "training"), "b": TableVideo([], 1.0)}, {}, train="training", test="validation"
        )
