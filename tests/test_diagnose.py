"""Error kinds on cases made by hand and against a loop, and what their removal gains."""

import json
from dataclasses import asdict
from functools import partial

import pytest
import worlds
from hypothesis import given
from hypothesis import strategies as st
from worlds import Found, Truth

from etad.diagnose import GROUPS, KINDS, diagnose
from etad.evaluate import evaluate

CLASSES = ("a", "b")
world = partial(worlds.world, ids=("v0", "v1"), classes=CLASSES, duration_s=100.0)
columns = partial(worlds.columns, ids=("v0", "v1", "elsewhere"), classes=CLASSES)


def overlap(a: tuple[int, int], b: tuple[int, int]) -> float:
    inter = max(min(a[1], b[1]) - max(a[0], b[0]), 0)
    return inter / ((a[1] - a[0]) + (b[1] - b[0]) - inter)


TRUTHS: list[Truth] = [("v0", 0, 20, 0), ("v0", 40, 60, 1), ("v1", 0, 80, 0)]
ONE_EACH: list[tuple[Found, str]] = [
    (("v0", 0, 19, 0, 0.9), "true positive"),
    (("v0", 0, 18, 0, 0.8), "double detection"),
    (("v0", 40, 60, 0, 0.7), "wrong label"),
    (("v0", 0, 5, 0, 0.6), "localisation"),
    (("v0", 55, 70, 0, 0.5), "confusion"),
    (("v0", 80, 90, 0, 0.4), "background"),
    (("v1", 90, 99, 0, 0.3), "background"),
    (("elsewhere", 0, 20, 0, 0.2), "background"),
]


def test_one_of_each_kind() -> None:
    got = diagnose(world(TRUTHS), columns([row for row, _ in ONE_EACH]), tiou=(0.5, 0.95), subset="test")
    kinds = [kind for _, kind in ONE_EACH]
    assert got.detections == len(ONE_EACH)
    assert {name: share[0] for name, share in got.shares.items()} == {n: kinds.count(n) / len(kinds) for n in KINDS}
    # At 0.95 the first is still one (19/20), the second is ill located now.
    assert got.shares["double detection"][1] == 0
    assert got.shares["localisation"][1] == 2 / len(kinds)
    assert got.missed == [pytest.approx(2 / 3)] * 2
    assert json.loads(json.dumps(asdict(got)))["detections"] == len(ONE_EACH)


def test_ranks_split_the_detections_by_g() -> None:
    got = diagnose(world(TRUTHS), columns([row for row, _ in ONE_EACH]), tiou=(0.5,), subset="test")
    assert got.ranks[0] == {**dict.fromkeys(KINDS, 0.0), "true positive": 0.5, "double detection": 0.5}
    assert [rank["background"] for rank in got.ranks] == [0, 0, 0.5, 1]


def test_removing_an_error_lifts_what_stands_below_it() -> None:
    truths = [("v0", 0, 20, 0), ("v1", 0, 20, 0)]
    found = [("v0", 80, 90, 0, 0.9), ("v0", 0, 20, 0, 0.8)]
    got = diagnose(world(truths), columns(found), tiou=(0.5,), subset="test")
    assert got.mAP == [0.25]  # half the truth at precision 1/2
    assert got.gain["background"] == [0.25]
    assert got.gain["missed"] == [0.25]
    assert [got.gain[kind] for kind in KINDS[1:5]] == [[0.0]] * 4


def test_only_the_best_ten_g_are_diagnosed_but_any_can_find_the_truth() -> None:
    noise = [("v0", 80, 90, 0, 0.9 - i / 100) for i in range(10)]
    got = diagnose(world([("v0", 0, 20, 0)]), columns([*noise, ("v0", 0, 20, 0, 0.1)]), tiou=(0.5,), subset="test")
    assert (got.detections, got.mAP, got.missed) == (10, [0.0], [0.0])
    assert got.shares["background"] == [1.0]


def test_false_negatives_by_size() -> None:
    truths = [("v0", 0, 20, 0), ("v0", 30, 51, 0), ("v1", 0, 100, 1)]
    got = diagnose(world(truths), columns([("v0", 0, 20, 0, 0.9)]), tiou=(0.5,), subset="test").false_negatives
    assert {name: [(g.ground_truths, g.missed) for g in groups.values()] for name, groups in got.items()} == {
        "coverage": [(1, 0.0), (1, 1.0), (0, None), (0, None), (1, 1.0)],
        "length_s": [(2, 0.5), (0, None), (1, 1.0), (0, None), (0, None)],
        "instances": [(1, 1.0), (2, 0.5), (0, None), (0, None)],
    }
    assert all(set(groups) == set(GROUPS["anet"]) for groups in GROUPS.values())


def slow_kind(row: Found, truths: list[Truth], threshold: float) -> str:
    """The kind of a detection that takes no ground truth."""
    own = [(overlap(row[1:3], truth[1:3]), truth[3]) for truth in truths if truth[0] == row[0]]
    best, label = max(own, key=lambda pair: pair[0], default=(0.0, -1))
    if best < 0.1:
        return "background"
    if best >= threshold:
        return "double detection" if label == row[3] else "wrong label"
    return "localisation" if label == row[3] else "confusion"


segment = st.tuples(st.integers(0, 9), st.integers(1, 9)).map(lambda pair: (pair[0], pair[0] + pair[1]))
truth_lists = st.lists(
    st.builds(lambda v, s, c: (v, *s, c), st.sampled_from(["v0", "v1"]), segment, st.integers(0, 1)),
    min_size=1,
    max_size=6,
)
found_lists = st.lists(
    st.builds(lambda v, s, c: (v, *s, c), st.sampled_from(["v0", "v1"]), segment, st.integers(0, 1)), max_size=12
)


@given(truth_lists, found_lists)
def test_kinds_equal_the_loop(truths: list[Truth], segments: list[tuple[str, int, int, int]]) -> None:
    found = [(*row, 1 - i / 100) for i, row in enumerate(segments) if any(t[3] == row[3] for t in truths)]
    truths = sorted(truths, key=lambda truth: truth[0])
    got = diagnose(world(truths), columns(found), tiou=(0.3, 0.6), subset="test")
    matches = evaluate(world(truths), columns(found), tiou=(0.3, 0.6), subset="test").matches
    order = sorted(range(len(found)), key=lambda i: found[i][3])  # rows go by class, then score
    limited = [
        i
        for i in order
        if sum(j < i and found[j][3] == found[i][3] for j in range(len(found)))
        < 10 * sum(t[3] == found[i][3] for t in truths)
    ]
    assert got.detections == len(limited)
    for index, threshold in enumerate((0.3, 0.6)):
        hits = {order[row] for row in matches.hit_row[matches.hit_tiou == index]}
        kinds = ["true positive" if i in hits else slow_kind(found[i], truths, threshold) for i in limited]
        for kind in KINDS:
            assert got.shares[kind][index] == pytest.approx(kinds.count(kind) / max(len(kinds), 1))
        assert all(got.gain[kind][index] >= -1e-12 for kind in got.gain)


def slow_normalised(truths: list[Truth], found: list[Found], threshold: float, kept: set[int], normal: float) -> float:
    """mAP_N over the classes with ground truth in `kept`, one detection after the other."""
    aps = []
    for label in sorted({truths[i][3] for i in kept}):
        own = [i for i in kept if truths[i][3] == label]
        taken: set[int] = set()
        verdicts = []
        for row in sorted((r for r in found if r[3] == label), key=lambda r: -r[4]):
            free = [
                (overlap(row[1:3], t[1:3]), -i)
                for i, t in enumerate(truths)
                if t[0] == row[0] and t[3] == label and i not in taken and overlap(row[1:3], t[1:3]) >= threshold
            ]
            if not free:
                verdicts.append(False)
                continue
            best = -max(free)[1]
            taken.add(best)
            if best in kept:
                verdicts.append(True)
        points = []
        for n in range(1, len(verdicts) + 1):
            recall, false = sum(verdicts[:n]) / len(own), n - sum(verdicts[:n])
            points.append((recall, recall * normal / (recall * normal + false) if recall or false else 0.0))
        ap, before = 0.0, 0.0
        for n, (recall, _) in enumerate(points):
            ap += (recall - before) * max(precision for _, precision in points[n:])
            before = recall
        aps.append(ap)
    return sum(aps) / len(aps)


@given(truth_lists, found_lists)
def test_sensitivity_equals_the_loop(truths: list[Truth], segments: list[tuple[str, int, int, int]]) -> None:
    found = [(*row, 1 - i / 100) for i, row in enumerate(segments) if any(t[3] == row[3] for t in truths)]
    truths = sorted(truths, key=lambda truth: truth[0])
    groups = {"length_s": (3.0, 5.0)}
    got = diagnose(world(truths), columns(found), tiou=(0.3, 0.6), subset="test", groups=groups)
    normal = len(truths) / len({t[3] for t in truths})
    everyone = set(range(len(truths)))
    means = [slow_normalised(truths, found, t, everyone, normal) for t in (0.3, 0.6)]
    assert got.average_mAP_N == pytest.approx(sum(means) / 2)
    sizes = {"XS": (0, 3), "S": (3, 5), "M": (5, 99)}
    assert got.sensitivity.keys() == {"length_s"}
    for name, (low, high) in sizes.items():
        kept = {i for i, t in enumerate(truths) if low < t[2] - t[1] <= high}
        value = got.sensitivity["length_s"][name]
        if not kept:
            assert value is None
            continue
        assert value == pytest.approx(sum(slow_normalised(truths, found, t, kept, normal) for t in (0.3, 0.6)) / 2)


def test_a_perfect_detector_is_equally_good_at_every_size() -> None:
    truths = [("v0", 0, 20, 0), ("v0", 30, 51, 0), ("v1", 0, 100, 1)]
    got = diagnose(world(truths), columns([(*t, 0.5) for t in truths]), tiou=(0.5, 0.9), subset="test")
    assert got.average_mAP_N == 1
    assert {value for of in got.sensitivity.values() for value in of.values()} == {1, None}
