"""The main job, as a user types it: interrupted, gone on with, repeated; and on a user's own features."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT

from etad.data.annotations import read_annotations
from etad.data.windows import row_spans, segments_in_window
from etad.record import Figure, read_record
from experiments import prepare, reproduce

COMMAND = [sys.executable, "-m", "experiments.reproduce", "--preset", "smoke", "--set", "training.epochs=30"]


def start(cwd: Path, *args: str) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.Popen(
        [*COMMAND, *args], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """Ctrl-C in the middle of training: the current directory, the exit code, what was said."""
    cwd = tmp_path_factory.mktemp("cwd")
    process = start(cwd, "--json", "--out", "site")
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("training:") and int(line.split()[1].split("/")[0]) >= 24:
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=60)
    assert out == ""
    return cwd, process.returncode, "".join(said) + err


@pytest.fixture(scope="module")
def finished(interrupted: tuple[Path, int, str]) -> tuple[Path, dict[str, Any], str]:
    """The same command again: the current directory, its JSON, what was said."""
    process = start(interrupted[0], "--json", "--out", "site")
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    return interrupted[0], json.loads(out), err


def test_an_interruption_is_said_plainly(interrupted: tuple[Path, int, str]) -> None:
    cwd, code, said = interrupted
    assert code == 130
    assert "interrupted; run the same command to go on" in said
    assert "Traceback" not in said
    (folder,) = (cwd / "runs").glob("smoke-*")
    assert not (folder / "record.json").exists()
    (trained,) = (cwd / "runs" / "trained").iterdir()
    assert (trained / "latest.pth").exists()
    assert not (trained / "trained.json").exists()


def test_the_same_command_goes_on_and_ends_in_a_report(finished: tuple[Path, dict[str, Any], str]) -> None:
    cwd, result, said = finished
    assert "going on from" in said
    assert result["status"] == "done"
    figures = {figure["name"]: figure for figure in result["figures"]}
    marks = {
        "average_mAP": "measured",
        "training_time": "measured",
        "paper_peak_memory_float32": "traced",
        "paper_peak_memory_bfloat16": "traced",
        "paper_flops_video_float32": "traced",
        "paper_step_time_float32": "measured",
        "paper_schedule_projected_float32": "projected",
    }
    for name, mark in marks.items():
        assert (figures[name]["evidence"], figures[name]["value"] > 0) == (mark, True), name
    assert {"mAP@0.50", "mAP@0.95", "AR@100", "average_mAP_floor", "average_mAP_ceiling"} <= figures.keys()
    assert figures["average_mAP"]["data"] == result["data"]["mark"] == "synthetic-1"
    assert result["command"] == ("nox -s reproduce_anet -- --preset smoke --set training.epochs=30 --json --out site")
    assert result["pages"] == ["site/index.html", "site/index.md"]
    assert all((cwd / page).stat().st_size > 1000 for page in result["pages"])
    assert {path.name for path in cwd.iterdir()} == {"runs", "site"}
    record = read_record(cwd / result["folder"])
    assert json.loads(record.model_dump_json()).items() <= result.items()


def test_done_work_is_not_done_again(finished: tuple[Path, dict[str, Any], str]) -> None:
    cwd, result, _ = finished
    kept = {path: path.stat().st_mtime_ns for path in (cwd / result["folder"]).iterdir()}
    process = start(cwd, "--out", "again")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "is done already" in err
    assert "training:" not in err
    assert {path: path.stat().st_mtime_ns for path in (cwd / result["folder"]).iterdir()} == kept
    assert [line for line in out.splitlines() if line.startswith("report: ")] == [
        "report: again/index.html",
        "report: again/index.md",
    ]
    assert out.startswith(f"average mAP on synthetic-1: {result_value(result, 'average_mAP'):.2f} %")


def result_value(result: dict[str, Any], name: str) -> float:
    return next(float(figure["value"]) for figure in result["figures"] if figure["name"] == name)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's directory with features and annotations; nothing is measured at the paper's size."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "paper_figures", lambda *_: [Figure.model_validate(FIGURE)])
    generator = np.random.default_rng(0)
    (tmp_path / "feats").mkdir()
    database = {}
    for n in range(14):
        length = 20 + 3 * n
        features = generator.normal(size=(length, 32)).astype(np.float32)
        np.save(tmp_path / "feats" / f"v_id{n}.npy", features)
        label, start = ("jump", "run")[n % 2], 2.0 + n
        database[f"id{n}"] = {
            "duration": 2.0 * length,
            "subset": "training" if n < 10 else "validation",
            "annotations": [{"segment": [start, start + 15], "label": label}],
        }
    (tmp_path / "truth.json").write_text(json.dumps({"database": database}))
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


FIGURE = {"name": "paper_peak_memory_float32", "value": 1.0, "unit": "B", "evidence": "traced"}
OWN = ["--preset", "smoke", "--features", "feats", "--annotations", "truth.json", "--json"]


def test_a_users_own_features(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.run([*OWN, "--set", "training.batch=4", "--seed", "3"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["status"] == "done"
    assert result["data"]["videos"] == {"training": 10, "validation": 4}
    assert result["data"]["classes"] == 2
    assert result["folder"].startswith("runs/anet-smoke-")
    detections = json.loads((own / result["folder"] / "detections.json").read_text())["results"]
    assert set(detections) == {"id10", "id11", "id12", "id13"}
    assert all(0 <= s["segment"][0] < s["segment"][1] for rows in detections.values() for s in rows)
    assert "seed: 3" in (own / result["folder"] / "spec.yaml").read_text()


def test_videos_without_features(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "feats" / "v_id11.npy").unlink()
    assert reproduce.run([*OWN, "--set", "training.batch=4"]) == 1
    assert "1 of 14 videos have no features: id11" in capsys.readouterr().err
    assert reproduce.run([*OWN, "--set", "training.batch=4", "--missing", "skip"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["data"]["videos"] == {"training": 10, "validation": 3}
    assert result["data"]["flaws"]["without_features"] == 1


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--features", "feats"], 2, "--features needs --annotations"),
        (["--annotations", "truth.json"], 2, "go with --features DIR"),
        (["--preset", "huge"], 2, "--help"),
        ([*OWN, "--layout", "CT"], 1, "feats"),
        ([*OWN, "--pattern", "{id}.npz"], 1, "14 of 14 videos have no features"),
        ([*OWN, "--set", "data.channels=64"], 1, "data.channels"),
        ([*OWN, "--set", "training.epoch=2"], 1, "did you mean training.epochs?"),
    ],
)
def test_misuse_and_failures(
    args: list[str], code: int, words: str, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        found: Any = reproduce.run(args)
    except SystemExit as left:
        found = left.code
    said = capsys.readouterr()
    assert (found, said.out) == (code, "")
    assert words in said.err
    assert not list(own.glob("site/*"))


def test_the_thumos_protocol(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.run(["--benchmark", "thumos", "--preset", "smoke", "--seed", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["command"] == "nox -s reproduce_thumos -- --preset smoke --seed 1 --json"
    assert result["data"]["mark"] == "synthetic-1/thumos14"
    assert [f["name"] for f in result["figures"] if f["name"].startswith("mAP")][:5] == [
        f"mAP@0.{n}0" for n in (3, 4, 5, 6, 7)
    ]
    detections = json.loads((own / result["folder"] / "detections.json").read_text())["results"]
    most = max(map(len, detections.values()))
    assert 200 < most <= 400  # segments a video, each with its two best classes
    windows = json.loads((own / result["folder"] / "record.json").read_text())["details"]["anchors_a_video"]
    assert windows == {"training": 39, "testing": 392}  # a tenth of the anchors of up to half a window


def test_the_thumos_specs_differ_in_size_alone() -> None:
    full, laptop, smoke = (reproduce.BENCHMARKS["thumos"].spec(preset) for preset in ("paper", "laptop", "smoke"))
    assert full.data.windows is not None
    for small in (laptop, smoke):
        assert small.data.windows is not None
        length_s = small.data.tscale * small.data.windows.stride_s
        assert length_s == pytest.approx(full.data.tscale * full.data.windows.stride_s, rel=1e-3)
        assert small.evaluation == full.evaluation
        assert small.inference == full.inference
        assert small.proposals == full.proposals
    assert (full.training.optimizer, full.training.lr, full.training.epochs) == ("adam", 1e-4, 8)


def test_the_rows_of_thumos_full_schedule(shared: Path) -> None:
    spec = reproduce.BENCHMARKS["thumos"].spec("paper").data
    assert spec.windows is not None
    count = 0
    for video in read_annotations(shared / "data" / "thumos" / "thumos14.json").subset(spec.train_subset):
        t = round(video.duration_s / spec.windows.stride_s)
        for span in row_spans(t, video.duration_s, spec.tscale, spec.windows):
            inside, _ = segments_in_window(video.segments_s, span, spec.windows.min_inside)
            count += bool(len(inside)) and bool((inside[:, 1] - inside[:, 0]).max() >= spec.min_length)
    assert count == reproduce.BENCHMARKS["thumos"].rows


def test_thumos_from_packed_features_and_untrimmednets_scores(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the README has it, in small: windows whose stride fits each video, the version counted in the protocol."""
    rng = np.random.default_rng(0)
    (own / "i3d").mkdir()
    table = resources.files("etad.data") / "tables" / "untrimmednet_thumos14.json"
    database, labels = {}, [*json.loads(table.read_text())["columns"]]
    for n in range(10):
        id = f"video_{'test' if n > 5 else 'validation'}_{n:07d}"
        t, column_s = 70 + n, (0.53333, 0.6)[n % 2]  # two frame rates
        np.save(own / "i3d" / f"{id}.npy", rng.normal(size=(t, 32)).astype(np.float32))
        segments = [[5 * k + 2.0, 5 * k + 4.5] for k in range(6)]
        annotations = [{"segment": s, "label": labels[2 * n + k % 2]} for k, s in enumerate(segments)]
        database[id] = {"duration": t * column_s, "subset": id.split("_")[1], "annotations": annotations}
    (own / "thumos.json").write_text(json.dumps({"database": database}))
    np.save(own / "uNet_test.npy", rng.random((12, 101), np.float32))
    given = ["--annotations", "thumos.json", "--features"]
    pack = ["i3d", "--subsets", "validation", "test", "--windows-stride-s", "0.53333", "--fitted", "--tscale", "32"]
    assert prepare.run([*given, *pack, "--out", "pack", "--workers", "0"]) == 0
    capsys.readouterr()
    more = ["pack", "--classifier", "uNet_test.npy", "--json"]
    assert reproduce.run(["--benchmark", "thumos", "--preset", "smoke", *given, *more]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["data"]["mark"] == "thumos"
    assert result["protocol"]["version"].startswith(
        "thumos14 test, 24 instances in 4 videos: none of the known versions"
    )
    found = json.loads((own / result["folder"] / "detections.json").read_text())["results"]
    for id, rows in found.items():
        assert len({row["label"] for row in rows}) == 2  # the two best of 20 classes
        assert max(row["segment"][1] for row in rows) <= database[id]["duration"]
