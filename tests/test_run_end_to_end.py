"""Runs that train an encoder on video files: their records, a kill inside an epoch, the main job on one's own videos."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from clips import noise, write_clip, write_truth
from conftest import ROOT
from test_engine import KILLED, assert_same_run, checkpoint

from etad import build
from etad.record import Figure, read_record
from etad.spec import Spec, SpecError, read_spec
from experiments import reproduce
from experiments.run import run_spec

SMOKE = ROOT / "experiments" / "specs" / "end_to_end_smoke.yaml"


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


def options(videos: Path, *overrides: str) -> list[str]:
    fixed = ["runtime.threads=1", "runtime.device=cpu", "runtime.checkpoint_every=2", "encoder.sampler.name=block"]
    return [f"data.source.args.folder={videos}", *fixed, *overrides]


def small(videos: Path, *overrides: str) -> Spec:
    return read_spec(SMOKE, options(videos, *overrides))


@pytest.fixture(scope="module")
def whole(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run: three steps an epoch, two epochs."""
    folder = tmp_path_factory.mktemp("whole")
    run_spec(small(videos), folder)
    return folder


def test_the_record_says_what_trained_the_encoder_and_what_a_step_costs(whole: Path, videos: Path) -> None:
    record = read_record(whole)
    assert record.status == "done"
    assert record.details["snippets_a_video"] == {"training": 5, "of": 16}
    figures = {f.name: f for f in record.figures}
    spec = small(videos)
    model = build.build_training(spec, build.build_detector(spec), ())
    assert figures["parameters"].value == sum(p.numel() for p in model.parameters())
    assert figures["peak_memory"].evidence == "traced"
    assert "16 x 3 x 4 x 32 x 32, batch 4" in figures["peak_memory"].note
    assert figures["flops"].value > 0
    held = checkpoint(whole)["state_dict"]
    start = model.state_dict()
    moved = {name for name, value in held.items() if name in start and not torch.equal(value, start[name])}
    assert any(name.startswith("encoder.network.layer4") for name in moved)
    assert not any(name.startswith("encoder.network.stem") for name in moved)


def test_killed_inside_an_epoch_and_resumed_is_the_uninterrupted_run(whole: Path, videos: Path, tmp_path: Path) -> None:
    sets = [part for pair in options(videos) for part in ("--set", pair)]
    command = [sys.executable, "-c", KILLED, "iteration", "5", "--spec", str(SMOKE), "--out", str(tmp_path), *sets]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert checkpoint(tmp_path)["meta"]["iter"] == 4  # the second epoch's first step is behind it
    run_spec(small(videos), tmp_path)
    assert_same_run(whole, tmp_path)


def test_loading_processes_change_nothing(whole: Path, videos: Path, tmp_path: Path) -> None:
    run_spec(small(videos, "runtime.workers=2"), tmp_path)
    assert_same_run(whole, tmp_path)


def test_frames_and_encoder_belong_together(videos: Path) -> None:
    spec = small(videos, "encoder=null")
    with pytest.raises(SpecError, match="the data are frames: name an encoder"):
        build.build_rows(spec, build.build_corpus(spec))
    spec = read_spec(ROOT / "experiments" / "specs" / "smoke.yaml", ["encoder={network: {name: r2plus1d-small}}"])
    with pytest.raises(SpecError, match="the data are features already"):
        build.build_rows(spec, build.build_corpus(spec))


# --- the main job


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's directory of six videos; nothing is measured at the paper's size."""
    monkeypatch.chdir(tmp_path)
    figure = Figure(name="paper_peak_memory_float32", value=1.0, unit="B", evidence="traced")
    monkeypatch.setattr(reproduce, "paper_end_to_end", lambda *_, **__: [figure])
    durations = {f"id{n}": 2.4 for n in range(6)}
    (tmp_path / "videos").mkdir()
    for n, id in enumerate(durations):
        write_clip(tmp_path / "videos" / f"v_{id}.mp4", noise(24, 40, 48, n))
    write_truth(tmp_path / "truth.json", durations, validation=("id4", "id5"))
    return tmp_path


OWN = ["--end-to-end", "--videos", "videos", "--annotations", "truth.json"]


def test_a_users_own_videos(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.run([*OWN, "--preset", "smoke", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["data"]["mark"] == "anet"
    assert result["data"]["videos"] == {"training": 4, "validation": 2}
    assert result["details"]["snippets_a_video"] == {"training": 5, "of": 16}
    assert result["folder"].startswith("runs/anet-end_to_end_smoke-")
    assert (own / "site" / "index.html").exists()


def test_the_laptop_starts_from_an_encoder_trained_before(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    smaller = ["data.tscale=8", "data.video={frames: 4, short_side: 32, size: 32}", "training.epochs=1"]
    sets = [part for pair in (*smaller, "training.decay_epochs=[1]") for part in ("--set", pair)]
    assert reproduce.run([*OWN, "--preset", "laptop", "--json", *sets]) == 0
    said = capsys.readouterr()
    assert "an encoder to start from: prepared/encoder-anet.pth" in said.err
    assert (own / "prepared" / "encoder-anet.pth").exists()
    assert json.loads(said.out)["status"] == "done"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--videos", "videos"], "go with --end-to-end"),
        (["--end-to-end", "--videos", "videos", "--preset", "smoke"], "--videos needs --annotations"),
        (["--end-to-end", "--features", "feats"], "not with --features"),
        (["--end-to-end", "--annotations", "truth.json"], "go with --videos DIR"),
        (OWN, "the paper's encoder needs --videos DIR and --checkpoint FILE"),
    ],
)
def test_options_that_do_not_go_together(
    args: list[str], words: str, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code: Any = reproduce.run(args)
    assert code == 2
    assert words in capsys.readouterr().err
