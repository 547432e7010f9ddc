"""The rule of which moments a row shows, as properties and against a loop."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from etad.data.snippets import snippet_times

spans = st.tuples(st.floats(0, 1e4), st.floats(0.01, 1e4)).map(lambda s: (s[0], s[0] + s[1]))
rules = st.fixed_dictionaries(
    {
        "tscale": st.integers(1, 200),
        "frames": st.integers(1, 32),
        "stride": st.integers(1, 8),
        "frame_rate": st.floats(1, 120),
    }
)


@given(span_s=spans, rule=rules)
def test_snippets_lie_evenly_and_their_frames_a_stride_apart(
    span_s: tuple[float, float], rule: dict[str, float]
) -> None:
    times = snippet_times(span_s, **rule)
    tscale, frames = rule["tscale"], rule["frames"]
    assert times.shape == (tscale, frames)
    start, end = span_s
    for i in {0, tscale // 2, tscale - 1}:
        for j in {0, frames // 3, frames - 1}:
            centre = start + (end - start) * (2 * i + 1) / (2 * tscale)
            expected = centre + (j - (frames - 1) / 2) * rule["stride"] / rule["frame_rate"]
            assert abs(times[i, j] - expected) < 1e-9 * max(end, 1)


@given(span_s=spans, rule=rules)
def test_a_snippet_is_centred_on_its_column_of_the_span(span_s: tuple[float, float], rule: dict[str, float]) -> None:
    times = snippet_times(span_s, **rule)
    columns = np.floor((times.mean(1) - span_s[0]) / (span_s[1] - span_s[0]) * rule["tscale"] + 1e-9)
    np.testing.assert_array_equal(columns, np.arange(rule["tscale"]))


@given(span_s=spans, rule=rules)
def test_backwards_in_time_it_is_the_same(span_s: tuple[float, float], rule: dict[str, float]) -> None:
    times = snippet_times(span_s, **rule)
    np.testing.assert_allclose(times[::-1, ::-1], span_s[0] + span_s[1] - times, atol=1e-9 * max(span_s[1], 1))


def test_by_hand() -> None:
    got = snippet_times((10.0, 14.0), tscale=2, frames=4, stride=2, frame_rate=10)
    np.testing.assert_allclose(got, [[10.7, 10.9, 11.1, 11.3], [12.7, 12.9, 13.1, 13.3]])
