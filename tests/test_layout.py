"""The rules: known benchmarks get their published layout, and reach is what a slow count says."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etad.data.annotations import Video, read_annotations
from etad.data.layout import ANCHORS, WORSE, Layout, lay_out
from etad.data.synthetic_truth import draw_annotations, read_statistics
from etad.proposals import proposal_map
from etad.spec import WindowSpec


def video(n: int, duration_s: float, *segments: tuple[float, float], subset: str = "training") -> Video:
    return Video(
        f"v{n}", subset, duration_s, np.array(segments, float).reshape(-1, 2), np.zeros(len(segments), np.int64)
    )


def drawn(statistics: str, column_s: float) -> tuple[list[Video], dict[str, int]]:
    made = draw_annotations(read_statistics(statistics), {"training": 300, "validation": 100}, 20, 0)
    return [*made.videos.values()], {v.id: max(1, round(v.duration_s / column_s)) for v in made.videos.values()}


def test_activitynet_is_laid_out_as_in_the_paper() -> None:
    found = lay_out(*drawn("anet13", 1.0), train_subset="training")
    assert (found.tscale, found.windows, found.max_duration, found.bins, found.ratio) == (128, None, 1.0, 24, 0.06)
    assert found.max_detections == 100


def test_thumos_is_cut_into_its_windows() -> None:
    found = lay_out(*drawn("thumos14", 4 / 30), train_subset="training")
    assert (found.tscale, found.bins) == (128, 16)
    assert found.windows is not None
    assert found.windows.stride_s == pytest.approx(4 / 30, rel=1e-3)
    assert found.max_detections >= 200
    assert not found.small


@pytest.mark.parametrize(("name", "tscale", "windows", "bins"), [("hapt", 128, True, 24), ("anet", 128, False, 24)])
def test_real_sets(shared: object, name: str, tscale: int, windows: bool, bins: int) -> None:
    folder = shared / "data" / name  # type: ignore[operator]
    truth = read_annotations(folder / ("annotations.json" if name == "hapt" else "activity_net.v1-3.json"))
    videos = [*truth.subset("training"), *truth.subset("validation")]
    columns = {v.id: max(1, round(v.duration_s / (0.32 if name == "hapt" else 1.0))) for v in videos}
    found = lay_out(videos, columns, train_subset="training")
    assert (found.tscale, found.windows is not None, found.bins) == (tscale, windows, bins)


def slow_reach(videos: Sequence[Video], columns: Mapping[str, int], found: Layout) -> float:
    """Share of the instances of which 0.9 lie in one window and that take two columns, by looking at each."""
    reached = count = 0
    for one in videos:
        t = columns[one.id]
        for start, end in one.segments_s.tolist():
            count += 1
            if found.windows is None:
                reached += (end - start) / one.duration_s * found.tscale >= 2 - 1e-9
                continue
            column_s = one.duration_s / t if found.windows.fitted else found.windows.stride_s
            last = max(0, t - found.tscale)
            begins = [*range(0, last, found.tscale // 2), last]
            inside = max(min(end, (b + found.tscale) * column_s) - max(start, b * column_s) for b in begins) / (
                end - start
            )
            reached += inside >= 0.9 - 1e-9 and (end - start) / one.duration_s * t >= 2 - 1e-9
    return reached / count


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.integers(40, 900), st.lists(st.tuples(st.floats(0, 0.9), st.floats(0.002, 0.5)), min_size=1, max_size=4)
        ),
        min_size=1,
        max_size=4,
    )
)
def test_reach_is_what_a_slow_count_says(drawn_videos: list[tuple[int, list[tuple[float, float]]]]) -> None:
    videos, columns = [], {}
    for n, (t, parts) in enumerate(drawn_videos):
        duration = 0.5 * t
        videos.append(video(n, duration, *((a * duration, min(a + b, 1) * duration) for a, b in parts)))
        columns[f"v{n}"] = t
    for settled in ({"tscale": 32}, {"whole": True}, {"windows": WindowSpec(stride_s=0.5)}):
        found = None
        with suppress(ValueError):  # where every instance is longer than a window, there is nothing to train on
            found = lay_out(videos, columns, train_subset="training", **settled)  # type: ignore[arg-type]
        if found is None:
            continue
        assert found.reach == pytest.approx(slow_reach(videos, columns, found))
        assert (found.windows is not None) >= ("windows" in settled)
        assert not ("whole" in settled and found.windows)
        anchors = len(proposal_map(found.tscale, max(1, round(found.max_duration * found.tscale))).anchors)
        assert found.ratio == 1 or found.ratio * anchors >= min(ANCHORS, anchors)


def test_a_cheaper_layout_wins_until_it_loses_too_many() -> None:
    """Of a hundred instances, so many take 3 of 64 columns, the others 1 of 64, 2 of 128."""
    for long, tscale in ((96, 64), (94, 128)):
        videos = [video(n, 64.0, (10, 13) if n < long else (10, 11)) for n in range(100)]
        found = lay_out(videos, {v.id: 64 for v in videos}, train_subset="training", whole=True)
        assert found.tscale == tscale
        assert found.reach >= 1 - WORSE


def test_strides_that_differ_are_fitted() -> None:
    streams = [video(n, 1000.0, (10, 13), (500, 505)) for n in range(20)]
    equal = lay_out(streams, {v.id: 2000 for v in streams}, train_subset="training")
    uneven = lay_out(streams, {v.id: 2000 if n % 4 else 2400 for n, v in enumerate(streams)}, train_subset="training")
    assert (equal.windows, uneven.windows) == (
        WindowSpec(stride_s=0.5),
        WindowSpec(stride_s=0.5, fitted=True),
    )


def test_a_few_rows_still_fill_batches() -> None:
    for count, batch in ((1, 1), (5, 1), (8, 2), (40, 8), (200, 16)):
        videos = [video(n, 10.0, (1, 4)) for n in range(count)] + [video(count, 10.0, (1, 4), subset="validation")]
        found = lay_out(videos, None, train_subset="training")
        assert (found.rows, found.batch) == (count, batch)
        assert 1 <= found.decay_epoch < found.epochs <= 60
    with pytest.raises(ValueError, match="no instance of the subset 'training'"):
        lay_out([video(0, 10.0, (1, 4), subset="validation")], None, train_subset="training")


def test_long_videos_are_shown_in_windows_of_snippets() -> None:
    streams = [video(n, 600.0, *((30.0 * k, 30.0 * k + 4) for k in range(1, 15))) for n in range(6)]
    found = lay_out(streams, None, train_subset="training")
    assert found.windows == WindowSpec(stride_s=2.0)  # an instance takes two snippets
    clips = [video(n, 20.0, (3, 9)) for n in range(6)]
    assert lay_out(clips, None, train_subset="training").windows is None
