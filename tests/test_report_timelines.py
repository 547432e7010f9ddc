"""Judging and laying out a video's detections."""

from hypothesis import given
from hypothesis import strategies as st

from reports.load import Example, Segment
from reports.timelines import drawn, judge, timeline, tiou


def seg(start: float, end: float, label: str = "jump", score: float | None = None) -> Segment:
    return Segment(segment=(start, end), label=label, score=score)


def test_each_truth_is_taken_once_by_the_best_scored_detection_of_its_label() -> None:
    truth = [seg(0, 10), seg(20, 30)]
    found = [seg(1, 10), seg(0, 10), seg(20, 30, "run"), seg(21, 30), seg(50, 60)]
    assert judge(truth, found) == [0.9, None, None, 0.9, None]


def test_equal_overlaps_go_to_the_first_truth() -> None:
    assert judge([seg(0, 10), seg(0, 10)], [seg(0, 10), seg(0, 10), seg(0, 10)]) == [1.0, 1.0, None]


points = st.tuples(st.integers(0, 20), st.integers(0, 20)).map(lambda p: (float(min(p)), float(max(p))))


@given(points, points)
def test_tiou_counts_unit_cells(a: tuple[float, float], b: tuple[float, float]) -> None:
    cells = [set(range(int(s), int(e))) for s, e in (a, b)]
    union = len(cells[0] | cells[1])
    gap = not cells[0] & cells[1]  # apart, or touching: the union of segments is the sum of their lengths
    assert tiou(a, b) == (0.0 if gap or not union else len(cells[0] & cells[1]) / union)


def test_bars_stay_inside_the_video_and_strength_follows_the_score() -> None:
    video = Example(
        id="v",
        duration_s=100.0,
        truth=(seg(-5, 50),),
        detections=(seg(0, 40, score=0.2), seg(60, 140, score=0.8), seg(0, 50, score=0.4)),
        start=(0.1, 1.0),
        end=(0.0, 2.0),
    )
    line = timeline(video, shown=2)
    assert [(b.left, b.width) for b in line.truth] == [(0.0, 50.0)]
    assert [(b.left, b.width, b.correct) for b in line.detections] == [(60.0, 40.0, False), (0.0, 50.0, True)]
    assert line.detections[0].opacity > line.detections[1].opacity
    assert line.left_out == 1
    assert line.curves == (("start", "25.00,90.0 75.00,0.0"), ("end", "25.00,100.0 75.00,0.0"))
    assert drawn(line, 10).splitlines() == [
        "truth   █████····· jump",
        "0.80 ✗  ······████ jump",
        "0.40 ✓  █████····· jump",
    ]


def test_a_video_without_anything_is_drawn() -> None:
    line = timeline(Example(id="v", duration_s=1.0))
    assert line.detections == line.truth == line.curves == ()
    assert drawn(line, 5) == "truth   ·····"
