"""Candidates, soft-NMS and labels against plain loops and the arrays of the released code."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from etad.postprocess import Scored, boundary_candidates, collect, keep, label, postprocess_video, soft_nms

GRID = st.integers(-2, 12).map(lambda n: n / 10)  # coarse, so that ties, touching and reversed segments occur


def overlap(a: tuple[float, float], b: tuple[float, float]) -> float:
    inter = min(a[1], b[1]) - max(a[0], b[0])
    return inter / (a[1] - a[0] + b[1] - b[0] - inter) if inter > 0 else 0.0


def slow_nms(segments: np.ndarray, scores: np.ndarray, sigma: float, count: int) -> tuple[list[int], list[float]]:
    left = {i: float(score) for i, score in enumerate(scores)}
    picks, decayed = [], []
    while left and len(picks) < count:
        best = max(left, key=lambda i: (left[i], -i))
        picks.append(best)
        decayed.append(left.pop(best))
        for i in left:
            left[i] *= np.exp(-(overlap(tuple(segments[best]), tuple(segments[i])) ** 2) / sigma)
    return picks, decayed


@given(
    st.integers(0, 9).flatmap(
        lambda k: st.tuples(arrays(float, (k, 2), elements=GRID), arrays(float, k, elements=GRID))
    ),
    st.sampled_from([0.1, 0.35]),
    st.integers(1, 10),
)
def test_soft_nms_is_the_loop(given: tuple[np.ndarray, np.ndarray], sigma: float, count: int) -> None:
    segments, scores = given
    scores = np.abs(scores)
    picks, decayed = soft_nms(segments, scores, sigma=sigma, count=count)
    slow_picks, slow_decayed = slow_nms(segments, scores, sigma, count)
    assert np.allclose(decayed, slow_decayed, rtol=1e-12, atol=0)
    # Float products in another order may part ties; the scores then agree, the picks need not.
    assert len(set(picks.tolist())) == len(picks) == min(count, len(scores))
    if len(set(np.round(slow_decayed, 9))) == len(slow_decayed):
        assert picks.tolist() == slow_picks


@given(
    st.integers(0, 12).flatmap(
        lambda k: st.tuples(
            arrays(float, (k, 2), elements=GRID),
            arrays(float, k, elements=st.floats(0, 1)),
            arrays(np.int64, k, elements=st.integers(0, 3)),
        )
    ),
    st.integers(1, 14),
)
def test_soft_nms_with_labels_is_that_of_each_class_merged(
    given: tuple[np.ndarray, np.ndarray, np.ndarray], count: int
) -> None:
    segments, scores, labels = given
    picks, decayed = soft_nms(segments, scores, labels, sigma=0.35, count=count)
    slow: list[tuple[float, int]] = []
    for name in set(labels.tolist()):
        own = np.flatnonzero(labels == name)
        found, left = slow_nms(segments[own], scores[own], 0.35, len(own))
        slow += zip(left, own[found].tolist(), strict=True)
    slow.sort(key=lambda pair: -pair[0])
    assert len(set(picks.tolist())) == len(picks) == min(count, len(scores))
    np.testing.assert_allclose(decayed, [score for score, _ in slow[:count]], rtol=1e-12, atol=0)
    if len({round(score, 9) for score, _ in slow}) == len(slow):
        assert picks.tolist() == [pick for _, pick in slow[:count]]


def own(
    segments: list[list[float]], labels: list[list[int]], shares: list[list[float]], span: tuple[float, float]
) -> Scored:
    """A row whose proposals carry classes of their own, every score 1."""
    scores = np.ones(len(segments))
    return Scored(np.array(segments), scores, np.ones((2, 4)), span, (np.array(labels), np.array(shares)))


def test_a_video_has_several_classes_of_its_own() -> None:
    row = own([[0.0, 0.5], [0.5, 1.0]], [[3, 1], [1, 0]], [[0.9, 0.05], [0.6, 0.3]], (0.0, 10.0))
    segments, labels, scores = postprocess_video([row], 10.0, None, sigma=0.35, max_detections=3)
    assert segments.tolist() == [[0, 5], [5, 10], [5, 10]]
    assert labels.tolist() == [3, 1, 0]
    assert scores == pytest.approx([0.9, 0.6, 0.3])  # one segment's two classes do not decay each other


def test_windows_merge_class_by_class() -> None:
    left = own([[0.5, 1.0]], [[2, 0]], [[0.9, 0.5]], (0.0, 20.0))
    right = own([[0.0, 0.5]], [[2, 1]], [[0.8, 0.4]], (10.0, 30.0))
    segments, labels, scores = postprocess_video([left, right], 18.0, None, sigma=0.35, max_detections=9)
    assert segments.tolist() == [[10, 18]] * 4
    assert labels.tolist() == [2, 0, 1, 2]
    assert scores == pytest.approx([0.9, 0.5, 0.4, 0.8 * np.exp(-1 / 0.35)])


def test_classes_of_their_own_are_kept_past_the_videos_end_like_others() -> None:
    row = own([[0.2, 0.4], [1.2, 1.5]], [[0], [1]], [[0.5], [0.9]], (0.0, 10.0))
    segments, labels, scores = postprocess_video([row], 10.0, None, sigma=0.35, max_detections=9)
    assert (segments.tolist(), labels.tolist(), scores.tolist()) == ([[2, 4]], [0], [0.5])


def test_every_candidate_is_taken_the_last_one_too() -> None:
    segments = np.array([[0.0, 1.0], [0.0, 0.5]])
    picks, decayed = soft_nms(segments, np.array([0.9, 0.8]), sigma=0.35, count=100)
    assert picks.tolist() == [0, 1]
    assert decayed == pytest.approx([0.9, 0.8 * np.exp(-0.25 / 0.35)])


def test_equal_scores_go_by_index() -> None:
    apart = np.array([[0.0, 0.1], [0.2, 0.3], [0.4, 0.5], [0.6, 0.7]])
    assert soft_nms(apart, np.array([0.0, 0.5, 0.5, 0.0]), sigma=0.35, count=4)[0].tolist() == [1, 2, 0, 3]


@given(arrays(float, st.integers(1, 8), elements=st.sampled_from([0.0, 0.2, 0.4, 0.5, 1.0])))
def test_candidates_are_the_loop(p: np.ndarray) -> None:
    peaks = []
    for i, value in enumerate(p):
        before, after = (p[i - 1] if i else 0), (p[i + 1] if i + 1 < len(p) else 0)
        peaks.append(bool(value > 0.5 * max(p) or (value > before and value > after)))
    start, end = boundary_candidates(p, p)
    assert start.tolist() == [True, *peaks[1:]]
    assert end.tolist() == [*peaks[:-1], True]


def test_snippets_of_segments_past_the_ends_are_clamped() -> None:
    first, last = np.array([True, False]), np.array([False, True])
    segments = np.array([[-0.5, 1.5], [0.5, 1.0], [0.0, 0.49]])
    assert keep(segments, first, last).tolist() == [True, False, False]


@pytest.mark.parametrize("video", ["v0", "v1", "v2"])
def test_the_released_code_keeps_and_decays_the_same(parity: Path, video: str) -> None:
    with np.load(parity / "postprocess.npz") as arrays:
        segments, scores, start, end = (arrays[f"{video}_{name}"] for name in ("anchors", "scores", "start", "end"))
        kept, detections, sigma = arrays[f"{video}_kept"], arrays[f"{video}_detections"], float(arrays["sigma"])
    mask = keep(segments, *boundary_candidates(start, end))
    assert np.flatnonzero(mask).tolist() == kept.tolist()
    segments, score = segments[mask], scores[mask].prod(axis=1)
    picks, decayed = soft_nms(segments, score, sigma=sigma, count=len(detections))
    assert np.abs(np.column_stack([segments[picks], decayed]) - detections).max() < 1e-4


def test_labels_clip_drop_and_multiply() -> None:
    segments = np.array([[-1.0, 5.0], [8.0, 12.0], [11.0, 12.0], [10.0, 13.0]])
    found, labels, scores = label(segments, np.array([1.0, 0.5, 0.4, 0.3]), 10.0, [(7, 0.9), (2, 0.1)])
    assert found.tolist() == [[0, 5], [0, 5], [8, 10], [8, 10]]
    assert labels.tolist() == [7, 2, 7, 2]
    assert scores == pytest.approx([0.9, 0.1, 0.45, 0.05])
    assert [part.tolist() for part in label(segments[:1], np.array([0.5]), 10.0, None)] == [[[0, 5]], [0], [0.5]]


def test_nms_sees_unclipped_segments() -> None:
    # Past the video's end the two differ; clipped to it they would be the same, and decay as such.
    row = Scored(np.array([[0.5, 1.0], [0.5, 2.0]]), np.array([0.9, 0.8]), np.ones((2, 4)), (0.0, 10.0))
    _, _, scores = postprocess_video([row], 10.0, None, sigma=0.35, max_detections=2)
    assert scores == pytest.approx([0.9, 0.8 * np.exp(-((1 / 3) ** 2) / 0.35)])


def test_windows_merge_in_seconds_before_nms() -> None:
    left = Scored(np.array([[0.5, 1.0]]), np.array([0.9]), np.ones((2, 4)), (0.0, 20.0))
    right = Scored(np.array([[0.0, 0.5]]), np.array([0.8]), np.ones((2, 4)), (10.0, 30.0))
    segments, _, scores = postprocess_video([left, right], 25.0, [(1, 1.0)], sigma=0.35, max_detections=5)
    assert segments.tolist() == [[10, 20], [10, 20]]
    assert scores == pytest.approx([0.9, 0.8 * np.exp(-1 / 0.35)])


def test_only_candidates_are_kept_unless_all_are() -> None:
    boundary = np.array([[0.9, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.9]])
    row = Scored(np.array([[0.0, 1.0], [0.3, 0.6]]), np.array([0.1, 0.9]), boundary, (0.0, 8.0))
    one = postprocess_video([row], 8.0, None, sigma=0.35, max_detections=5)
    both = postprocess_video([row], 8.0, None, sigma=0.35, max_detections=5, candidates="all")
    assert one[0].tolist() == [[0, 8]]
    assert len(both[2]) == 2


def test_what_is_not_finite_is_refused() -> None:
    row = Scored(np.array([[0.0, np.nan]]), np.array([0.1]), np.ones((2, 4)), (0.0, 8.0))
    with pytest.raises(ValueError, match="not finite"):
        postprocess_video([row], 8.0, None, sigma=0.35, max_detections=5)


def test_videos_without_rows_or_candidates_give_none() -> None:
    empty = postprocess_video([], 8.0, [(0, 1.0)], sigma=0.35, max_detections=5)
    one = label(np.array([[1.0, 2.0]]), np.array([0.5]), 8.0, None)
    got = collect(("a", "b", "c"), ("action",), [empty, one, empty])
    assert (got.video.tolist(), got.segments_s.tolist(), got.score.tolist()) == ([1], [[1, 2]], [0.5])
    assert len(collect((), ("action",), []).score) == 0
