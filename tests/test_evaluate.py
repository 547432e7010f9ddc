"""The evaluator against the official semantics written out as loops, and against the official evaluator's own results."""

import itertools
import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import worlds
from hypothesis import given
from hypothesis import strategies as st
from worlds import Found, Truth

from etad.data.annotations import read_annotations, read_blocked
from etad.detections import read_detections
from etad.evaluate import PROFILES, class_agnostic, evaluate, merge_labels, thresholds
from etad.matches import MatchesError, average_precision, mean_average_precision, read_matches, write_matches
from experiments.evaluate import run, tiou_values

CLASSES = ("a", "b", "c")
TIOU = (0.25, 0.5, 0.75)
TEN = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
world = partial(worlds.world, ids=("v0", "v1", "v2"), classes=CLASSES, duration_s=20.0)
columns = partial(worlds.columns, ids=("v2", "v1", "v0", "elsewhere"), classes=CLASSES)


def overlap(a: tuple[int, int], b: tuple[int, int]) -> float:
    """tIoU; 0/0 is infinite, so that it is the largest and above every threshold, as the official NaN is."""
    inter = max(min(a[1], b[1]) - max(a[0], b[0]), 0)
    union = (a[1] - a[0]) + (b[1] - b[0]) - inter
    return inter / union if union else math.inf


def slow_ap(truths: list[Truth], found: list[Found], label: int, threshold: float) -> float:
    """The official evaluator's loop over one class, with stable ties."""
    wanted = [truth for truth in truths if truth[3] == label]
    rows = sorted((row for row in found if row[3] == label), key=lambda row: -row[4])
    taken: set[int] = set()
    precision, recall, hits = [0.0], [0.0], 0
    for rank, row in enumerate(rows, 1):
        own = [(overlap(row[1:3], t[1:3]), -i) for i, t in enumerate(wanted) if t[0] == row[0]]
        for value, index in sorted(own, reverse=True):
            if value >= threshold and -index not in taken:
                taken.add(-index)
                hits += 1
                break
        precision.append(hits / rank)
        recall.append(hits / len(wanted))
    area = 0.0
    for i in range(1, len(recall)):
        area += (recall[i] - recall[i - 1]) * max(precision[i:])
    return area


def slow_recall(truths: list[Truth], found: list[Found]) -> list[float]:
    """The official proposal evaluator's loop, at most 100 proposals a video on average; labels ignored."""
    best: dict[tuple[str, int, int], float] = {}
    for video, start, end, _, score in found:
        if any(truth[0] == video for truth in truths):
            best[video, start, end] = max(best.get((video, start, end), -1.0), score)
    videos = list(dict.fromkeys(truth[0] for truth in truths))
    own = {v: sorted((k for k in best if k[0] == v), key=lambda k: -best[k]) for v in videos}
    ratio = 100 * float(len(videos)) / max(len(best), 1)
    own = {v: rows[: min(int(len(rows) * ratio), len(rows))] for v, rows in own.items()}
    total = max(sum(map(len, own.values())), 1)
    curve = []
    for share in np.arange(1, 101) / 100.0 * (100 * float(len(videos)) / total):
        hits = 0
        for threshold, (video, start, end, _) in itertools.product(np.linspace(0.5, 0.95, 10), truths):
            rows = own[video][: min(int(len(own[video]) * share), len(own[video]))]
            hits += any(threshold <= overlap(row[1:], (start, end)) < math.inf for row in rows)
        curve.append(hits / len(truths) / 10)
    return curve


segment = st.tuples(st.integers(0, 8), st.integers(0, 8)).map(lambda pair: tuple(sorted(pair)))
truth_lists = st.lists(
    st.builds(lambda v, s, c: (v, *s, c), st.sampled_from(["v0", "v1"]), segment, st.integers(0, 1)),
    min_size=1,
    max_size=9,
)
found_lists = st.lists(
    st.builds(
        lambda v, s, c, p: (v, *s, c, p),
        st.sampled_from(["v0", "v0", "v1", "v2", "elsewhere"]),
        segment,
        st.integers(0, 2),
        st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
    ),
    max_size=14,
).filter(lambda rows: not rows or any(row[0] != "elsewhere" for row in rows))


@given(truth_lists, found_lists, st.sampled_from([1, 3, 10_000]))
def test_equals_the_loop(truths: list[Truth], found: list[Found], at_a_time: int) -> None:
    truths = sorted(truths, key=lambda truth: truth[0])  # annotation order is by video
    with mock.patch("etad.matches.PAIRS", at_a_time):
        got = evaluate(world(truths), columns(found), tiou=TIOU, subset="test")
    labels = sorted({truth[3] for truth in truths})
    assert got.classes == tuple(CLASSES[label] for label in labels)
    slow = [[slow_ap(truths, found, label, threshold) for threshold in TIOU] for label in labels]
    assert np.allclose(got.ap, slow, atol=1e-12)
    assert np.allclose(got.mAP, np.mean(slow, axis=0), atol=1e-12)
    assert got.average_mAP == pytest.approx(np.mean(slow), abs=1e-12)


@given(
    truth_lists,
    st.lists(st.builds(lambda v, s, c: (v, *s, c), st.sampled_from(["v0", "v1"]), segment, st.just(0)), max_size=9),
)
def test_recall_equals_the_loop(truths: list[Truth], segments: list[tuple[str, int, int, int]]) -> None:
    found = [(*row, 1 - i / 100) for i, row in enumerate(segments)]
    got = evaluate(world(truths), columns(found), tiou=TIOU, subset="test")
    slow = slow_recall(truths, found)
    assert np.allclose(got.recall, slow, atol=1e-12)
    assert got.area == pytest.approx(np.interp(np.arange(1, 100) + 0.5, np.arange(1, 101), slow).sum() / 100, abs=1e-12)


@given(truth_lists, found_lists, st.lists(st.integers(0, 3), min_size=3, max_size=3))
def test_weights_are_copies_of_videos(truths: list[Truth], found: list[Found], weights: list[int]) -> None:
    found = [row for row in found if row[0] != "elsewhere"]
    matches = evaluate(world(truths), columns(found), tiou=TIOU, subset="test").matches
    ap, positives = average_precision(matches, np.array(weights, float))
    copies = [(id, f"{id}-{n}") for id, count in zip(("v0", "v1", "v2"), weights, strict=True) for n in range(count)]
    more = [(name, *t[1:]) for t in truths for id, name in copies if t[0] == id]
    rows = [(name, *row[1:]) for row in found for id, name in copies if row[0] == id]
    if not more:
        with pytest.raises(ValueError, match="no ground truth"):
            mean_average_precision(matches, np.array(weights, float))
        return
    ids = tuple(name for _, name in copies)
    got = evaluate(world(more, ids=ids), columns(rows, ids=ids), tiou=TIOU, subset="test")
    kept = positives > 0
    assert tuple(np.array(matches.classes)[kept]) == got.classes
    if len({row[4] for row in found}) == len(found):  # copies of tied rows interleave another way
        assert np.allclose(ap[kept], got.ap, atol=1e-12)
        assert np.allclose(mean_average_precision(matches, np.array(weights, float)), got.mAP, atol=1e-12)


def test_the_next_best_truth_is_taken_when_the_best_is_gone() -> None:
    truths = [("v0", 0, 10, 0), ("v0", 2, 12, 0)]
    found = [("v0", 1, 11, 0, 0.9), ("v0", 0, 10, 0, 0.8), ("v0", 2, 12, 0, 0.7)]
    # The first row ties and takes the first truth; the second row's only one left is the second truth, 8/12.
    got = evaluate(world(truths), columns(found), tiou=(0.5, 0.75), subset="test")
    assert got.ap[0] == pytest.approx([1.0, 1 / 2 + 1 / 2 * 2 / 3])


def test_profiles_differ_where_they_say() -> None:
    truths = [("v0", 3, 3, 0), ("v0", 0, 10, 0)]
    found = [("elsewhere", 0, 1, 0, 0.9), ("v0", 5, 5, 0, 0.8), ("v0", 0, 9, 0, 0.7)]
    official = evaluate(world(truths), columns(found), tiou=TEN, subset="test")
    strict = evaluate(world(truths), columns(found), tiou=TEN, subset="test", profile="strict")
    assert official.mAP[0] == pytest.approx(2 / 3)  # false positive, then both truths found
    assert strict.mAP[0] == pytest.approx(1 / 2 * 1 / 2)  # left out, then a miss, then the one real truth
    assert (official.tiou[8], strict.tiou[8]) == (0.8999999999999999, 0.9)
    assert (official.mAP[8] > 0, strict.mAP[8] > 0) == (True, True)
    assert official.protocol["detections_outside"] == strict.protocol["detections_outside"] == 1


def test_thresholds() -> None:
    assert thresholds(TEN, "linspace").tolist() == np.linspace(0.5, 0.95, 10).tolist()
    assert thresholds(TEN, "decimal").tolist() == list(TEN)
    assert thresholds((0.5, 0.6, 0.95), "linspace").tolist() == [0.5, 0.6, 0.95]
    for bad in ((), (0.0, 0.5), (0.5, 0.5), (0.6, 0.5), (0.5, 1.1), (math.nan,)):
        with pytest.raises(ValueError, match="must rise"):
            thresholds(bad, "decimal")
    assert tiou_values("0.5:0.05:0.95") == TEN
    assert tiou_values("0.3:0.1:0.7") == (0.3, 0.4, 0.5, 0.6, 0.7)
    assert tiou_values("0.5") == (0.5,)


def test_no_ground_truth_is_an_error_not_a_number() -> None:
    with pytest.raises(ValueError, match="no ground truth in subset 'test'"):
        evaluate(world([]), columns([]), tiou=TIOU, subset="test")
    with pytest.raises(ValueError, match="the subsets are: test"):
        evaluate(world([("v0", 0, 1, 0)]), columns([]), tiou=TIOU, subset="validation")


def test_foreign_ids_and_labels_are_errors() -> None:
    truths = world([("v0", 0, 1, 0)])
    with pytest.raises(ValueError, match=r"'v0'.*'elsewhere'"):
        evaluate(truths, columns([("elsewhere", 0, 1, 0, 1.0)]), tiou=TIOU, subset="test")
    with pytest.raises(ValueError, match="no class 'z'"):
        evaluate(truths, replace(columns([]), classes=("z",)), tiou=TIOU, subset="test")


def test_classes_without_detections_score_nothing_and_without_truth_do_not_count() -> None:
    truths = [("v0", 0, 10, 0), ("v0", 0, 10, 1)]
    got = evaluate(world(truths), columns([("v0", 0, 10, 0, 0.5), ("v0", 0, 10, 2, 0.9)]), tiou=TIOU, subset="test")
    assert got.ap.tolist() == [[1, 1, 1], [0, 0, 0]]
    assert evaluate(world(truths), columns([]), tiou=TIOU, subset="test").average_mAP == 0


def test_blocked_videos_leave_with_their_detections() -> None:
    truths = [("v0", 0, 10, 0), ("v1", 0, 10, 0)]
    found = [("v1", 5, 6, 0, 0.9), ("v0", 0, 10, 0, 0.5)]
    got = evaluate(world(truths), columns(found), tiou=TIOU, subset="test", blocked=frozenset({"v1", "x"}))
    assert got.average_mAP == 1
    protocol = got.protocol
    assert (protocol["videos"], protocol["ground_truths"], protocol["detections"]) == (2, 1, 1)
    assert (protocol["blocked"], protocol["blocked_in_subset"], protocol["detections_outside"]) == (2, 1, 0)


def test_class_agnostic_work_ignores_labels() -> None:
    truths = world([("v0", 0, 10, 0), ("v0", 12, 20, 1)])
    found = columns([("v0", 0, 10, 2, 0.3), ("v0", 12, 20, 0, 0.8), ("v0", 0, 10, 1, 0.9), ("v1", 0, 10, 1, 0.1)])
    merged = merge_labels(found)
    assert merged.segments_s.tolist() == [[0, 10], [12, 20], [0, 10]]
    assert merged.score.tolist() == [0.9, 0.8, 0.1]
    assert evaluate(class_agnostic(truths), merged, tiou=TIOU, subset="test").average_mAP == 1
    assert len(merge_labels(columns([])).score) == 0


@given(truth_lists, found_lists)
def test_matches_come_back_from_disk(
    tmp_path_factory: pytest.TempPathFactory, truths: list[Truth], found: list[Found]
) -> None:
    path = tmp_path_factory.mktemp("m") / "matches.npz"
    matches = evaluate(world(truths), columns(found), tiou=TIOU, subset="test").matches
    write_matches(path, matches)
    back = read_matches(path)
    for name, value in vars(matches).items():
        assert np.array_equal(getattr(back, name), value), name
        assert type(getattr(back, name)) is type(value)


def test_broken_matches_are_named(tmp_path: Path) -> None:
    path = tmp_path / "matches.npz"
    path.write_bytes(b"PK nothing")
    with pytest.raises(MatchesError, match=r"matches\.npz"):
        read_matches(path)


@pytest.mark.parametrize("name", ["activitynet_sample_detection_prediction", "anet_val_jittered_gt_seed0"])
def test_the_official_results_on_activitynet(shared: Path, name: str) -> None:
    annotations = read_annotations(shared / "data/anet/activity_net.v1-3.json", mend=False)
    detections = read_detections(shared / f"data/evaluation/{name}.json", annotations.classes)
    reference = json.loads((shared / "data/evaluation/reference_map.json").read_text())[name]
    got = evaluate(annotations, detections, tiou=TEN, subset="validation")
    assert list(got.tiou) == reference["tious"]
    assert np.abs(got.mAP - reference["mAP"]).max() < 1e-9
    assert abs(got.average_mAP - reference["average_mAP"]) < 1e-9
    ids, sha256 = read_blocked("anet-79")
    fewer = evaluate(annotations, detections, tiou=TEN, subset="validation", blocked=ids, blocked_sha256=sha256)
    assert fewer.protocol["videos"] == 4_895
    assert fewer.protocol["blocked_sha256"] == sha256


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = {"v0": {"duration": 20, "subset": "test", "annotations": [{"segment": [0, 10], "label": "a"}]}}
    found = {"v0": [{"segment": [0, 9], "label": "a", "score": 0.5}]}
    files = [str(tmp_path / "truth.json"), str(tmp_path / "found.json")]
    Path(files[0]).write_text(json.dumps({"database": truth}))
    Path(files[1]).write_text(json.dumps({"results": found}))
    assert run([*files, "--subset", "test", "--tiou", "0.5:0.05:0.95", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["mAP"] == [1.0] * 9 + [0.0]  # 0.9 counts at linspace's 0.8999999999999999
    assert result["average_mAP"] == pytest.approx(0.9)
    assert (result["AR"]["100"], result["protocol"]["ground_truths"]) == (0.9, 1)
    assert result["protocol"]["profile"] == "official"
    assert run([*files, "--subset", "test", "--class-agnostic"]) == 0
    assert "90.00" in capsys.readouterr().out
    assert run([*files, "--subset", "other"]) == 1
    assert "subset 'other'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        run([*files, "--tiou", "0.5:0.3:0.95"])
    assert stop.value.code == 2


def test_every_profile_has_its_rules_in_the_protocol() -> None:
    for name, rules in PROFILES.items():
        protocol = evaluate(world([("v0", 0, 1, 0)]), columns([]), tiou=TIOU, subset="test", profile=name).protocol
        assert vars(rules).items() <= protocol.items()
