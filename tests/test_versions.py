import json
from pathlib import Path

import numpy as np
import pytest

from etad.data.annotations import read_annotations
from etad.data.versions import version
from etad.detections import Detections
from etad.evaluate import evaluate, truths_of
from experiments.evaluate import run

IDS = [f"video_test_{n:07d}" for n in range(213)]


@pytest.mark.parametrize(
    ("videos", "instances", "words"),
    [
        (213, 3358, "3,358 instances in 213 videos: all as annotated"),
        (212, 3358, "212 videos: all as annotated"),
        (213, 3332, "outside their video"),
        (210, 3311, "0000270 and 0001496"),
        (213, 3325, "none of the known versions (3,358, 3,332, 3,311 in 210 to 213)"),
        (200, 3311, "none of the known versions"),
        (3, 40, "40 instances in 3 videos: none of the known versions"),
    ],
)
def test_versions_of_thumos_are_named(videos: int, instances: int, words: str) -> None:
    assert words in (version(IDS[:videos], instances) or "")


def test_other_data_has_no_version() -> None:
    assert version(["v_abc", *IDS], 3358) is None
    assert version([], 0) is None


def test_the_real_test_set_is_recognised_with_and_without_mending(shared: Path) -> None:
    path, found = shared / "data" / "thumos" / "thumos14.json", {}
    for mend in (False, True):
        annotations = read_annotations(path, mend=mend)
        truths = truths_of(annotations, "test")
        nothing = np.empty(0, np.int64)
        detections = Detections((), annotations.classes, nothing, np.empty((0, 2)), nothing, np.empty(0))
        judged = evaluate(annotations, detections, tiou=(0.3, 0.5), subset="test")
        found[mend] = judged.protocol["version"]
        assert len(truths.ids) == 213
    assert found[False].endswith("3,358 instances in 213 videos: all as annotated")
    assert found[True].endswith("3,332 instances in 213 videos: less those that lie outside their video")
    trimmed = truths_of(
        read_annotations(path, mend=False), "test", frozenset(["video_test_0000270", "video_test_0001496"])
    )
    assert "falsely annotated" in (version(trimmed.ids, len(trimmed.video)) or "")


def test_the_command_says_which_version_it_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = {IDS[1]: {"duration": 9, "subset": "test", "annotations": [{"segment": [0, 3], "label": "Diving"}]}}
    (tmp_path / "truth.json").write_text(json.dumps({"database": truth}))
    (tmp_path / "found.json").write_text(json.dumps({"results": {}}))
    assert run([str(tmp_path / "truth.json"), str(tmp_path / "found.json"), "--subset", "test"]) == 0
    assert "thumos14 test, 1 instances in 1 videos: none of the known versions" in capsys.readouterr().out
