"""The command and its page: as typed, from files of any tool."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from experiments.diagnose import run
from reports.diagnose_page import MEANING, render_diagnosis

TRUTH = {
    "v0": {"duration": 100, "subset": "test", "annotations": [{"segment": [0, 10], "label": "a"}]},
    "v1": {
        "duration": 20,
        "subset": "test",
        "annotations": [{"segment": [0, 18], "label": "<b>"}, {"segment": [5, 6], "label": "a"}],
    },
}
FOUND = {
    "v0": [
        {"segment": [0, 10], "label": "a", "score": 0.9},
        {"segment": [0, 9], "label": "a", "score": 0.8},
        {"segment": [50, 60], "label": "a", "score": 0.7},
    ],
    "v1": [{"segment": [0, 18], "label": "a", "score": 0.6}],
}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    Path("truth.json").write_text(json.dumps({"database": TRUTH}))
    Path("found.json").write_text(json.dumps({"results": FOUND}))
    return ["truth.json", "found.json", "--subset", "test", "--tiou", "0.5,0.75"]


def result_of(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert run([*args, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_the_command_writes_a_page(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    result = result_of(capsys, *files)
    assert result["pages"] == ["diagnosis/index.html", "diagnosis/index.md"]
    assert result["shares"]["true positive"] == [0.25, 0.25]
    assert result["shares"]["wrong label"] == [0.25, 0.25]
    assert result["missed"] == [pytest.approx(2 / 3)] * 2
    assert {path.stem for path in Path("diagnosis/figures").iterdir()} == {"gains", "profile", "sensitivity", "missed"}
    html, markdown = (Path(page).read_text(encoding="utf-8") for page in result["pages"])
    assert "<b>" not in re.sub(r"<svg.*?</svg>", "", html, flags=re.S)
    for text in (html, markdown):
        assert all(kind in text for kind in MEANING)
        assert "without, it would be" in text
    assert "| XS: up to 0.2" in markdown
    assert not re.search(r'(src|href)="https?:', html)
    assert {path.stem for path in Path("diagnosis/tables").glob("*.csv")} >= {"errors", "profile", "sizes-coverage"}


def test_a_page_is_made_again_from_a_stored_result(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    result = result_of(capsys, *files)
    stored = {key: value for key, value in result.items() if key not in ("pages", "average_mAP")}
    written = render_diagnosis(json.loads(json.dumps(stored)), Path("again"))
    for path in written:
        assert path.read_bytes() == Path("diagnosis", path.relative_to("again")).read_bytes(), path


def test_nothing_found_is_all_missed(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("found.json").write_text(json.dumps({"results": {}}))
    result = result_of(capsys, *files, "--out", "none")
    assert (result["missed"], result["detections"]) == ([1.0, 1.0], 0)
    assert "Most is lost by" in Path("none/index.md").read_text(encoding="utf-8")


def test_thumos_has_its_own_sizes(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("truth.json").write_text(
        json.dumps({"database": {f"video_test_{id[1:]:0>7}": of for id, of in TRUTH.items()}})
    )
    Path("found.json").write_text(json.dumps({"results": {}}))
    assert result_of(capsys, *files)["sizes"]["length_s"] == [3, 6, 12, 18]
    assert result_of(capsys, *files, "--groups", "anet")["sizes"]["length_s"] == [30, 60, 120, 180]


def test_people_read_tables(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(files) == 0
    said = capsys.readouterr().out
    assert "average mAP_N %" in said
    assert "report: diagnosis/index.html" in said
    assert run([*files[:2], "--subset", "other"]) == 1
    assert "subset 'other'" in capsys.readouterr().err
