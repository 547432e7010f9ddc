"""Losses: against the released code's arrays, and against loops written from METHOD 7."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_model import released_state
from torch import Tensor

from etad.build import build_detector
from etad.losses import ClassLoss, Criterion, balanced_bce, offset_loss, sampled_bce, sampled_l2
from etad.model.detector import Detector, DetectorOutput, StageOutput
from etad.model.released import from_released
from etad.randomness import uniform
from etad.segments import encode, tiou
from etad.spec import Spec
from etad.targets import boundary_at

BANDS = (0.3, 0.7)
CRITERION = Criterion(
    thresholds=(0.7, 0.8, 0.9),
    iou_positive=0.9,
    iou_bands=BANDS,
    boundary_positive=0.5,
    iou_weight=5.0,
    offset_weight=10.0,
    class_weight=0.5,
    released=False,
)
EACH = pytest.mark.parametrize("released", [False, True])


def one(counts: Tensor) -> Tensor:
    return counts


@pytest.fixture(scope="module")
def arrays(parity: Path) -> dict[str, Tensor]:
    return {k: torch.tensor(v) for k, v in np.load(parity / "losses.npz", allow_pickle=False).items()}


# --- the released code's arrays


def test_deterministic_pieces(arrays: dict[str, Tensor]) -> None:
    p, u = arrays["pred"], arrays["gt_iou"]
    none = torch.zeros(600, dtype=torch.bool)
    draw = uniform(0, count=600)
    ours = {
        "balanced_bce": balanced_bce(p, u > 0.5, one),
        "no_positive_balanced_bce": balanced_bce(p, none, one),
        "all_positive_balanced_bce": balanced_bce(p, ~none, one),
        "no_positive_sampled_bce_0.9": sampled_bce(p, none, draw, one),
        "no_high_sampled_l2": sampled_l2(p, u * 0, BANDS, draw, one),
        "no_anchor_smooth_l1": offset_loss(arrays["reg"][:, None], arrays["gt_reg"][:, None], none, one),
    }
    for t in (0.5, 0.7, 0.9):
        ours[f"smooth_l1_{t}"] = offset_loss(arrays["reg"][:, None], arrays["gt_reg"][:, None], u > t, one)
    for name, value in ours.items():
        assert float(value) == pytest.approx(float(arrays[name]), abs=1e-5), name


def near(values: list[float], mean: float, std: float, seeds: int) -> None:
    """Within 4 standard errors (of both samples), the standard deviation within 15 %."""
    drawn = np.array(values)
    assert abs(drawn.mean() - mean) <= 4 * std * math.sqrt(1 / len(drawn) + 1 / seeds) + 1e-5
    assert drawn.std() == pytest.approx(std, rel=0.15, abs=1e-5)


def test_sampled_pieces(arrays: dict[str, Tensor]) -> None:
    p, u = arrays["pred"], arrays["gt_iou"]
    draws = [uniform(seed, count=600) for seed in range(1000)]

    def check(name: str, loss: Callable[[Tensor], Tensor], seeds: int) -> None:
        near([float(loss(d)) for d in draws], float(arrays[f"{name}_mean"]), float(arrays[f"{name}_std"]), seeds)

    seeds = int(arrays["seeds"])
    check("sampled_bce_0.9", lambda d: sampled_bce(p, u > 0.9, d, one), seeds)
    check("sampled_bce_0.5", lambda d: sampled_bce(p, u > 0.5, d, one), seeds)
    check("sampled_l2", lambda d: sampled_l2(p, u, BANDS, d, one), seeds)


def test_released_rates_above_one(arrays: dict[str, Tensor]) -> None:
    heavy = arrays["gt_iou_positive_heavy"] > 0.9
    name = "released_sampled_bce_0.9_positive_heavy"
    values = [float(sampled_bce(arrays["pred"], heavy, uniform(s, count=600), one, released=True)) for s in range(20)]
    near(values, float(arrays[f"{name}_mean"]), float(arrays[f"{name}_std"]), 500)
    clamped = float(sampled_bce(arrays["pred"], heavy, uniform(0, count=600), one))
    assert abs(clamped - values[0]) > 1e-3


def test_targets_of_anchors(arrays: dict[str, Tensor]) -> None:
    anchors, segments = arrays["reg_anchors"], arrays["reg_gt"]
    offsets = encode(anchors, segments).reshape(-1, 4)
    for k, name in enumerate(("start", "end", "center", "width")):
        torch.testing.assert_close(offsets[:, k], arrays[f"delta_{name}"], rtol=0, atol=1e-5)
    at = boundary_at(torch.stack((arrays["gt_start"], arrays["gt_end"]), 1), anchors).reshape(-1, 2)
    assert torch.equal(at[:, 0], arrays["cls_start"])
    assert torch.equal(at[:, 1], arrays["cls_end"])
    torch.testing.assert_close(tiou(anchors, segments), arrays["aligned_iou"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("file", "released"), [("criterion", False), ("criterion_released_positive_heavy", True)])
def test_criterion(parity: Path, file: str, released: bool) -> None:
    z = {k: torch.tensor(v) for k, v in np.load(parity / f"{file}.npz", allow_pickle=False).items() if k != "names"}
    names = [str(n) for n in np.load(parity / f"{file}.npz", allow_pickle=False)["names"]]
    detector = build_detector(Spec())
    detector.load_state_dict(from_released(released_state(parity), detector.state_dict()))
    detector.train()
    with torch.no_grad():
        out = detector(z["features"], z["anchors"])
    boundary = torch.stack((z["gt_start"], z["gt_end"]), 1)
    criterion = replace(CRITERION, released=released)
    parts = [criterion(out, z["gt_matched"], boundary, uniform(s, count=9600).view(3, 4, 4, 200)) for s in range(400)]
    for n, name in enumerate(names):
        values = [float(p["loss" if name == "cost" else name]) for p in parts]
        near(values, float(z["mean"][n]), float(z["std"][n]), int(z["seeds"]))


# --- loops from METHOD 7


def log(x: float) -> float:
    return math.log(x + 1e-6)


def slow_balanced(p: list[float], positive: list[bool]) -> float:
    yes = [-log(a) for a, y in zip(p, positive, strict=True) if y]
    no = [-log(1 - a) for a, y in zip(p, positive, strict=True) if not y]
    means = [sum(part) / len(part) for part in (yes, no) if part]
    return sum(means) / len(means)


def slow_sampled_bce(p: list[float], positive: list[bool], draw: list[float], released: bool) -> float:
    count = sum(positive)
    if count == 0:
        return sum(-log(1 - a) for a in p) / len(p)
    others = len(p) - count
    rate = count / others if others else 0.0
    kept = [-log(a) for a, y in zip(p, positive, strict=True) if y]
    for a, y, d in zip(p, positive, draw, strict=True):
        if (released and rate > 1) or (not y and d > 1 - rate):
            kept.append(-log(1 - a))
    return sum(kept) / len(kept)


def slow_sampled_l2(p: list[float], u: list[float], draw: list[float], released: bool) -> float:
    def band(x: float) -> int:
        return 2 if x > 0.7 else 1 if x > 0.3 else 0

    sizes = [sum(band(x) == b for x in u) for b in range(3)]
    squares = [(a - x) ** 2 for a, x in zip(p, u, strict=True)]
    if sizes[2] == 0:
        return sum(squares) / len(squares)
    kept = [s for s, x in zip(squares, u, strict=True) if band(x) == 2]
    for b in (0, 1):
        if sizes[b]:
            rate = sizes[2] / sizes[b]
            for s, x, d in zip(squares, u, draw, strict=True):
                if (released and rate > 1) or (band(x) == b and d > 1 - rate):
                    kept.append(s)
    return sum(kept) / len(kept)


def slow_offsets(offsets: list[list[float]], target: list[list[float]], chosen: list[bool]) -> float:
    if not any(chosen):
        return 0.0
    total = 0.0
    for a, b, c in zip(offsets, target, chosen, strict=True):
        for x, y in zip(a, b, strict=True):
            gap = abs(x - y)
            total += (gap - 0.5 if gap >= 1 else gap * gap / 2) if c else 0.0
    return total / sum(chosen)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions, targets in [0, 1] whose bands may be empty or heavy, and uniform draws."""
    n = draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    power = draw(st.sampled_from([0.1, 0.5, 1.0, 3.0, 10.0]))
    p, u, d = torch.rand(3, n, generator=generator, dtype=torch.float64)
    u = u**power
    cut = draw(st.sampled_from(["all", "high", "low", "middle"]))
    if cut == "high":
        u = 0.7 + 0.3 * u
    elif cut == "low":
        u = u * 0.3
    elif cut == "middle":
        u = 0.3 + 0.4 * u
    return p, u, d


@given(cases(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_pieces_equal_loops(case: tuple[Tensor, Tensor, Tensor], released: bool) -> None:
    p, u, d = case
    for threshold in (0.5, 0.9):
        positive = u > threshold
        want = slow_sampled_bce(p.tolist(), positive.tolist(), d.tolist(), released)
        assert float(sampled_bce(p, positive, d, one, released)) == pytest.approx(want, rel=1e-9)
        want = slow_balanced(p.tolist(), positive.tolist())
        assert float(balanced_bce(p, positive, one)) == pytest.approx(want, rel=1e-9)
    want = slow_sampled_l2(p.tolist(), u.tolist(), d.tolist(), released)
    assert float(sampled_l2(p, u, BANDS, d, one, released)) == pytest.approx(want, rel=1e-9)
    offsets = torch.stack((p, u, d, 3 * p - 2 * u), -1)
    target = torch.stack((u, d, p, -2 * d), -1)
    want = slow_offsets(offsets.tolist(), target.tolist(), (u > 0.7).tolist())
    assert float(offset_loss(offsets, target, u > 0.7, one)) == pytest.approx(want, rel=1e-9)


def example(seed: int, videos: int = 4, anchors: int = 60, tscale: int = 16) -> tuple[DetectorOutput, Tensor, Tensor]:
    """A detector's random output, anchors near their matches so that no band is empty, and random targets."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    start = rand(videos, anchors, 1) * 0.5
    matched = torch.cat((start, start + 0.1 + 0.4 * rand(videos, anchors, 1)), -1)
    stages = []
    for _ in range(3):
        moved = matched + 0.3 * rand(videos, anchors, 1) ** 3 * torch.tensor([-1.0, 1.0])
        offsets = torch.cat((rand(videos, anchors, 4) - 0.5, rand(videos, anchors, 2)), -1)
        stages.append(StageOutput(moved, rand(videos, anchors, 2), offsets))
    return DetectorOutput(rand(videos, 2, tscale), tuple(stages)), matched, rand(videos, 2, tscale) ** 2


@EACH
def test_criterion_is_the_weighted_sum_of_its_pieces(released: bool) -> None:
    out, matched, boundary = example(0)
    draws = uniform(3, count=3 * 4 * 240).view(3, 4, 4, 60)
    parts = replace(CRITERION, released=released)(out, matched, boundary, draws)
    assert list(parts) == ["boundary", "stage1", "stage2", "stage3", "loss"]
    want = sum(
        slow_balanced(out.boundary[:, k].flatten().tolist(), (boundary[:, k] > 0.5).flatten().tolist()) for k in (0, 1)
    )
    assert float(parts["boundary"]) == pytest.approx(want, rel=1e-5)
    for s, threshold in enumerate((0.7, 0.8, 0.9)):
        stage = out.stages[s]
        anchors, gt = stage.anchors.reshape(-1, 2).tolist(), matched.reshape(-1, 2).tolist()
        u, target, at = [], [], []
        for k, ((a0, a1), (g0, g1)) in enumerate(zip(anchors, gt, strict=True)):
            overlap = max(0.0, min(a1, g1) - max(a0, g0))
            u.append(overlap / ((a1 - a0) + (g1 - g0) - overlap))
            length = a1 - a0
            ds, de = (g0 - a0) / length, (g1 - a1) / length
            target.append([ds, de, (ds + de) / 2, math.log((g1 - g0) / length + 1e-6)])
            rows = boundary[k // 60].tolist()
            at.append([rows[e][min(15, max(0, math.floor(x * 16)))] for e, x in enumerate((a0, a1))])
        assert min(sum(x > 0.9 for x in u), sum(x <= 0.9 for x in u)) > 0
        iou, offsets = stage.iou.view(-1, 2).tolist(), stage.offsets.view(-1, 6).tolist()
        d = draws[s].flatten(1).tolist()
        want = slow_sampled_bce([x[0] for x in iou], [x > 0.9 for x in u], d[0], released)
        want += 5 * slow_sampled_l2([x[1] for x in iou], u, d[1], released)
        want += 10 * slow_offsets([x[:4] for x in offsets], target, [x > threshold for x in u])
        for k in (0, 1):
            positive = [x[k] > 0.5 for x in at]
            want += 0.5 * slow_sampled_bce([x[4 + k] for x in offsets], positive, d[2 + k], released)
        assert float(parts[f"stage{s + 1}"]) == pytest.approx(want, rel=1e-5)
    assert float(parts["loss"]) == pytest.approx(sum(float(v) for n, v in parts.items() if n != "loss"), rel=1e-6)


# --- processes


class Exchange:
    """Sums counts over halves that run one after the other: first it records what each asks for, then answers.

    A count may depend on sums asked for earlier, so a round replays the halves until nothing new is asked.
    """

    def __init__(self, halves: int):
        self.asked: list[list[Tensor]] = [[] for _ in range(halves)]
        self.answers: list[Tensor] = []

    def total(self, half: int) -> Callable[[Tensor], Tensor]:
        self.asked[half] = []

        def add(counts: Tensor) -> Tensor:
            n = len(self.asked[half])
            self.asked[half].append(counts)
            return self.answers[n] if n < len(self.answers) else counts

        return add

    def grew(self) -> bool:
        assert len({len(a) for a in self.asked}) == 1, "every process must ask for the same number of sums"
        n = len(self.answers)
        if n == len(self.asked[0]):
            return False
        self.answers.append(torch.stack([a[n] for a in self.asked]).sum(0))
        return True


@EACH
@pytest.mark.parametrize("heavy", [False, True])
def test_two_processes_make_the_whole_batch(released: bool, heavy: bool) -> None:
    out, matched, boundary = example(1)
    if heavy:  # positives only in one half, and more of them than negatives there
        boundary = torch.cat((boundary[:2] * 0, boundary[2:] * 0 + 0.9))
    draws = uniform(5, count=3 * 4 * 240).view(3, 4, 4, 60)
    criterion = replace(CRITERION, released=released)
    whole = criterion(out, matched, boundary, draws)

    exchange, parts = Exchange(2), [{}, {}]
    while True:
        for half, rows in enumerate((slice(0, 2), slice(2, 4))):
            share = DetectorOutput(
                out.boundary[rows],
                tuple(StageOutput(s.anchors[rows], s.iou[rows], s.offsets[rows]) for s in out.stages),
            )
            parts[half] = criterion(share, matched[rows], boundary[rows], draws[:, :, rows], exchange.total(half))
        if not exchange.grew():
            break
    for name, value in whole.items():
        assert float(parts[0][name] + parts[1][name]) == pytest.approx(float(value), rel=1e-5), name


# --- the class head


def labelled(seed: int, classes: int = 3) -> tuple[DetectorOutput, Tensor, Tensor, Tensor]:
    """`example` with logits of a class head on the last stage, and a label of each match."""
    out, matched, boundary = example(seed)
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(*matched.shape[:2], classes + 1, generator=generator, dtype=torch.float64)
    last = replace(out.stages[-1], classes=logits)
    labels = torch.randint(0, classes, matched.shape[:2], generator=generator)
    return replace(out, stages=(*out.stages[:-1], last)), matched, boundary, labels


def slow_class_loss(out: DetectorOutput, matched: Tensor, labels: Tensor, positive: float, focal: bool) -> float:
    stage = out.stages[-1]
    assert stage.classes is not None
    losses: dict[bool, list[float]] = {True: [], False: []}
    for anchor, gt, label, logits in zip(
        stage.anchors.reshape(-1, 2).tolist(),
        matched.reshape(-1, 2).tolist(),
        labels.flatten().tolist(),
        stage.classes.flatten(0, 1).tolist(),
        strict=True,
    ):
        shared = max(0.0, min(anchor[1], gt[1]) - max(anchor[0], gt[0]))
        action = shared / (anchor[1] - anchor[0] + gt[1] - gt[0] - shared) > positive
        p = math.exp(logits[label if action else -1]) / sum(math.exp(x) for x in logits)
        losses[action].append(-((1 - p) ** 2) * math.log(p) if focal else -math.log(p))
    if focal:
        return sum(losses[True] + losses[False]) / max(1, len(losses[True]))
    means = [sum(part) / len(part) for part in losses.values() if part]
    return sum(means) / len(means)


@pytest.mark.parametrize("focal", [False, True])
@pytest.mark.parametrize("positive", [0.0, 0.6, 1.0])  # every anchor overlaps its match; none is positive
def test_the_class_loss_is_a_loop_over_anchors(focal: bool, positive: float) -> None:
    out, matched, boundary, labels = labelled(2)
    draws = uniform(3, count=3 * 4 * 240).view(3, 4, 4, 60)
    plain = CRITERION(out, matched, boundary, draws)
    loss = ClassLoss(positive=positive, weight=2.0, focal=focal)
    parts = replace(CRITERION, classes=loss)(out, matched, boundary, draws, labels=labels)
    assert tuple(parts) == (*replace(CRITERION, classes=loss).parts, "loss")
    assert float(parts["classes"]) == pytest.approx(2 * slow_class_loss(out, matched, labels, positive, focal))
    assert float(parts["loss"]) == pytest.approx(float(plain["loss"] + parts["classes"]))
    assert all(torch.equal(parts[name], plain[name]) for name in CRITERION.parts)


def test_a_class_that_is_right_costs_nothing_and_a_wrong_one_does() -> None:
    out, matched, *_, labels = labelled(0)
    sure = torch.nn.functional.one_hot(labels, 4) * 50.0
    stage = replace(out.stages[-1], anchors=matched, classes=sure)
    for focal in (False, True):
        loss = ClassLoss(positive=0.5, weight=1.0, focal=focal)
        assert float(loss(stage, matched, labels, one)) == pytest.approx(0.0, abs=1e-6)
        assert float(loss(stage, matched, (labels + 1) % 3, one)) == pytest.approx(50.0)
        assert float(loss(replace(stage, anchors=matched + 2), matched, labels, one)) > 49  # background called a class


@pytest.mark.parametrize("focal", [False, True])
def test_two_processes_make_the_whole_class_loss(focal: bool) -> None:
    out, matched, _, labels = labelled(1)
    loss, stage = ClassLoss(positive=0.6, weight=1.0, focal=focal), out.stages[-1]
    assert stage.classes is not None
    exchange, parts = Exchange(2), [0.0, 0.0]
    while True:
        for half, rows in enumerate((slice(0, 1), slice(1, 4))):
            share = StageOutput(stage.anchors[rows], stage.iou[rows], stage.offsets[rows], stage.classes[rows])
            parts[half] = float(loss(share, matched[rows], labels[rows], exchange.total(half)))
        if not exchange.grew():
            break
    assert sum(parts) == pytest.approx(float(loss(stage, matched, labels, one)))


# --- edges


@EACH
def test_no_negative_at_all_keeps_positives_only(released: bool) -> None:
    p = torch.tensor([0.2, 0.7])
    want = -sum(math.log(x + 1e-6) for x in (0.2, 0.7)) / 2
    everything = torch.ones(2, dtype=torch.bool)
    assert float(sampled_bce(p, everything, torch.tensor([0.9, 0.9]), one, released)) == pytest.approx(want)


@EACH
def test_only_high_overlaps_is_the_plain_mean(released: bool) -> None:
    p, u = torch.tensor([0.2, 0.7]), torch.tensor([0.8, 0.9])
    value = sampled_l2(p, u, BANDS, torch.tensor([0.9, 0.9]), one, released)
    assert float(value) == pytest.approx((0.36 + 0.04) / 2)


@EACH
def test_no_anchor_at_all_is_finite(released: bool) -> None:
    none = torch.zeros(0)
    empty = none > 0
    assert float(balanced_bce(none, empty, one)) == 0
    assert float(sampled_bce(none, empty, none, one, released)) == 0
    assert float(sampled_l2(none, none, BANDS, none, one, released)) == 0
    assert float(offset_loss(torch.zeros(0, 4), torch.zeros(0, 4), empty, one)) == 0


def test_certain_and_wrong_is_finite_with_a_finite_gradient() -> None:
    p = torch.tensor([0.0, 1.0, 0.0, 1.0], requires_grad=True)
    positive = torch.tensor([True, False, False, True])
    loss = balanced_bce(p, positive, one) + sampled_bce(p, positive, torch.full((4,), 0.99), one)
    loss.backward()
    assert loss.isfinite()
    assert p.grad is not None
    assert p.grad.isfinite().all()


@EACH
def test_gradients_reach_kept_anchors_only(released: bool) -> None:
    p = torch.full((6,), 0.4, requires_grad=True)
    positive = torch.tensor([True, False, False, False, False, False])  # rate 1 / 5: a draw above 0.8 keeps
    draw = torch.tensor([0.99, 0.81, 0.79, 0.95, 0.1, 0.5])
    sampled_bce(p, positive, draw, one, released).backward()
    assert p.grad is not None
    assert (p.grad != 0).tolist() == [True, True, False, True, False, False]


def test_tIoU_targets_carry_no_gradient_into_earlier_stages() -> None:
    torch.manual_seed(0)
    detector: Detector = build_detector(Spec.model_validate({"data": {"channels": 16, "tscale": 16}}))
    out = detector(torch.randn(1, 16, 16), torch.tensor([[[0.1, 0.6], [0.2, 0.7]]]))
    matched = torch.tensor([[[0.1, 0.6], [0.1, 0.6]]])
    parts = CRITERION(out, matched, torch.rand(1, 2, 16), uniform(0, count=24).view(3, 4, 1, 2))
    parts["stage3"].backward()
    assert all(p.grad is None or not p.grad.any() for p in detector.stages[0].parameters())
    assert detector.stages[2].roi_weight.grad.any()
