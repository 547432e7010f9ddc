"""The engine's step with an encoder before the detector: exact, sampled, resumed, in several processes."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import Tensor

from etad import build, engine
from etad.data.samples import Samples
from etad.end_to_end import EncodedRows, EndToEndModel
from etad.inference import predict
from etad.spec import Spec, SpecError, read_spec

SMALL = [
    "data.tscale=8",
    "data.channels=16",
    "data.source.args={train_videos: 4, test_videos: 2, classes: 2}",
    "encoder.network={name: r2plus1d-small, args: {planes: [8, 8, 8, 16]}}",
    "encoder.frozen_stages=0",
    "encoder.lr=1e-3",
    "encoder.chunk=3",
    "encoder.ratio=1.0",
    "training.batch=2",
    "training.epochs=2",
    "runtime.threads=1",
    "runtime.device=cpu",
]


def small(*overrides: str) -> Spec:
    return read_spec(ROOT / "experiments" / "specs" / "smoke.yaml", [*SMALL, *overrides])


class MadeUp:
    """Six videos of noise and their segments, in the layout of TrainingRows."""

    ids = tuple(f"video{n}" for n in range(6))

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.frames = torch.randint(0, 256, (6, 8, 3, 4, 16, 16), dtype=torch.uint8, generator=generator)
        self.segments = torch.rand(6, 2, 2, generator=generator).sort(-1).values

    def __len__(self) -> int:
        return 6

    def __getitems__(self, keys: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
        row = torch.tensor([key[2] for key in keys])
        return {
            "frames": self.frames[row],
            "segments": self.segments[row],
            "labels": torch.zeros(len(row), 2, dtype=torch.int64),
            "present": torch.ones(len(row), 2, dtype=torch.bool),
            "row": row,
            "epoch": keys[0][0],
            "iteration": keys[0][1],
        }


def made(spec: Spec) -> tuple[EndToEndModel, torch.optim.Optimizer]:
    model = build.build_training(spec, build.build_detector(spec), MadeUp.ids)
    assert isinstance(model, EndToEndModel)
    return model, build.build_optimizer(spec, model)


def train(spec: Spec, folder: Path, **options: Any) -> tuple[EndToEndModel, torch.optim.Optimizer]:
    model, optimizer = made(spec)
    training = spec.training
    engine.train(
        model,
        MadeUp(),  # type: ignore[arg-type]
        folder,
        optimizer=optimizer,
        epochs=training.epochs,
        decay_epochs=training.decay_epochs,
        batch=training.batch,
        clip_norm=training.clip_norm,
        dtype=build.DTYPES[training.precision],
        seed=training.seed,
        device=torch.device("cpu"),
        log_every=1,
        **options,
    )
    return model, optimizer


ONE = ("training.epochs=1", "training.batch=6")  # one step


def gradients(model: EndToEndModel, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The gradients of the one step taken, by name: AdamW keeps a tenth of them."""
    named = {id(p): name for name, p in model.named_parameters()}
    return {named[id(p)]: 10 * state["exp_avg"] for p, state in optimizer.state.items()}


def by_hand(spec: Spec) -> dict[str, Tensor]:
    """Full backpropagation through encoder and detector as one graph."""
    model, _ = made(spec)
    batch = MadeUp().__getitems__([(0, 0, r) for r in range(6)])
    order = next(iter(engine.EpochBatches(6, batch=6, seed=spec.training.seed)))
    batch = MadeUp().__getitems__(order)
    encoder = model.encoder
    clips = (batch["frames"].flatten(0, 1).float() - encoder.mean) / encoder.std
    features = encoder.network(clips).view(6, 8, 16)
    model.losses({**batch, "features": features})["loss"].backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_a_step_with_every_snippet_is_full_backpropagation(tmp_path: Path) -> None:
    spec = small(*ONE)
    got, wanted = gradients(*train(spec, tmp_path)), by_hand(spec)
    assert got.keys() == wanted.keys()
    assert any(name.startswith("encoder.network.layer1") for name in got)
    assert not any(name.startswith("encoder.network.stem") for name in got)
    for name, gradient in got.items():
        assert float((gradient - wanted[name]).abs().max()) <= 1e-5 * float(wanted[name].abs().max()) + 1e-9, name


def test_each_learns_at_its_own_rate(tmp_path: Path) -> None:
    """AdamW's first step moves a weight by the learning rate where its gradient is not tiny."""
    spec = small(*ONE, "training.lr=1e-2", "encoder.lr=1e-4", "training.weight_decay=0.0")
    before, _ = made(spec)
    after, _ = train(spec, tmp_path)
    old = before.state_dict()
    moved = {n: float((value - old[n]).abs().max()) for n, value in after.state_dict().items()}
    rates = {"detector": 1e-2, "encoder": 1e-4}
    for part, rate in rates.items():
        own = {n: most for n, most in moved.items() if n.startswith(part)}
        assert max(own.values()) == pytest.approx(rate, rel=0.05)
    for name, most in moved.items():
        if name.startswith("encoder"):
            trained = "layer" in name and name.endswith(("0.0.weight", "0.3.weight", "downsample.0.weight"))
            assert (most > 0) == trained, name


def test_a_ratio_of_zero_leaves_the_encoder_as_it_is(tmp_path: Path) -> None:
    spec = small("encoder.ratio=0.0")
    before, after = (model.state_dict() for model in (made(spec)[0], train(spec, tmp_path)[0]))
    moved = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {"detector", "drawn"}


def test_fewer_snippets_are_the_picked_ones_gradient(tmp_path: Path) -> None:
    """The released order of steps: the detector's gradient is whole, the encoder's that of the picked snippets."""
    spec = small(*ONE, "encoder.ratio=0.5", "encoder.sampler.name=block", "encoder.weighted=true")
    got, whole = gradients(*train(spec, tmp_path)), by_hand(small(*ONE))
    names = [n for n in got if n.startswith("detector.")]
    assert all(float((got[n] - whole[n]).abs().max()) <= 1e-5 * float(whole[n].abs().max()) + 1e-9 for n in names)
    model, _ = made(spec)
    batch = MadeUp().__getitems__(next(iter(engine.EpochBatches(6, batch=6, seed=0))))
    features = model.encoder(batch["frames"]).requires_grad_()
    kept = torch.autograd.grad(model.losses({**batch, "features": features})["loss"], features)[0]
    picks = model.draw(features, batch)
    assert picks.index.shape == (6, 4)
    for v in range(6):
        for t, p in zip(picks.index[v].tolist(), picks.probability[v].tolist(), strict=True):
            model.encoder.encode(batch["frames"][v : v + 1, t : t + 1]).backward(kept[v, t].view(1, 1, -1) / p)
    for name, parameter in model.encoder.named_parameters(prefix="encoder"):
        if parameter.requires_grad:
            wanted = parameter.grad
            assert float((got[name] - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max()) + 1e-9, name


def test_each_step_is_clipped_by_itself(tmp_path: Path) -> None:
    plain = gradients(*train(small(*ONE), tmp_path / "plain"))

    def norm(found: dict[str, Tensor], part: str) -> float:
        return float(torch.cat([g.flatten() for n, g in found.items() if n.startswith(part)]).norm())

    limit = min(norm(plain, "encoder"), norm(plain, "detector")) / 2
    clipped = gradients(*train(small(*ONE, f"training.clip_norm={limit}"), tmp_path / "clipped"))
    for part in ("encoder", "detector"):
        assert norm(clipped, part) == pytest.approx(limit, rel=1e-3)


def test_mixed_precision(tmp_path: Path) -> None:
    plain = gradients(*train(small(*ONE), tmp_path / "plain"))
    lower = gradients(*train(small(*ONE, "training.precision=bfloat16"), tmp_path / "lower"))
    for part in ("encoder", "detector"):
        a, b = (torch.cat([g.flatten() for n, g in f.items() if n.startswith(part)]) for f in (plain, lower))
        assert 0.8 < torch.cosine_similarity(a, b, dim=0) < 1 - 1e-7, part


class Stop(Exception):
    pass


def test_interrupted_and_resumed_is_the_uninterrupted_run(tmp_path: Path) -> None:
    """Inside an epoch, too: the draws are functions of (seed, epoch, video)."""
    spec = small("encoder.ratio=0.4", "encoder.sampler.name=feature-guided")
    options = {"checkpoint_every": 2}
    train(spec, tmp_path / "whole", **options)

    def stop(step: int, *_: Any) -> None:
        if step == 5:  # the checkpoint is of step 4, inside the second epoch of three
            raise Stop

    with pytest.raises(Stop):
        train(spec, tmp_path / "cut", progress=stop, **options)
    train(spec, tmp_path / "cut", **options)
    one, two = (torch.load(tmp_path / f / "latest.pth", weights_only=True) for f in ("whole", "cut"))
    assert one["meta"]["iter"] == two["meta"]["iter"] == 6
    for name, value in one["state_dict"].items():
        assert torch.equal(value, two["state_dict"][name]), name
    assert (tmp_path / "whole" / "losses.csv").read_text() == (tmp_path / "cut" / "losses.csv").read_text()


PROCESS = """
import sys
from pathlib import Path
sys.path[:0] = ["tests"]
import test_end_to_end as t
from etad.processes import end_process
t.train(t.small(*t.ONE, *sys.argv[2:]), Path(sys.argv[1]))
end_process()
"""


def test_two_processes_take_the_step_of_one(tmp_path: Path) -> None:
    options = ("encoder.ratio=0.5", "encoder.sampler.name=label-guided", "encoder.weighted=true")
    model, optimizer = train(small(*ONE, *options), tmp_path / "one")
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(script), str(tmp_path / "two"), *options]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, env={**os.environ, "PYTHONPATH": "."}
    )
    assert done.returncode == 0, done.stderr
    two = torch.load(tmp_path / "two" / "latest.pth", weights_only=True)
    groups = [p for group in optimizer.param_groups for p in group["params"]]
    names = {id(p): n for n, p in model.named_parameters()}
    settled = {}  # AdamW steps by a gradient's sign: where that is rounding, so is the step
    for index, state in two["optimizer"]["state"].items():
        own = optimizer.state[groups[index]]["exp_avg"]
        settled[names[id(groups[index])]] = (own == 0) | (own.abs() > 1e-6 * own.abs().max())
        torch.testing.assert_close(state["exp_avg"], own, rtol=1e-4, atol=1e-6 * float(own.abs().max()))
    assert {name.split(".")[0] for name in settled} == {"encoder", "detector"}
    assert torch.cat([where.flatten() for where in settled.values()]).double().mean() > 0.999
    for name, weight in model.state_dict().items():
        where = settled.get(name, torch.ones_like(weight, dtype=torch.bool))
        torch.testing.assert_close(two["state_dict"][name][where], weight[where], rtol=1e-5, atol=1e-5)


def test_detection_reads_frames_through_the_encoder() -> None:
    spec, frames = small(), MadeUp().frames.numpy()
    model, _ = made(spec)
    with torch.no_grad():
        whole = model.encoder(torch.from_numpy(frames)).numpy()
    rows = EncodedRows(frames, model.encoder, dtype=torch.float32, device=torch.device("cpu"))
    span_s = np.tile([0.0, 10.0], (6, 1))
    anchors = build.build_test_anchors(spec)
    options: Any = {"top_classes": 2, "dtype": torch.float32, "device": torch.device("cpu")}
    found = [
        list(predict(model.detector, Samples(MadeUp.ids, span_s, features), anchors, **options))  # type: ignore[arg-type]
        for features in (whole, rows)
    ]
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a.segments, b.segments, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(a.scores, b.scores, rtol=1e-4, atol=1e-6)


def test_every_parameter_with_gradient_is_in_exactly_one_group() -> None:
    model, optimizer = made(small())
    detector, encoder = ([id(p) for p in group["params"]] for group in optimizer.param_groups)
    assert set(detector) == {id(p) for p in model.detector.parameters()}
    assert set(encoder) == {id(p) for p in model.encoder.parameters() if p.requires_grad}
    assert len(detector) + len(encoder) == len({*detector, *encoder})
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-3]
    _, optimizer = made(small("encoder.ratio=0.0", "encoder.frozen_stages=4"))
    assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match="nothing of the encoder is left to train"):
        made(small("encoder.frozen_stages=4"))


def test_the_encoder_starts_from_its_checkpoint(tmp_path: Path) -> None:
    model, _ = made(small("training.seed=5"))
    torch.save({"state_dict": model.state_dict(), "meta": {}}, tmp_path / "w.pth")
    again, _ = made(small(f"encoder.checkpoint={tmp_path / 'w.pth'}"))
    for name, value in again.encoder.state_dict().items():
        assert torch.equal(value, model.encoder.state_dict()[name])
    with pytest.raises(ValueError, match=r"none\.pth"):
        made(small(f"encoder.checkpoint={tmp_path / 'none.pth'}"))
    with pytest.raises(SpecError, match="encoder is null"):
        build.build_encoder(small("encoder=null"))
