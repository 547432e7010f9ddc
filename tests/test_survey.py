import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etad.data.annotations import Annotations, Video
from etad.data.survey import survey

Rows = list[tuple[float, float, int]]


def truth(**videos: tuple[str, float, Rows]) -> Annotations:
    made = {
        id: Video(
            id,
            subset,
            duration,
            np.array([row[:2] for row in rows], float).reshape(-1, 2),
            np.array([row[2] for row in rows], np.int64),
        )
        for id, (subset, duration, rows) in videos.items()
    }
    return Annotations(made, ("a", "b", "c"), {"duplicates": 0, "end_past_video": 3}, {}, "0" * 64)


EXAMPLE = truth(
    one=("training", 100.0, [(0, 20, 0), (30, 80, 1)]),
    two=("training", 50.0, []),
    three=("validation", 10.0, [(0, 5, 2)]),
    four=("testing", 10.0, [(0, 5, 2)]),
)


def test_what_is_counted() -> None:
    found = survey(EXAMPLE, ["training", "validation"])
    assert found.subsets == {
        "training": {"videos": 2, "empty": 1, "instances": 2, "seconds": 150.0},
        "validation": {"videos": 1, "empty": 0, "instances": 1, "seconds": 10.0},
    }
    assert found.classes == {
        "a": {"training": 1, "validation": 0},
        "b": {"training": 1, "validation": 0},
        "c": {"training": 0, "validation": 1},
    }
    assert found.length_s[2] == 20
    assert found.share[2] == 0.5
    assert found.flaws == {"end_past_video": 3}
    assert json.loads(json.dumps(asdict(found)))["findings"] == found.findings


def test_what_to_mind_is_said_with_what_is_done() -> None:
    said = " | ".join(survey(EXAMPLE, ["training", "validation"], {"one": 10, "two": 5, "three": 2}).findings)
    assert "1 class (c) of validation never seen in training: kept" in said
    assert "2 classes (a, b) of training not in validation" in said
    assert "1 videos of training without instances: not trained on" in said
    assert "1 instances (33.3%) are shorter than 2 feature columns" in said
    assert survey(truth(x=("t", 9.0, [(0, 5, 0)])), ["t"]).findings == []
    with pytest.raises(ValueError, match="no instance in the subsets t"):
        survey(truth(x=("t", 9.0, [])), ["t"])


spans = st.tuples(st.integers(0, 20), st.integers(1, 12), st.integers(0, 2)).map(lambda s: (s[0], s[0] + s[1], s[2]))


@given(st.lists(st.lists(spans, max_size=7), min_size=1, max_size=3).filter(any))
def test_overlaps_equal_the_loop(videos: list[Rows]) -> None:
    made = truth(**{f"v{n}": ("t", 40.0, rows) for n, rows in enumerate(videos)})
    same = other = 0
    for rows in videos:
        for i, (start, end, label) in enumerate(rows):
            for begin, stop, name in rows[i + 1 :]:
                if max(start, begin) < min(end, stop):
                    same, other = same + (name == label), other + (name != label)
    assert survey(made, ["t"]).overlapping == {"same class": same, "other classes": other}
