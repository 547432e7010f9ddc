import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from etad.data.annotations import DataError
from etad.data.features import resize
from etad.data.packed import open_packed
from etad.data.samples import Corpus
from etad.registry import DATASETS, lookup
from etad.spec import DataSpec, Entry, SpecError, WindowSpec, read_spec
from experiments.prepare import run

LENGTHS = {"t0": 5, "t1": 40, "é": 9, "v0": 16, "v1": 3}
C = 6


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with features [t, C], annotations and classifier scores of five videos, and a testing one without."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "raw").mkdir()
    database: dict[str, Any] = {"x": {"duration": 9.0, "subset": "testing", "annotations": []}}
    for id, t in LENGTHS.items():
        np.save(tmp_path / "raw" / f"v_{id}.npy", rng.normal(size=(t, C)).astype(np.float32))
        subset = "validation" if id.startswith("v") else "training"
        instance = {"segment": [0.0, t / 4], "label": "Run"}
        database[id] = {"duration": t / 2, "subset": subset, "annotations": [instance]}
    (tmp_path / "truth.json").write_text(json.dumps({"database": database}))
    (tmp_path / "scores.json").write_text(json.dumps({f"v_{id}": {"class": "Run", "score": 0.5} for id in LENGTHS}))
    return tmp_path


ARGUMENTS = ["--features", "raw", "--annotations", "truth.json", "--pattern", "v_{id}.npy", "--layout", "TC"]
ARGUMENTS += ["--tscale", "8", "--out", "out/pack", "--workers", "0"]


def corpus(spec: DataSpec) -> Corpus:
    made: Corpus = lookup(DATASETS, spec.source, given=("spec",))(spec, **spec.source.args)
    return made


def test_whole_videos_become_a_corpus(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*ARGUMENTS, "--json", "--verify"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["videos"] == {"training": 3, "validation": 2}
    assert (result["rows"], result["channels"], result["missing"]) == (5, C, 0)
    spec = read_spec(result["spec"], ["data.source.args.classifier=scores.json", "data.source.args.mark=anet"]).data
    made = corpus(spec)
    assert made.mark == "anet"
    assert made.subsets["training"].ids == ("t0", "t1", "é")
    assert made.subsets["validation"].span_s.tolist() == [[0, 8.0], [0, 1.5]]
    assert made.classifier is not None
    assert made.classifier["é"] == (("Run", 0.5),)
    for samples in made.subsets.values():
        assert np.shares_memory(samples.features, samples.features.base)
        for id, row in zip(samples.ids, samples.features, strict=True):
            raw = np.load(data / "raw" / f"v_{id}.npy")
            np.testing.assert_array_equal(row, resize(raw, 8).astype(np.float16))
    assert set(made.sources) == {"features", "features, raw", "annotations", "classifier"}
    assert all("sha256:" in made.sources[what] for what in ("features", "annotations", "classifier"))
    assert not any(str(data) in text for text in made.sources.values())
    assert made.annotations.flaws["without_features"] == 0
    assert run(ARGUMENTS) == 0
    assert "5 videos were packed before" in " ".join(capsys.readouterr().err.split())


def test_features_made_up_over_annotations(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up = ["--synthetic", "32", "--annotations", "truth.json", "--tscale", "8", "--out", "out/made", "--json"]
    assert run([*made_up, "--verify"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["videos"], result["rows"]) == ({"training": 3, "validation": 2}, 5)
    made = corpus(read_spec(result["spec"]).data)
    assert made.mark == "synthetic-1 over truth.json"
    assert made.subsets["validation"].features.shape == (2, 8, 32)
    assert set(made.bounds) == {"floor", "ceiling"}
    assert run(made_up) == 0
    assert json.loads(capsys.readouterr().out)["reused_videos"] == 5


@pytest.mark.parametrize("windows", [None, WindowSpec(stride_s=0.5, overlap=0.25)])
def test_raw_features_give_the_rows_of_a_pack(data: Path, windows: WindowSpec | None) -> None:
    given = [] if windows is None else ["--windows-stride-s", "0.5", "--overlap", "0.25"]
    assert run([*ARGUMENTS, *given]) == 0
    spec = read_spec("out/pack/spec.yaml").data
    args = {"features": "raw", "pattern": "v_{id}.npy", "layout": "TC", "annotations": "truth.json"}
    raw = corpus(spec.model_copy(update={"source": Entry(name="features", args=args), "windows": windows}))
    for name, samples in corpus(spec).subsets.items():
        assert samples.ids == raw.subsets[name].ids
        np.testing.assert_array_equal(samples.features, raw.subsets[name].features)
        np.testing.assert_array_equal(samples.span_s, raw.subsets[name].span_s)


def test_hdf5_of_the_other_layout_gives_the_same_rows(data: Path) -> None:
    with h5py.File(data / "raw.h5", "w") as file:
        for id in LENGTHS:
            file[f"{id}/f"] = np.load(data / "raw" / f"v_{id}.npy").T
    assert run(ARGUMENTS) == 0
    changed = [*ARGUMENTS, "--features", "raw.h5", "--pattern", "{id}/f", "--layout", "CT", "--out", "out/h5"]
    assert run([*changed, "--workers", "1"]) == 0
    np.testing.assert_array_equal(open_packed("out/pack").features, open_packed("out/h5").features)


def test_missing_features_stop_or_are_left_out_and_counted(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "raw" / "v_t1.npy").unlink()
    assert run(ARGUMENTS) == 1
    assert "1 of 5 videos have no features: t1" in capsys.readouterr().err
    assert run([*ARGUMENTS, "--missing", "skip", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["missing"] == result["flaws"]["without_features"] == 1
    spec = read_spec(result["spec"]).data
    assert spec.missing == "skip"
    made = corpus(spec)
    assert made.subsets["training"].ids == ("t0", "é")
    assert "t1" not in made.annotations.videos
    assert made.annotations.flaws["without_features"] == 1
    with pytest.raises(DataError, match="t1"):
        corpus(spec.model_copy(update={"missing": "error"}))
    for id in ("v0", "v1"):
        (data / "raw" / f"v_{id}.npy").unlink()
    assert run([*ARGUMENTS, "--missing", "skip"]) == 1
    assert "no video of the subset validation" in capsys.readouterr().err


def test_features_of_another_width_are_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(data / "raw" / "v_v0.npy", np.zeros((16, C + 1), np.float32))
    assert run(ARGUMENTS) == 1
    assert f"{C + 1} in v_v0.npy" in capsys.readouterr().err
    assert not (data / "out").exists()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_nan_is_named_and_what_was_packed_stays(data: Path, capsys: pytest.CaptureFixture[str], workers: str) -> None:
    good = np.load(data / "raw" / "v_v1.npy")
    np.save(data / "raw" / "v_v1.npy", np.full_like(good, np.nan))
    assert run([*ARGUMENTS, "--workers", workers]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "v_v1.npy: holds NaN" in error
    with pytest.raises(DataError, match="not a finished pack"):
        open_packed("out/pack")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tscale": 16}, "tscale is 8, the spec's data.tscale 16"),
        ({"channels": 7}, "channels is 6, the spec's data.channels 7"),
        ({"windows": WindowSpec(stride_s=0.5)}, "windows is null"),
        ({"train_subset": "trainig"}, "trainig.*annotated: testing, training, validation"),
    ],
)
def test_a_spec_that_does_not_fit_the_pack_is_one_error(data: Path, change: dict[str, Any], words: str) -> None:
    run(ARGUMENTS)
    spec = read_spec("out/pack/spec.yaml").data
    with pytest.raises(DataError, match=words):
        corpus(spec.model_copy(update=change))


def test_a_pack_of_other_durations_is_refused(data: Path) -> None:
    run(ARGUMENTS)
    tree = json.loads((data / "truth.json").read_text())
    tree["database"]["v0"]["duration"] = 8.5
    (data / "truth.json").write_text(json.dumps(tree))
    with pytest.raises(DataError, match=r"other durations of 1 videos .v0"):
        corpus(read_spec("out/pack/spec.yaml").data)


def test_a_window_stride_that_cannot_be_true_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*ARGUMENTS, "--windows-stride-s", "5"]) == 1
    assert "column every 0.5 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (["--tscale", "0"], 1, "tscale"),
        (["--tscale", "x"], 2, "tscale"),
        (["--overlap", "0.5"], 2, "--windows-stride-s"),
        (["--windows-stride-s", "1", "--overlap", "1"], 1, "overlap"),
        (["--layout", "XX"], 2, "layout"),
        (["--pattern", "{id.__class__}"], 1, "pattern"),
        (["--features", "nowhere"], 1, "nowhere"),
        (["--annotations", "nowhere.json"], 1, "nowhere.json"),
        (["--subsets", "train"], 1, "annotated: testing"),
        (["--synthetic", "32"], 2, "not allowed with argument --features"),
    ],
)
def test_misuse_is_one_line(
    data: Path, capsys: pytest.CaptureFixture[str], change: list[str], code: int, words: str
) -> None:
    try:
        got = run([*ARGUMENTS, *change])
    except SystemExit as stop:
        got = int(str(stop.code))
    error = capsys.readouterr().err
    assert got == code
    assert words in error
    assert "Traceback" not in error


def test_names_and_axes_are_found_out(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ARGUMENTS) == 0
    found_out = [
        "--features",
        "raw",
        "--annotations",
        "truth.json",
        "--tscale",
        "8",
        "--out",
        "out/found",
        "--workers",
        "0",
    ]
    assert run(found_out) == 0
    np.testing.assert_array_equal(open_packed("out/pack").features, open_packed("out/found").features)
    assert open_packed("out/found").index.sources["raw"] == "raw, v_{id}.npy, TC"


def test_entries_refuse_unknown_arguments(data: Path) -> None:
    with pytest.raises(SpecError, match="annotations"):
        lookup(DATASETS, Entry(name="packed", args={"features": "f", "annotation": "a"}), given=("spec",))


SLOWLY = """
import sys, time
from etad.data.windows import RowMaker
from experiments.prepare import run
make = RowMaker.__call__
RowMaker.__call__ = lambda self, id: (time.sleep(0.2), make(self, id))[1]
sys.exit(run(sys.argv[1:]))
"""


def test_a_killed_command_goes_on(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    child = subprocess.Popen([sys.executable, "-c", SLOWLY, *ARGUMENTS], env=env, stderr=subprocess.DEVNULL)
    for _ in range(3000):
        finished = sum(path.read_text().count("\n") for path in Path("out/pack").glob("*.jsonl"))
        if finished >= 2:
            break
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert 2 <= finished < len(LENGTHS)
    assert not Path("out/pack/index.json").exists()
    assert run([*ARGUMENTS, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reused_videos"] >= finished
    assert run([*ARGUMENTS, "--out", "out/other"]) == 0
    np.testing.assert_array_equal(open_packed("out/pack").features, open_packed("out/other").features)
