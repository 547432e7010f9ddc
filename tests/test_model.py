"""The detector: against the released code's arrays, and what its docstrings promise."""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from etad.build import build_detector
from etad.model.aggregation import Direct, FeatureModule, Recurrent
from etad.model.boundary import BoundaryHead
from etad.model.class_head import anchor_means
from etad.model.detector import Detector, DetectorOutput
from etad.model.head import Stage, StageOutput
from etad.model.released import from_released, to_released
from etad.registry import AGGREGATORS
from etad.segments import refine
from etad.spec import Spec, parse_spec

SMALL = {
    "data": {"channels": 24, "tscale": 32},
    "model": {"width": 32, "groups": 2, "norm_groups": 4, "roi_width": 20, "head_width": 12},
    "roi": {"bins": 8},
}


def released_state(parity: Path) -> dict[str, Tensor]:
    """The weights that the reference arrays were made with. Source: the rule in the arrays' README."""
    state = {}
    for name, shape in json.loads((parity / "detector_state_dict_shapes.json").read_text()).items():
        w = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
        if w.ndim >= 2:
            w /= np.sqrt(np.prod(shape[1:]))
        elif name.endswith("weight"):
            w = 1 + 0.1 * w
        else:
            w = 0.1 * w
        state[name] = torch.tensor(w)
    return state


@pytest.fixture(scope="module")
def released(parity: Path) -> tuple[Detector, dict[str, Tensor]]:
    state = released_state(parity)
    detector = build_detector(Spec())
    detector.load_state_dict(from_released(state, detector.state_dict()))
    return detector, state


@pytest.fixture(scope="module")
def small() -> Detector:
    return build_detector(parse_spec(SMALL)).eval()


def inputs(videos: int, anchors: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ends = torch.rand(videos, anchors, 2, generator=generator).sort(-1).values
    return torch.randn(videos, 24, 32, generator=generator), ends


def test_outputs_are_the_released_ones(released: tuple[Detector, dict[str, Tensor]], parity: Path) -> None:
    z = {k: torch.tensor(v) for k, v in np.load(parity / "detector.npz", allow_pickle=False).items()}
    with torch.no_grad():
        out = released[0](z["features"], z["anchors"])
    refined, score = out.proposals()
    pairs = {
        "boundary": out.boundary,
        "refined": refined,
        "score": score.view(-1, 2),
        **{f"stage{s}_anchors": o.anchors for s, o in enumerate(out.stages, 1)},
        **{f"stage{s}_iou": o.iou.view(-1, 2) for s, o in enumerate(out.stages, 1)},
        **{f"stage{s}_reg": o.offsets.view(-1, 6) for s, o in enumerate(out.stages, 1)},
    }
    assert pairs.keys() | {"features", "anchors"} == z.keys()
    for name, ours in pairs.items():
        torch.testing.assert_close(ours, z[name], rtol=0, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_released_weights_come_back_exactly(released: tuple[Detector, dict[str, Tensor]]) -> None:
    detector, state = released
    back = to_released(detector.state_dict())
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_released_shapes_are_ours(parity: Path) -> None:
    shapes = json.loads((parity / "detector_state_dict_shapes.json").read_text())
    state = to_released(build_detector(Spec()).state_dict())
    assert {name: list(value.shape) for name, value in state.items()} == shapes


def test_own_weights_survive_the_released_format(small: Detector) -> None:
    own = small.state_dict()
    prefixed = {f"module.{name}": value for name, value in to_released(own).items()}
    back = from_released(prefixed, own)
    assert back.keys() == own.keys()
    assert all(torch.equal(back[name], own[name]) for name in own)


def test_another_detectors_checkpoint_is_refused(small: Detector) -> None:
    own = small.state_dict()
    state = to_released(own)
    with pytest.raises(ValueError, match=r"tem\.0\.weight missing"):
        from_released({n: v for n, v in state.items() if n != "tem.0.weight"}, own)
    with pytest.raises(ValueError, match="extra unknown"):
        from_released({**state, "extra": torch.zeros(1)}, own)
    with pytest.raises(ValueError, match=r"tem\.2\.bias is \(3,\), not \(2,\)"):
        from_released({**state, "tem.2.bias": torch.zeros(3)}, own)
    with pytest.raises(ValueError, match=r"\.\.\.$"):
        from_released({}, own)


def test_parameter_count_is_the_papers() -> None:
    assert sum(p.numel() for p in build_detector(Spec()).parameters()) == 10_343_450


def test_weights_depend_on_the_seed_alone() -> None:
    first = build_detector(parse_spec(SMALL)).state_dict()
    torch.rand(7)
    again = build_detector(parse_spec(SMALL)).state_dict()
    other = build_detector(parse_spec({**SMALL, "training": {"seed": 1}})).state_dict()
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not torch.equal(first["features.project.0.weight"], other["features.project.0.weight"])


def test_weights_are_xavier_uniform_with_zero_bias(small: Detector) -> None:
    state = to_released(small.state_dict())
    for name, value in state.items():
        if name.endswith("bias") and ".mem_" not in name and state[name.replace("bias", "weight")].ndim > 1:
            assert not value.any(), name
        elif value.ndim > 1 and ".mem_" not in name:
            field = value[0, 0].numel()  # 1 for a linear layer, the kernel's length for a convolution
            bound = (6 / ((value.shape[0] + value.shape[1]) * field)) ** 0.5
            assert value.abs().max() <= bound, name
            if value.numel() > 500:
                assert value.abs().max() > 0.98 * bound, name
                assert abs(value.std() / (bound / 3**0.5) - 1) < 0.15, name


def test_batched_equals_single(small: Detector) -> None:
    features, anchors = inputs(3, 17)
    with torch.no_grad():
        whole = small(features, anchors)
        for b in range(3):
            one = small(features[b : b + 1], anchors[b : b + 1])
            torch.testing.assert_close(whole.boundary[b : b + 1], one.boundary, rtol=0, atol=1e-6)
            for a, o in zip(whole.stages, one.stages, strict=True):
                torch.testing.assert_close(a.iou[b : b + 1], o.iou, rtol=0, atol=1e-5)
                torch.testing.assert_close(a.offsets[b : b + 1], o.offsets, rtol=0, atol=1e-5)


def test_anchors_do_not_see_each_other(small: Detector) -> None:
    features, anchors = inputs(2, 17)
    order = torch.randperm(17, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole, shuffled = small(features, anchors), small(features, anchors[:, order])
    for a, o in zip(whole.stages, shuffled.stages, strict=True):
        torch.testing.assert_close(a.iou[:, order], o.iou, rtol=0, atol=1e-5)


def test_shapes_and_ranges(small: Detector) -> None:
    features, anchors = inputs(2, 5)
    with torch.no_grad():
        out = small(features, anchors)
        assert small.features(features).shape == (2, 32, 32)
    assert out.boundary.shape == (2, 2, 32)
    assert out.boundary.min() > 0
    assert out.boundary.max() < 1
    assert len(out.stages) == 3
    for stage in out.stages:
        assert (stage.anchors.shape, stage.iou.shape, stage.offsets.shape) == ((2, 5, 2), (2, 5, 2), (2, 5, 6))
        for probability in (stage.iou, stage.offsets[..., 4:]):
            assert probability.min() > 0
            assert probability.max() < 1
    refined, score = out.proposals()
    assert (refined.shape, score.shape) == ((2, 5, 2), (2, 5, 2))


def test_cascade_feeds_refined_anchors_without_gradient(small: Detector) -> None:
    features, anchors = inputs(2, 5)
    out = small(features, anchors)
    assert torch.equal(out.stages[0].anchors, anchors)
    for before, after in zip(out.stages, out.stages[1:], strict=False):
        torch.testing.assert_close(after.anchors, refine(before.anchors, before.offsets))
        assert not after.anchors.requires_grad


def test_proposals_are_means_over_the_stages() -> None:
    anchors = torch.tensor([[[0.2, 0.6]]])
    stages = tuple(
        StageOutput(anchors, torch.full((1, 1, 2), p), torch.tensor([[[move, move, move, 0.0, 0.5, 0.5]]]))
        for p, move in ((0.2, 0.0), (0.6, 0.5))
    )
    refined, score = DetectorOutput(torch.zeros(1, 2, 4), stages).proposals()
    torch.testing.assert_close(refined, torch.tensor([[[0.3, 0.7]]]))  # 0 and half of 0.4, averaged
    torch.testing.assert_close(score, torch.full((1, 1, 2), 0.4))


def test_every_parameter_learns(small: Detector) -> None:
    features, anchors = inputs(2, 30)
    small.zero_grad()
    out = small(features, anchors)
    (out.boundary.sum() + sum(s.iou.sum() + s.offsets.sum() for s in out.stages)).backward()
    still = [name for name, p in small.named_parameters() if p.grad is None or not p.grad.any()]
    small.zero_grad()
    assert not still


def test_bfloat16_autocast_is_near_float32(small: Detector) -> None:
    features, anchors = inputs(2, 40)
    with torch.no_grad():
        exact = small(features, anchors)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = small(features, anchors)
    assert rough.boundary.dtype == torch.float32
    torch.testing.assert_close(rough.boundary, exact.boundary, rtol=0, atol=0.02)
    assert not torch.equal(rough.stages[0].iou, exact.stages[0].iou)
    for r, e in zip(rough.stages, exact.stages, strict=True):
        assert r.iou.dtype == r.offsets.dtype == r.anchors.dtype == torch.float32
        torch.testing.assert_close(r.iou, e.iou, rtol=0, atol=0.03)
        torch.testing.assert_close(r.offsets, e.offsets, rtol=0, atol=0.06)


def test_lstm_looks_ahead_with_one_and_back_with_the_other() -> None:
    torch.manual_seed(0)
    lstm = Recurrent(8, nn.LSTM)
    x = torch.randn(1, 8, 10)
    changed = x.clone()
    changed[:, :, 5] += 1.0
    with torch.no_grad():
        (ahead, back), (ahead2, back2) = lstm(x), lstm(changed)
    assert ahead.shape == back.shape == (1, 8, 10)
    assert torch.equal(ahead[..., :5], ahead2[..., :5])
    assert (ahead[..., 5:] != ahead2[..., 5:]).any(1).all()
    assert torch.equal(back[..., 6:], back2[..., 6:])
    assert (back[..., :6] != back2[..., :6]).any(1).all()


def test_none_removes_both_lstms_and_keeps_their_convolutions() -> None:
    without = build_detector(parse_spec({**SMALL, "model": {**SMALL["model"], "aggregator": {"name": "none"}}}))
    whole = build_detector(parse_spec(SMALL))
    names, kept = set(whole.state_dict()), set(without.state_dict())
    assert {n.split(".")[1] for n in names - kept} == {"aggregator"}
    assert not kept - names
    assert {"features.ahead.0.weight", "features.back.0.weight"} <= kept
    x = torch.randn(2, 3, 4)
    assert all(torch.equal(branch, x) for branch in Direct()(x))
    features, anchors = inputs(2, 5)
    assert without(features, anchors).boundary.shape == (2, 2, 32)


def test_feature_module_matches_a_plain_reading() -> None:
    """METHOD 2 again, from torch.nn.functional alone; the branches stand in the order forward, direct, backward."""
    torch.manual_seed(0)
    module = FeatureModule(channels=8, width=16, groups=2, norm_groups=4, aggregator=Recurrent(16, nn.LSTM)).eval()
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.5)
    state = module.state_dict()

    def layer(x: Tensor, name: str) -> Tensor:
        kernel = state[f"{name}.0.weight"]
        y = torch.nn.functional.conv1d(x, kernel, padding=kernel.shape[-1] // 2, groups=2)
        return torch.nn.functional.group_norm(y, 4, state[f"{name}.1.weight"], state[f"{name}.1.bias"]).relu()

    def recur(x: Tensor, name: str) -> Tensor:
        w, u = state[f"aggregator.{name}.weight_ih_l0"], state[f"aggregator.{name}.weight_hh_l0"]
        bias = state[f"aggregator.{name}.bias_ih_l0"] + state[f"aggregator.{name}.bias_hh_l0"]
        h = c = torch.zeros(len(x), 16)
        out = []
        for t in range(x.shape[-1]):
            i, f, g, o = (x[..., t] @ w.t() + h @ u.t() + bias).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            out.append(h)
        return torch.stack(out, -1)

    features = torch.randn(2, 8, 12)
    with torch.no_grad():
        x = layer(features, "project")
        ahead = layer(recur(x, "forward_lstm"), "ahead")
        back = layer(recur(x.flip(-1), "backward_lstm").flip(-1), "back")
        want = layer(torch.cat((ahead, layer(x, "direct"), back), 1), "merge")
        torch.testing.assert_close(module(features), want, rtol=0, atol=1e-5)


def test_boundary_head_is_two_convolutions_and_a_sigmoid() -> None:
    torch.manual_seed(0)
    head = BoundaryHead(width=8, groups=2)
    x = torch.randn(2, 8, 6)
    with torch.no_grad():
        hidden = torch.nn.functional.conv1d(x, head[0].weight, head[0].bias, padding=1, groups=2).relu()
        want = torch.nn.functional.conv1d(hidden, head[2].weight, head[2].bias).sigmoid()
        torch.testing.assert_close(head(x), want)


def test_without_a_class_head_the_weights_are_those_of_before_there_was_one(small: Detector) -> None:
    state = small.state_dict()
    for name, first in (
        ("features.project.0.weight", [0.12393185496330261, 0.2022985816001892, 0.21069525182247162]),
        ("stages.2.end.6.weight", [-0.31615322828292847, 0.09332882612943649, 0.6754580736160278]),
        ("stages.2.roi_weight", [0.03835268318653107, -0.13153457641601562, 0.16848358511924744]),
    ):
        assert state[name].flatten()[:3].tolist() == first, name  # drawn from seed 0, to the bit


def headed(classes: int = 5) -> Detector:
    return build_detector(parse_spec({**SMALL, "model": {**SMALL["model"], "class_head": {"classes": classes}}})).eval()


def test_a_class_head_adds_to_the_last_stage_and_changes_nothing_else(small: Detector) -> None:
    made = headed()
    more = made.state_dict().keys() - small.state_dict().keys()
    assert {name.rpartition(".")[0].rpartition(".")[0] for name in more} == {"stages.2.classes"}
    made.load_state_dict(small.state_dict(), strict=False)
    features, anchors = inputs(2, 9)
    with torch.no_grad():
        ours, plain = made(features, anchors), small(features, anchors)
    assert torch.equal(ours.boundary, plain.boundary)
    for a, b in zip(ours.stages, plain.stages, strict=True):
        assert torch.equal(a.iou, b.iou)
        assert torch.equal(a.offsets, b.offsets)
    assert plain.classes() is None
    assert [s.classes is not None for s in ours.stages] == [False, False, True]


@pytest.mark.parametrize(
    ("start", "end"),
    [(0.0, 1.0), (0.25, 0.5), (0.3, 0.6), (0.31, 0.34), (-0.5, 0.4), (0.7, 1.8), (1.2, 1.5), (0.5, 0.5)],
)
def test_an_anchors_mean_is_a_loop_over_columns(start: float, end: float) -> None:
    features = torch.rand(1, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total, covered = torch.zeros(2, dtype=torch.float64), 0.0
    for column in range(8):
        part = max(0.0, min(end * 8, column + 1) - max(start * 8, column))
        total, covered = total + part * features[0, :, column], covered + part
    got = anchor_means(features, torch.tensor([[[start, end]]], dtype=torch.float64))
    torch.testing.assert_close(got[0, 0], total / max(covered, 1.0))


def test_a_lost_anchor_has_a_finite_mean() -> None:
    lost = torch.tensor([[[math.nan, 0.5], [-math.inf, math.inf]]])
    assert anchor_means(torch.rand(1, 2, 8), lost).isfinite().all()


def test_class_probabilities_leave_the_background_out() -> None:
    features, anchors = inputs(2, 9)
    with torch.no_grad():
        out = headed(5)(features, anchors)
    logits, classes = out.stages[-1].classes, out.classes()
    assert classes.shape == (2, 9, 5)
    exp = logits.double().exp()
    torch.testing.assert_close(classes.double(), exp[..., :5] / exp.sum(-1, keepdim=True), rtol=1e-5, atol=1e-7)


def test_a_class_head_has_no_place_in_the_released_format() -> None:
    with pytest.raises(ValueError, match="class head"):
        to_released(headed().state_dict())
    deeper = {"features.aggregator.layers.0.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"features\.aggregator\.layers\.0\.weight"):
        to_released(deeper)


def test_stage_takes_no_anchors_at_all() -> None:
    stage = Stage(width=8, groups=2, roi_width=6, head_width=4, bins=4, extend=0.5)
    stage.reset_roi()
    out = stage(torch.randn(2, 8, 10), torch.zeros(2, 0, 2), torch.randn(2, 3, 10))
    assert out.iou.shape == (2, 0, 2)
    assert out.offsets.shape == (2, 0, 6)


AGGREGATORS_SEEN = {  # columns before and after its own that each context may depend on; None: all there are
    "none": ((0, 0), (0, 0)),
    "lstm": ((None, 0), (0, None)),
    "lstm-forward": ((None, 0), (0, 0)),
    "gru": ((None, 0), (0, None)),
    "dilated": ((31, 31), (31, 31)),
    "attention": ((None, None), (None, None)),
}


@pytest.mark.parametrize("name", AGGREGATORS_SEEN)
def test_an_aggregator_sees_the_columns_that_it_says(name: str) -> None:
    AGGREGATORS.import_from_location()
    assert set(AGGREGATORS.module_dict) == set(AGGREGATORS_SEEN)
    torch.manual_seed(0)
    T, at = 80, 40
    module = AGGREGATORS.get(name)(16).eval()
    x = torch.randn(2, 16, T, requires_grad=True)
    contexts = module(x)
    alone = module(x[1:])
    for context, single, (before, after) in zip(contexts, alone, AGGREGATORS_SEEN[name], strict=True):
        assert context.shape == (2, 16, T)
        torch.testing.assert_close(context[1:], single)
        (gradient,) = torch.autograd.grad(context[0, :, at].square().sum(), x, retain_graph=True)
        assert not gradient[1].any()
        seen = gradient[0].abs().sum(0).nonzero().flatten()
        first = 0 if before is None else at - before
        last = T - 1 if after is None else at + after
        assert first <= int(seen.min()) <= (first if before is not None else at - 5)
        assert (last if after is not None else at + 5) <= int(seen.max()) <= last


def test_attention_knows_the_order_of_columns() -> None:
    torch.manual_seed(0)
    module = AGGREGATORS.get("attention")(16).eval()
    x = torch.randn(1, 16, 12)
    order = torch.randperm(12)
    assert not torch.allclose(module(x[:, :, order])[0], module(x)[0][:, :, order], atol=1e-3)
