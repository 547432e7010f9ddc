"""The synthetic set: its ground truth, features, variants, bounds and entries."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from etad.data.annotations import Annotations, DataError, Video, read_annotations, write_annotations
from etad.data.packing import write_packed
from etad.data.synthetic import RowMaker, make_rows_over, mark, plan_over, synthetic, synthetic_over
from etad.data.synthetic_bounds import make_scores
from etad.data.synthetic_features import SYNTHETIC_1, Scene, make_patterns, true_segments
from etad.data.synthetic_truth import TABLES, Statistics, draw_annotations, read_statistics
from etad.evaluate import evaluate
from etad.registry import DATASETS, lookup
from etad.spec import DataSpec, Entry, EvaluationSpec, SpecError, WindowSpec
from experiments.statistics import derive, run

Floats = NDArray[np.float64]
SMALL = DataSpec(tscale=32, channels=32)
MANY = 10_000


@pytest.fixture(scope="module")
def drawn() -> Annotations:
    return draw_annotations(read_statistics("anet13"), {"training": MANY}, 200, 0)


@pytest.fixture(scope="module")
def few() -> Annotations:
    return draw_annotations(read_statistics("anet13"), {"training": 12, "validation": 8}, 5, 3)


def fractions(annotations: Annotations, subset: str = "training") -> list[Floats]:
    """Segments as fractions, sorted, of each video that has any."""
    found = [v.segments_s / v.duration_s for v in annotations.subset(subset) if len(v.labels)]
    return [s[np.argsort(s[:, 0])] for s in found]


def shares(videos: list[Floats]) -> dict[str, float]:
    segments = np.concatenate(videos)
    start, end, length = segments[:, 0], segments[:, 1], segments[:, 1] - segments[:, 0]
    return {
        "start at most 0.01": float((start <= 0.01).mean()),
        "end at least 0.99": float((end >= 0.99).mean()),
        "fills 0.95": float((length >= 0.95).mean()),
        "fills 0.98": float((length >= 0.98).mean()),
        "under 0.05": float((length < 0.05).mean()),
        "under 0.1": float((length < 0.1).mean()),
        "under 0.2": float((length < 0.2).mean()),
        "under 0.5": float((length < 0.5).mean()),
    }


def test_drawn_shares_are_those_published_for_the_benchmark(drawn: Annotations) -> None:
    found = shares(fractions(drawn))
    wanted = {"start at most 0.01": 0.156, "end at least 0.99": 0.121, "fills 0.95": 0.107, "fills 0.98": 0.075}
    assert found == pytest.approx(found | wanted | {"under 0.1": 0.295, "under 0.5": 0.587}, abs=0.02)


def test_drawn_numbers_follow_the_table(drawn: Annotations) -> None:
    table = np.array(read_statistics("anet13").numbers)
    number = np.array([len(s) for s in fractions(drawn)])
    for most in (1, 2, 3, 5):
        share = table[table[:, 0] <= most, 1].sum() / table[:, 1].sum()
        assert (number <= most).mean() == pytest.approx(share, abs=0.015)


@pytest.mark.parametrize("subset", ["training", "validation"])
def test_drawn_set_matches_the_real_one(shared: Path, drawn: Annotations, subset: str) -> None:
    real = read_annotations(shared / "data" / "anet" / "activity_net.v1-3.json")
    theirs, ours = fractions(real, subset), fractions(drawn)
    assert shares(ours) == pytest.approx(shares(theirs), abs=0.025)
    quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
    for what in (lambda s: s[:, 0], lambda s: s[:, 1], lambda s: s[:, 1] - s[:, 0], lambda s: s[1:, 0] - s[:-1, 1]):
        a, b = (np.quantile(np.concatenate([what(s) for s in v]), quantiles) for v in (ours, theirs))
        np.testing.assert_allclose(a, b, atol=0.05)
    for count in (1, 2, 3, 4, 6):  # the median length by the number of segments in the video
        a, b = (np.median([s[:, 1] - s[:, 0] for s in v if len(s) == count]) for v in (ours, theirs))
        assert a == pytest.approx(b, abs=0.03)
    a, b = (
        np.quantile([v.duration_s for v in x.subset(n)], quantiles) for x, n in ((drawn, "training"), (real, subset))
    )
    np.testing.assert_allclose(a, b, rtol=0.1)


def test_classes_are_as_different_in_length_as_the_real_ones(shared: Path, drawn: Annotations) -> None:
    def spread(annotations: Annotations) -> Floats:
        videos = [v for v in annotations.subset("training") if len(v.labels)]
        label = np.concatenate([v.labels for v in videos])
        length = np.concatenate([(v.segments_s[:, 1] - v.segments_s[:, 0]) / v.duration_s for v in videos])
        return np.quantile([np.median(length[label == k]) for k in np.unique(label)], [0.05, 0.25, 0.5, 0.75, 0.95])

    real = read_annotations(shared / "data" / "anet" / "activity_net.v1-3.json")
    np.testing.assert_allclose(spread(drawn), spread(real), atol=0.06)
    videos = fractions(drawn)
    mixed = [np.median(np.concatenate([s[:, 1] - s[:, 0] for s in videos[k::200]])) for k in range(200)]
    assert np.corrcoef(mixed, np.arange(200))[0, 1] > 0.7  # classes stand in order of their length


@pytest.mark.parametrize("name", TABLES)
@given(seed=st.integers(0, 2**31), classes=st.integers(1, 30))
@settings(max_examples=25, deadline=None)
def test_drawn_segments_lie_apart_inside_their_video(name: str, seed: int, classes: int) -> None:
    for video in draw_annotations(read_statistics(name), {"a": 7}, classes, seed).subset("a"):
        points = video.segments_s.ravel()
        assert (np.diff(points) >= 0).all()
        assert points[0] >= 0
        assert points[-1] <= video.duration_s
        assert (video.segments_s[:, 1] > video.segments_s[:, 0]).all()
        assert len(set(video.labels.tolist())) == 1


def test_a_video_does_not_depend_on_the_others(few: Annotations) -> None:
    more = draw_annotations(read_statistics("anet13"), {"validation": 30, "other": 2, "training": 40}, 5, 3)
    for id, video in few.videos.items():
        np.testing.assert_array_equal(video.segments_s, more.videos[id].segments_s)
    ours, theirs = make_rows_over(SMALL, few, seed=3), make_rows_over(SMALL, more, seed=3)
    for id in reversed(few.videos):
        np.testing.assert_array_equal(ours(id), theirs(id))
    other = make_rows_over(SMALL, few, seed=4)
    assert not np.allclose(ours("training_000000"), other("training_000000"), atol=0.1)


def test_the_shipped_tables_come_from_the_script(shared: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    assert run([str(shared / "data" / "anet" / "activity_net.v1-3.json"), str(table), "--subset", "training"]) == 0
    assert Statistics.model_validate_json(table.read_text()) == read_statistics("anet13")
    again = derive(shared / "data" / "thumos" / "thumos14.json", ["validation", "test"], [1, 4, 8, 16, 32])
    assert Statistics.model_validate(again) == read_statistics("thumos14")


def test_statistics_of_a_handmade_file(tmp_path: Path) -> None:
    notes = [{"segment": [10, 20], "label": "a"}, {"segment": [60, 120], "label": "a"}]
    path = tmp_path / "truth.json"
    videos = {"x": (100, notes), "y": (50, [{"segment": [0, 50], "label": "b"}]), "z": (9, [])}
    database = {k: {"duration": d, "subset": "training", "annotations": n} for k, (d, n) in videos.items()}
    path.write_text(json.dumps({"database": database}))
    table = derive(path, ["training"], [1, 2])
    assert table["numbers"] == [[1, 1], [2, 1]]
    assert table["class_length"] == 0.0
    one, two = table["rows"]
    assert one["spans"] == [[0, 21, 1]]
    assert [table["edges"][k] for k in two["spans"][0][:2]] == [0.1, 0.99]
    assert two["filled"][0] == pytest.approx((0.1 + 0.4) / 0.9, abs=1e-4)
    assert run([str(path), str(tmp_path / "t.json"), "--subset", "test"]) == 1


@given(seed=st.integers(0, 2**31), count=st.integers(0, 12), width=st.floats(0.01, 1.0))
@settings(max_examples=60, deadline=None)
def test_jitter_stays_near_and_apart(seed: int, count: int, width: float) -> None:
    rng = np.random.default_rng(seed)
    points = np.sort(rng.uniform(0, 30 * width, 2 * count))
    segments = points.reshape(-1, 2) + np.c_[np.zeros(count), np.full(count, 1e-3)]
    video = Video("v", "s", 30 * width + 1, segments, np.zeros(count, np.int64))
    true = true_segments(SYNTHETIC_1, video, seed)
    length = segments[:, 1] - segments[:, 0]
    assert (np.abs(true - segments) <= 2 * SYNTHETIC_1.jitter[1] * length[:, None] + 1e-9).all()
    assert (true[:, 1] > true[:, 0]).all()
    assert ((true >= 0) & (true <= video.duration_s)).all()
    cut_off = segments[:, 0] <= SYNTHETIC_1.touching * video.duration_s
    np.testing.assert_array_equal(true[cut_off, 0], segments[cut_off, 0])
    apart = segments[1:, 0] >= segments[:-1, 1]
    assert (true[1:, 0] >= true[:-1, 1] - 1e-9)[apart].all()


def test_jitter_has_the_stated_size(drawn: Annotations) -> None:
    moves = []
    for video in drawn.subset("training")[:3000]:
        if len(video.labels) == 1 and video.segments_s[0, 0] / video.duration_s > 0.1:
            true = true_segments(SYNTHETIC_1, video, 0)
            moves.append((true - video.segments_s)[0, 0] / (video.segments_s[0, 1] - video.segments_s[0, 0]))
    assert np.mean(moves) == pytest.approx(0, abs=0.005)
    assert np.std(moves) == pytest.approx(0.05, abs=0.007)  # root of the mean square of 2 to 8 %, cut at two deviations


def test_features_are_standardised_and_correlated_as_stated(drawn: Annotations) -> None:
    spec = DataSpec(tscale=128, channels=128)
    for variant, correlation in (("full", 0.7), ("no-correlation", 0.0)):
        make = make_rows_over(spec, drawn, variant=variant)
        ids = list(drawn.videos)[:40]
        rows = np.concatenate([make(id) for id in ids])
        assert rows.dtype == np.float16
        assert rows.astype(float).std() == pytest.approx(1, abs=0.03)
        noise = np.array([_noise(make, id) for id in ids])
        assert (noise[:, 1:] * noise[:, :-1]).mean() / noise.var() == pytest.approx(correlation, abs=0.01)
        assert noise[:, 0].std() == pytest.approx(noise[:, -1].std(), rel=0.05)


def _noise(make: RowMaker, id: str) -> Floats:
    """What is left of a row when its signal is taken away."""
    video, t = make.videos[id], make.spec.tscale
    times = (np.arange(t) + 0.5) * video.duration_s / t
    signal = Scene(make.model, video, make.seed, make.variant).signal(make.patterns, times, video.duration_s / t)
    return make(id)[0].astype(float) - make.model.scale(make.spec.channels) * signal


def clean(video: Video, variant: str, seed: int = 1, t: int = 64) -> tuple[NDArray[np.float32], Scene]:
    patterns = make_patterns(SYNTHETIC_1, seed, 5, 32, variant)  # type: ignore[arg-type]
    scene, width = Scene(SYNTHETIC_1, video, seed, variant), video.duration_s / t  # type: ignore[arg-type]
    return scene.signal(patterns, (np.arange(t) + 0.5) * width, width), scene


@pytest.mark.parametrize("variant", ["no-phases", "no-cutaways", "no-distractors"])
def test_a_variant_changes_only_its_ingredient(variant: str) -> None:
    video = Video("v", "s", 64.0, np.array([[10.0, 40.0]]), np.array([2]))
    changed = np.zeros(64)
    for seed in range(20):
        full, scene = clean(video, "full", seed)
        other, varied = clean(video, variant, seed)
        np.testing.assert_array_equal(scene.segments, varied.segments)
        np.testing.assert_array_equal(scene.cuts, varied.cuts)
        differs = np.abs(full - other).max(1) > 1e-5
        changed += differs
        start, end = scene.segments[0]
        inside = (np.arange(64) > start + 2) & (np.arange(64) < end - 3)
        if variant == "no-distractors":
            assert not differs[inside].any()
        if variant == "no-cutaways":
            assert not differs[: int(start)].any()
            assert not differs[int(end) + 2 :].any()
    assert changed.any()


def test_no_correlation_changes_the_noise_alone() -> None:
    video = Video("v", "s", 64.0, np.array([[10.0, 40.0]]), np.array([2]))
    np.testing.assert_array_equal(clean(video, "full")[0], clean(video, "no-correlation")[0])


def test_an_instance_shows_its_phases_in_order() -> None:
    model = SYNTHETIC_1.model_copy(
        update=dict.fromkeys(("background", "shot", "cutaways", "pauses", "distractors"), 0.0)
    )
    video = Video("v", "s", 100.0, np.array([[40.0, 70.0]]), np.array([0]))
    patterns, scene = make_patterns(model, 0, 2, 64), Scene(model, video, 0, "full")
    signal = scene.signal(patterns, np.arange(100) + 0.5, 1.0)
    start, end = scene.segments[0]
    best = [int((signal[int(t)] @ patterns.shared.T).argmax()) for t in (start + 2, (start + end) / 2, end - 3)]
    assert best == [0, 1, 2]
    energy = np.linalg.norm(signal - model.context * patterns.context[0], axis=1)
    assert energy[int(start) + 3 : int(end) - 3].min() > 0.5
    assert energy[: int(start - 0.3 * 30)].max() < 1e-5  # before the longest lead-in: context alone
    assert energy[int(end + 0.3 * 30) :].max() < 1e-5


def test_short_and_cut_off_instances_keep_their_area() -> None:
    model = SYNTHETIC_1.model_copy(
        update=dict.fromkeys(
            ("background", "shot", "cutaways", "pauses", "distractors", "context", "lead_in", "aftermath", "own"), 0.0
        )
        | {"shared": 1.0, "gain": (1.0, 1.0), "jitter": (0.0, 0.0), "phase": 0.0}
    )
    patterns = make_patterns(model, 0, 2, 64)
    for segment, area in (([50.2, 50.6], 0.4), ([0.0, 30.0], 30.0), ([0.0, 100.0], 100.0), ([95.0, 100.0], 5.0)):
        scene = Scene(model, Video("v", "s", 100.0, np.array([segment]), np.array([0])), 0, "full")
        shown = scene.signal(patterns, np.arange(100) + 0.5, 1.0) @ patterns.shared[1]
        assert shown.sum() == pytest.approx(area, rel=0.03)


def test_classifier_is_right_as_often_as_stated(drawn: Annotations) -> None:
    scores = {v.id: make_scores(SYNTHETIC_1, v, drawn.classes, 0) for v in drawn.videos.values()}
    true = {v.id: drawn.classes[v.labels[0]] for v in drawn.videos.values()}
    first = np.array([s[0][0] == true[id] for id, s in scores.items()])
    second = np.array([s[1][0] == true[id] for id, s in scores.items()])
    assert first.mean() == pytest.approx(0.88, abs=0.01)
    assert second[~first].mean() == pytest.approx(0.6, abs=0.05)
    for found in scores.values():
        values = [score for _, score in found]
        assert values == sorted(values, reverse=True)
        assert len({label for label, _ in found}) == len(found) == 5
        assert sum(values) <= 1
        assert min(values) > 0


def test_floor_and_ceiling_of_the_default_set() -> None:
    corpus = synthetic(DataSpec(tscale=8, channels=32), train_videos=1, test_videos=1500, classes=50)
    tiou = EvaluationSpec().tiou
    floor, ceiling = (
        100 * evaluate(corpus.annotations, corpus.bounds[name], tiou=tiou, subset="validation").average_mAP
        for name in ("floor", "ceiling")
    )
    assert 20 < floor < 27
    assert 75 < ceiling < 92


def test_windows_show_the_same_video(few: Annotations) -> None:
    spec = DataSpec(tscale=32, channels=32, windows=WindowSpec(stride_s=0.5))
    make = make_rows_over(spec, few)
    for id, video in few.videos.items():
        rows, spans = make(id), make.span_s(id)
        assert rows.shape == (len(spans), 32, 32)
        assert spans[0, 0] == 0
        assert spans[-1, 1] >= video.duration_s - 0.5
        for row, (start, _), after, (begin, _) in zip(rows, spans, rows[1:], spans[1:], strict=False):
            shared = round(32 - (begin - start) / 0.5)
            np.testing.assert_array_equal(row[32 - shared :], after[:shared])


def test_over_real_annotations(few: Annotations, tmp_path: Path) -> None:
    path = tmp_path / "truth.json"
    write_annotations(path, few)
    corpus = synthetic_over(SMALL, annotations=str(path), train_videos=5)
    assert corpus.mark == "synthetic-1 over truth.json"
    assert len(corpus.subsets["training"].ids) == 5
    assert corpus.subsets["validation"].features.shape == (8, 32, 32)
    assert len(corpus.annotations.videos) == 13
    assert corpus.classifier is not None
    assert set(corpus.classifier) == {v.id for v in few.subset("validation")}
    with pytest.raises(DataError, match="no videos in the subset 'test'"):
        synthetic_over(DataSpec(tscale=32, channels=32, test_subset="test"), annotations=str(path))


def test_a_pack_holds_the_rows_that_are_made_in_memory(few: Annotations, tmp_path: Path) -> None:
    path, pack = tmp_path / "truth.json", tmp_path / "pack"
    write_annotations(path, few)
    write_packed(pack, *plan_over(SMALL, read_annotations(path), ["training", "validation"]))
    made, read = (synthetic_over(SMALL, annotations=str(path), pack=p, train_videos=5) for p in (None, str(pack)))
    for subset, samples in made.subsets.items():
        assert samples.ids == read.subsets[subset].ids
        np.testing.assert_array_equal(samples.span_s, read.subsets[subset].span_s)
        np.testing.assert_array_equal(samples.features, read.subsets[subset].features)
    assert (made.mark, made.sources, made.bounds.keys()) == (read.mark, read.sources, read.bounds.keys())
    with pytest.raises(DataError, match=r"not made up over these annotations, seed and variant.*--synthetic"):
        synthetic_over(SMALL, annotations=str(path), pack=str(pack), seed=1)
    with pytest.raises(DataError, match=r"tscale is 32, the spec.s data\.tscale 16"):
        synthetic_over(DataSpec(tscale=16, channels=32), annotations=str(path), pack=str(pack))
    half = tmp_path / "half"
    write_packed(half, *plan_over(SMALL, read_annotations(path), ["training"]))
    with pytest.raises(DataError, match="lacks 8 videos"):
        synthetic_over(SMALL, annotations=str(path), pack=str(half))


def test_entries_are_registered_and_refuse_nonsense() -> None:
    entry = Entry(name="synthetic", args={"variant": "no-phases", "train_videos": 3, "test_videos": 2, "classes": 2})
    corpus = lookup(DATASETS, entry, given=("spec",))(SMALL, **entry.args)
    assert corpus.mark == "synthetic-1/no-phases" == mark("no-phases")
    assert corpus.subsets["training"].span_s.shape == (3, 2)
    with pytest.raises(SpecError, match="did you mean train_videos"):
        lookup(DATASETS, Entry(name="synthetic", args={"train_video": 3}), given=("spec",))
    with pytest.raises(ValueError, match="no table of statistics named 'x'; known: anet13, thumos14"):
        synthetic(SMALL, statistics="x")
    with pytest.raises(ValueError, match="no synthetic variant 'x'; known: full"):
        synthetic(SMALL, variant="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 32 channels, not 8"):
        synthetic(DataSpec(tscale=8, channels=8))
    with pytest.raises(ValueError, match="train_videos"):
        synthetic(SMALL, train_videos=0)


def test_another_difficulty_is_another_set() -> None:
    easy = synthetic(SMALL, train_videos=2, test_videos=2, noise=0.1)
    full = synthetic(SMALL, train_videos=2, test_videos=2)
    assert (easy.mark, full.mark) == ("synthetic, noise 0.1", "synthetic-1")
    assert easy.annotations.sha256 == full.annotations.sha256
    assert not np.array_equal(easy.subsets["training"].features, full.subsets["training"].features)
    with pytest.raises(ValueError, match="noise"):
        synthetic(SMALL, noise=-1.0)


def test_the_set_stays_as_it_was() -> None:
    """Numbers written down when the set was made: another NumPy or an edit that moves them makes it another set."""
    corpus = synthetic(DataSpec(tscale=8, channels=32), train_videos=2, test_videos=2, classes=3)
    video = corpus.annotations.videos["validation_000000"]
    written = [[28.2397, 43.8148], [69.8724, 139.1734], [160.2451, 178.1813]]
    np.testing.assert_allclose(video.segments_s, written, atol=1e-3)
    np.testing.assert_allclose(
        corpus.bounds["ceiling"].segments_s[:2], [[28.0463, 43.7123], [67.8422, 136.0374]], atol=1e-3
    )
    make = make_rows_over(DataSpec(tscale=8, channels=32), corpus.annotations)
    times = np.array([0.2, 0.5, 0.8]) * video.duration_s
    signal = Scene(make.model, video, 0, "full").signal(make.patterns, times, 1.0)
    written = [[-0.2816, 0.1584, 0.2224], [-0.0935, -0.0418, 0.2391], [-0.1683, -0.0388, 0.0199]]
    np.testing.assert_allclose(signal[:, :3], written, atol=1e-3)
