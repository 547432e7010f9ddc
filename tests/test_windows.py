import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etad.data.windows import make_rows, row_spans, segments_in_window, to_fractions, to_seconds, window_starts
from etad.spec import WindowSpec

lengths, scales, overlaps = st.integers(1, 500), st.integers(1, 64), st.floats(0, 0.99)


@given(lengths, scales, overlaps)
def test_every_column_is_in_a_window_and_no_window_is_needless(t: int, tscale: int, overlap: float) -> None:
    starts = window_starts(t, tscale, overlap)
    covered = np.zeros(max(t, tscale), bool)
    for start in starts:
        covered[start : start + tscale] = True
    assert covered.all()
    assert len(set(starts.tolist())) == len(starts)
    assert starts.min() == 0
    assert starts.max() == max(0, t - tscale)
    assert np.diff(starts).max(initial=1) <= max(1, round(tscale * (1 - overlap)))


@given(lengths, scales, overlaps, st.floats(0.01, 5))
def test_each_column_stands_at_its_seconds(t: int, tscale: int, overlap: float, stride_s: float) -> None:
    windows = WindowSpec(stride_s=stride_s, overlap=overlap)
    column = np.arange(1, t + 1, dtype=np.float16)[:, None]
    rows, spans = make_rows(column, tscale, windows), row_spans(t, 0.0, tscale, windows)
    assert rows.shape == (len(spans), tscale, 1)
    assert rows.dtype == np.float16
    for row, (start_s, end_s) in zip(rows, spans, strict=True):
        np.testing.assert_allclose(end_s - start_s, tscale * stride_s)
        for i, value in enumerate(row[:, 0]):
            column_at = (start_s + i * (end_s - start_s) / tscale) / stride_s
            assert value == (round(column_at) + 1 if round(column_at) < t else 0)


@given(lengths, scales, st.floats(0.1, 1e3))
def test_a_fitted_stride_ends_with_the_video(t: int, tscale: int, duration_s: float) -> None:
    spans = row_spans(t, duration_s, tscale, WindowSpec(stride_s=1.0, fitted=True))
    assert spans[0, 0] == 0
    np.testing.assert_allclose(spans[-1, 1], duration_s * max(t, tscale) / t)
    np.testing.assert_allclose(spans[:, 1] - spans[:, 0], tscale * duration_s / t)


def test_a_whole_video_is_one_row() -> None:
    x = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float16)
    assert make_rows(x, 10, None).tolist() == [x.tolist()]
    assert row_spans(10, 7.5, 10, None).tolist() == [[0.0, 7.5]]


@given(
    st.floats(0, 1e4),
    st.floats(0.1, 1e3),
    st.floats(0, 1e4).flatmap(lambda a: st.tuples(st.just(a), st.floats(a, 2e4))),
)
def test_seconds_come_back_from_fractions(start_s: float, length_s: float, segment: tuple[float, float]) -> None:
    span, segments = np.array([start_s, start_s + length_s]), np.array([segment])
    np.testing.assert_allclose(to_seconds(to_fractions(segments, span), span), segments, atol=1e-6)
    assert to_fractions(span, span).tolist() == [0.0, 1.0]


@given(
    st.lists(st.tuples(st.floats(0, 90), st.floats(0.01, 60)), max_size=8),
    st.floats(0, 80),
    st.floats(1, 60),
    st.floats(0, 1),
)
def test_segments_kept_are_those_inside_enough(
    drawn: list[tuple[float, float]], start_s: float, length_s: float, min_inside: float
) -> None:
    segments = np.array([(s, s + n) for s, n in drawn]).reshape(-1, 2)
    span = np.array([start_s, start_s + length_s])
    fractions, kept = segments_in_window(segments, span, min_inside)
    expected = []
    for i, (s, e) in enumerate(segments.tolist()):
        inside = min(e, span[1]) - max(s, span[0])
        if inside > 0 and inside / (e - s) >= min_inside - 1e-9:
            expected.append(i)
    assert kept.tolist() == expected
    assert fractions.shape == (len(expected), 2)
    for i, fraction in zip(kept, fractions, strict=True):
        clipped = np.clip(segments[i], *span)
        np.testing.assert_allclose(to_seconds(fraction, span), clipped, atol=1e-9)
        assert 0 <= fraction[0] <= fraction[1] <= 1


def test_no_segments_in_a_window() -> None:
    fractions, kept = segments_in_window(np.zeros((0, 2)), np.array([0.0, 1.0]), 0.9)
    assert fractions.shape == (0, 2)
    assert kept.shape == (0,)


@pytest.mark.parametrize(("t", "starts"), [(5, [0]), (8, [0]), (9, [0, 1]), (16, [0, 4, 8]), (17, [0, 4, 8, 9])])
def test_the_last_window_ends_with_the_video(t: int, starts: list[int]) -> None:
    assert window_starts(t, 8, 0.5).tolist() == starts
