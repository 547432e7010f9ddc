"""Training end to end: kills and resumptions, workers, processes, checkpoints, failures."""

import json
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT

from etad import build, engine, measure, weights
from etad.matches import mean_average_precision, read_matches
from etad.record import read_record
from etad.spec import Spec, read_spec
from experiments.run import run_spec

SMOKE = ROOT / "experiments" / "specs" / "smoke.yaml"
SMALL = [
    "data.source.args={train_videos: 24, test_videos: 4, classes: 3}",
    "data.tscale=16",
    "training.batch=4",
    "runtime.threads=1",
    "runtime.checkpoint_every=3",
    "runtime.device=cpu",
]


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def small(*overrides: str) -> Spec:
    return read_spec(SMOKE, [*SMALL, *overrides])


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "latest.pth", weights_only=True)  # type: ignore[no-any-return]


def assert_same_run(a: Path, b: Path) -> None:
    """The same weights bit for bit, the same losses, the same detections."""
    one, two = checkpoint(a)["state_dict"], checkpoint(b)["state_dict"]
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name
    for file in ("losses.csv", "detections.json"):
        assert (a / file).read_text() == (b / file).read_text(), file


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    run_spec(small(), folder)
    return folder


def test_a_run_leaves_what_its_record_promises_and_nothing_else(whole: Path) -> None:
    promised = "spec.yaml record.json losses.csv timings.csv detections.json matches.npz examples.json log.txt"
    assert {path.name for path in whole.iterdir()} - {".lock"} == {*promised.split(), "latest.pth", "trained.json"}
    log = (whole / "log.txt").read_text()
    for said in ("start: python -m experiments.run", "epoch 1 of 2: ", "epoch 2 of 2: ", "average_mAP: "):
        assert said in log
    record = read_record(whole)
    assert record.status == "done"
    judged = mean_average_precision(read_matches(whole / "matches.npz"))
    assert 100 * judged.mean() == pytest.approx(record.figure("average_mAP").value, abs=1e-9)  # type: ignore[union-attr]
    assert record.details["anchors_a_video"]["training"] == int(0.06 * 16 * 17 / 2)
    spec = small()
    steps = len(build.build_rows(spec, build.build_corpus(spec))) // 4
    rows = (whole / "losses.csv").read_text().splitlines()
    assert [int(row.split(",")[0]) for row in rows[1:]] == list(range(1, 2 * steps + 1))


# Runs the command of its arguments and kills itself, as kill -9 does, where the first argument says.
KILLED = """
import os, signal, sys
from pathlib import Path
from etad import hooks

where, count = sys.argv[1], int(sys.argv[2])
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
if where == "iteration":  # trained and logged, no checkpoint of it yet
    old = hooks.StepLog.after_train_iter
    def new(self, runner, *args, **kwargs):
        old(self, runner, *args, **kwargs)
        if runner.iter + 1 == count:
            kill()
    hooks.StepLog.after_train_iter = new
if where == "epoch":
    old = hooks.Checkpoints.after_train_epoch
    def new(self, runner):
        old(self, runner)
        if runner.epoch + 1 == count:
            kill()
    hooks.Checkpoints.after_train_epoch = new
if where == "save":  # half of the checkpoint is written
    old, saves = os.replace, []
    def new(part, path):
        if str(part).endswith("latest.pth.part"):
            saves.append(1)
            if len(saves) == count:
                os.truncate(part, os.path.getsize(part) // 2)
                kill()
        old(part, path)
    os.replace = new
from experiments.run import run
run(sys.argv[3:])
"""


def options(*overrides: str) -> list[str]:
    return [part for pair in (*SMALL, *overrides) for part in ("--set", pair)]


@pytest.mark.parametrize(
    ("where", "count", "left"),
    [("iteration", 5, 3), ("epoch", 1, 6), ("save", 2, 3)],
)
def test_killed_and_resumed_is_the_uninterrupted_run(
    where: str, count: int, left: int, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-c", KILLED, where, str(count), "--spec", str(SMOKE), "--out", str(folder), *options()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (folder / "record.json").exists()
    assert checkpoint(folder)["meta"]["iter"] == left
    assert (folder / "latest.pth.part").exists() == (where == "save")
    run_spec(small(), folder)
    assert_same_run(whole, folder)
    assert not (folder / "latest.pth.part").exists()
    assert "going on from" in (folder / "log.txt").read_text()


def test_killed_after_training_only_detects_again(whole: Path, tmp_path: Path) -> None:
    for name in ("spec.yaml", "latest.pth", "losses.csv", "timings.csv"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    record = run_spec(small(), tmp_path)
    assert_same_run(whole, tmp_path)
    assert record.details == read_record(whole).details
    assert "epoch" not in (tmp_path / "log.txt").read_text()


def test_loading_processes_change_nothing(whole: Path, tmp_path: Path) -> None:
    run_spec(small("runtime.workers=2"), tmp_path)
    assert_same_run(whole, tmp_path)


@pytest.mark.parametrize("head", ["null", "{classes: 3}"])
def test_two_processes_of_four_take_the_step_of_one_of_eight(head: str, tmp_path: Path) -> None:
    one_step = [
        "training.batch=8",
        f"model.class_head={head}",
        "training.epochs=1",
        "data.source.args={train_videos: 15, test_videos: 2, classes: 3}",
    ]
    run_spec(small(*one_step), tmp_path / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "experiments.run", "--spec", str(SMOKE), "--out", str(tmp_path / "two"), "--json"]
    done = subprocess.run([*command, *options(*one_step)], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "done"  # one object: the second process says nothing
    one, two = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two")
    assert one["meta"]["iter"] == two["meta"]["iter"] == 1
    for name, state in one["optimizer"]["state"].items():  # after one step, a tenth of the gradient
        torch.testing.assert_close(
            two["optimizer"]["state"][name]["exp_avg"],
            state["exp_avg"],
            rtol=1e-4,
            atol=1e-6 * state["exp_avg"].abs().max(),
        )
    for name, weight in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], weight, rtol=1e-5, atol=1e-5)
    losses = [np.loadtxt(tmp_path / run / "losses.csv", delimiter=",", skiprows=1) for run in ("one", "two")]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


BROKEN = """
from dataclasses import replace
from pathlib import Path
from etad.data.synthetic import synthetic

def corpus(spec, *, flag):
    made = synthetic(spec, train_videos=24, test_videos=4, classes=3)
    if Path(flag).exists():
        rows = made.subsets["training"]
        features = rows.features.copy()
        features[3, 5, 1] = float("nan")
        made = replace(made, subsets={**made.subsets, "training": replace(rows, features=features)})
    return made
"""


def test_a_loss_that_is_not_finite_names_iteration_and_videos(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_set.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    flag, folder = tmp_path / "broken", tmp_path / "run"
    flag.touch()
    spec = small()
    spec = spec.model_copy(
        update={
            "data": spec.data.model_copy(
                update={
                    "source": spec.data.source.model_copy(
                        update={"name": "broken_set:corpus", "args": {"flag": str(flag)}}
                    )
                }
            )
        }
    )
    video = build.build_corpus(spec).subsets["training"].ids[3]
    with pytest.raises(engine.TrainingError, match=rf"not finite at iteration \d+ \(videos .*{video}.*\)") as raised:
        run_spec(spec, folder)
    named = str(raised.value).split("videos ")[1].split(")")[0].split(", ")
    assert len(named) == 4
    record = read_record(folder)
    assert (record.status, record.error) == ("failed", f"TrainingError: {raised.value}")
    assert "failed: TrainingError" in (folder / "log.txt").read_text()
    flag.unlink()
    assert run_spec(spec, folder).status == "done"
    assert_same_run(whole, folder)


@pytest.mark.parametrize("logger", ["tensorboard", "wandb"])
def test_a_logger_writes_its_file_or_says_what_to_install(
    tmp_path: Path, logger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    spec = small("training.epochs=1", "training.decay_epochs=[]", f"runtime.loggers=[{logger}]")
    if find_spec(logger) is None:
        with pytest.raises(ValueError, match=f"runtime.loggers: {logger} not installed; pip install {logger}"):
            run_spec(spec, tmp_path / "run")
        return
    run_spec(spec, tmp_path / "run")
    pattern = {"tensorboard": "events.out.tfevents.*", "wandb": "*.wandb"}[logger]
    assert len([*tmp_path.rglob(pattern)]) == 1


def test_a_checkpoint_holds_tensors_and_plain_values(whole: Path) -> None:
    with torch.serialization.safe_globals([]):
        held = checkpoint(whole)

    def walk(value: Any, path: str = "") -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                assert type(key) in (str, int), path
                walk(inner, f"{path}.{key}")
        elif isinstance(value, (list, tuple)):
            for n, inner in enumerate(value):
                walk(inner, f"{path}[{n}]")
        else:
            assert isinstance(value, torch.Tensor) or type(value) in (str, int, float, bool, type(None)), path

    walk(held)
    detector = build.build_detector(small("training.seed=5"))
    meta = weights.load_weights(detector, whole / "latest.pth")
    assert meta["mark"] == "synthetic-1"
    for name, weight in detector.state_dict().items():
        assert torch.equal(weight, held["state_dict"][f"detector.{name}"])


class Payload:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_bad_checkpoint_is_one_clear_error_and_runs_no_code(whole: Path, tmp_path: Path) -> None:
    ran, run = tmp_path / "ran", tmp_path / "run"
    run.mkdir()
    path, good = run / "latest.pth", (whole / "latest.pth").read_bytes()
    wider = build.build_detector(small("model.roi_width=32"))

    def refused(words: str) -> None:
        for attempt in (
            lambda: weights.load_weights(build.build_detector(small()), path),
            lambda: run_spec(small(), run),
        ):
            with pytest.raises(ValueError, match=words) as raised:
                attempt()
            assert str(path) in str(raised.value)
            assert "\n" not in str(raised.value)

    torch.save({"state_dict": {"detector.x": Payload(ran)}, "meta": {}}, path)
    refused("not a safe checkpoint")
    path.write_bytes(pickle.dumps(Payload(ran)))
    refused("not a safe checkpoint")
    assert not ran.exists()
    for cut in (0, 100, len(good) // 2, len(good) - 10):
        path.write_bytes(good[:cut])
        refused("not a whole checkpoint|not a safe checkpoint")
    torch.save({"weights": {}}, path)
    refused("no state_dict or no meta")
    with pytest.raises(ValueError, match="not a checkpoint of this detector"):
        weights.load_weights(wider, whole / "latest.pth")
    with pytest.raises(ValueError, match=r"nowhere\.pth: not a whole checkpoint"):
        weights.load_weights(wider, tmp_path / "nowhere.pth")


def stepped(spec: Spec, folder: Path) -> tuple[engine.TrainingModel, torch.optim.Optimizer, set[torch.dtype]]:
    """Trained in this process: the model, its optimiser, and the types that its first layer gave."""
    rows = build.build_rows(spec, build.build_corpus(spec))
    model = build.build_training(spec, build.build_detector(spec), rows.ids)
    optimizer = build.build_optimizer(spec, model)
    types: set[torch.dtype] = set()
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv1d))
    first.register_forward_hook(lambda _, __, out: types.add(out.dtype))
    engine.train(
        model,
        rows,
        folder,
        optimizer=optimizer,
        epochs=1,
        decay_epochs=(1,),
        batch=len(rows),
        clip_norm=spec.training.clip_norm,
        dtype=build.DTYPES[spec.training.precision],
        seed=0,
        device=torch.device("cpu"),
    )
    return model, optimizer, types


def gradients(optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """All gradients of the one step that was taken: AdamW keeps a tenth of them."""
    return 10 * torch.cat([state["exp_avg"].flatten() for state in optimizer.state.values()])


def test_precision_and_gradient_clipping(tmp_path: Path) -> None:
    _, plain, types = stepped(small(), tmp_path / "plain")
    assert types == {torch.float32}
    model, lower, types = stepped(small("training.precision=bfloat16"), tmp_path / "lower")
    assert types == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    cosine = torch.cosine_similarity(gradients(plain), gradients(lower), dim=0)
    assert 0.98 < cosine < 1 - 1e-7
    norm = float(gradients(plain).norm())
    _, clipped, _ = stepped(small(f"training.clip_norm={norm / 4}"), tmp_path / "clipped")
    torch.testing.assert_close(gradients(clipped), gradients(plain) / 4, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("sampler", ["random", "feature-guided"])
def test_the_detector_is_given_anchors_in_the_maps_order(sampler: str) -> None:
    spec = small(f"proposals.sampler.name={sampler}")
    model, given = build.build_training(spec, build.build_detector(spec), ()), []
    model.detector.register_forward_pre_hook(lambda _, args: given.append(args[1]))
    model.losses(measure.made_up_batch(3, 16, spec.data.channels))
    number = {tuple(anchor): n for n, anchor in enumerate(model.anchors.tolist())}
    for anchors in given[0].tolist():
        numbers = [number[tuple(anchor)] for anchor in anchors]
        assert len(numbers) > 1
        assert numbers == sorted(set(numbers))


def test_every_parameter_is_in_exactly_one_group() -> None:
    model = build.build_training(small(), build.build_detector(small()), ())
    grouped = [id(p) for group in build.build_optimizer(small(), model).param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_the_rows_of_a_device_are_those_of_the_disk() -> None:
    spec = small()
    corpus = build.build_corpus(spec)
    disk, held = build.build_rows(spec, corpus), build.build_rows(spec, corpus).to(torch.device("cpu"))
    keys = [(0, 0, 3), (0, 0, 1)]
    a, b = disk.__getitems__(keys), held.__getitems__(keys)
    for name in ("features", "segments", "labels", "present", "row"):
        assert torch.equal(a[name], b[name])
