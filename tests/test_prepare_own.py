"""A set of one's own: from plain files to a spec that trains as it stands."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import noise, write_clip

from etad import build
from etad.data.packed import open_packed
from etad.spec import read_spec
from experiments import prepare
from experiments import run as run_command

C = 8
CLASSES = ("jump", r"run $\frac{1 fast$ 跳")  # no mathematics, and of another script


def instances(rng: np.random.Generator, t: int, count: int) -> list[tuple[float, float]]:
    """Segments of a few columns of half a second, apart, in t columns."""
    places = np.sort(rng.choice(np.arange(2, t - 8, 8), count, replace=False))
    return [(0.5 * p, 0.5 * (p + rng.integers(4, 8))) for p in places.tolist()]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten videos, a feature column each half second in feats/, a table without durations or subsets; ids with slashes."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows: list[list[Any]] = []
    for n in range(10):
        id, t = f"camera é/{n:02d}", int(rng.integers(28, 34))
        (tmp_path / "feats" / "camera é").mkdir(parents=True, exist_ok=True)
        features = rng.normal(0, 0.2, (t, C)).astype(np.float32)
        for start, end in instances(rng, t, 2) if n else []:
            label = int(rng.integers(2))
            features[round(2 * start) : round(2 * end), label] += 2
            rows.append([id, start, end, CLASSES[label]])
        rows += [] if n else [[id, "", "", ""]]
        np.save(tmp_path / "feats" / f"{id}.npy", features)
    with open("truth.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "start", "end", "label"], *rows])
    return tmp_path


PREPARE = ["--annotations", "truth.csv", "--features", "feats", "--column-s", "0.5", "--workers", "0", "--json"]


def prepared(capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    assert prepare.run([*PREPARE, *more]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_a_table_and_features_become_a_spec_that_trains(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = prepared(capsys)
    assert result["path"] == "prepared/truth"
    assert result["videos"] == {"training": 8, "validation": 2}
    spec = read_spec(result["spec"])
    assert (spec.name, spec.data.channels, spec.data.source.args["mark"]) == ("truth", C, "truth")
    assert (spec.data.tscale, spec.data.windows) == (32, None)
    assert result["reach"] > 0.9
    assert spec.model.class_head is not None
    assert spec.model.class_head.classes == 2
    assert {path.name for path in Path("prepared/truth").iterdir()} >= {
        "annotations.json",
        "index.json",
        "spec.yaml",
        "survey.json",
        "survey.png",
        "survey.svg",
    }
    assert Path(result["picture"][0]).stat().st_size > 1000
    text = Path(result["spec"]).read_text(encoding="utf-8")
    assert all(f"# {reason}" in text for reason in result["reasons"].values())
    threads = torch.get_num_threads()
    try:
        assert run_command.run(["--spec", result["spec"], "--json"]) == 0
    finally:
        torch.set_num_threads(threads)
    record = json.loads(capsys.readouterr().out)
    figures = {figure["name"]: figure["value"] for figure in record["figures"]}
    assert record["data"]["mark"] == "truth"
    assert figures["average_mAP"] > 20  # two channels that say it all
    detections = json.loads(Path(record["folder"], "detections.json").read_text(encoding="utf-8"))["results"]
    assert {found["label"] for rows in detections.values() for found in rows} == set(CLASSES)


def test_what_the_options_settle_is_kept(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = read_spec(prepared(capsys, "--whole", "--tscale", "64", "--name", "mine")["spec"])
    assert (whole.name, whole.data.tscale, whole.data.windows) == ("mine", 64, None)
    cut = read_spec(prepared(capsys, "--windows-stride-s", "0.5", "--overlap", "0.25", "--out", "cut")["spec"])
    assert cut.data.windows is not None
    assert (cut.data.windows.overlap, open_packed("cut").index.tscale) == (0.25, cut.data.tscale)


def test_a_classifier_from_outside_stands_in_the_spec(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = {f"camera é/{n:02d}": {"class": "jump", "score": 0.5} for n in range(10)}
    Path("scores.json").write_text(json.dumps(scores), encoding="utf-8")
    spec = read_spec(prepared(capsys, "--classifier", "scores.json")["spec"])
    assert spec.model.class_head is None
    assert spec.data.source.args["classifier"] == str(own / "scores.json")
    Path("scores.json").write_text(json.dumps({"camera é/01": {"class": "fly", "score": 0.5}}), encoding="utf-8")
    assert prepare.run([*PREPARE, "--classifier", "scores.json"]) == 1
    assert "'fly'" in capsys.readouterr().err


def table(*rows: str) -> str:
    return "\n".join(["id,start,end,label", *rows, ""])


BAD = {
    "an empty table": ("", "the columns are none"),
    "wrong columns": ("video,from,to,what\na,1,2,x\n", "the first line names id,start,end,label"),
    "ids that lead elsewhere": (table("../feats/camera é/01,1,2,x"), "would be read from outside it"),
    "ids that have no features": (table("nobody,1,2,x", "noone,1,2,x"), "no file is named after a video"),
    "no instance": (table("camera é/01,,,", "camera é/02,,,"), "no instance"),
}


@pytest.mark.parametrize(("content", "words"), BAD.values(), ids=BAD)
def test_bad_tables_are_one_line(own: Path, capsys: pytest.CaptureFixture[str], content: str, words: str) -> None:
    Path("truth.csv").write_text(content, encoding="utf-8")
    more = ["--pattern", "{id}.npy"] if ".." in content else []
    assert prepare.run([*PREPARE, *more]) == 1
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1
    assert not Path("prepared/truth/index.json").exists()
    assert not Path("prepared/truth/spec.yaml").exists()


def test_a_table_needs_durations(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = [word for word in PREPARE if word not in ("--column-s", "0.5")]
    assert prepare.run(short) == 1
    assert "--column-s" in capsys.readouterr().err


def test_videos_give_durations_and_a_spec_with_an_encoder(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("clips").mkdir()
    for n in range(6):
        write_clip(Path(f"clips/clip {n}.mkv"), noise(15 + n, 64, 80, seed=n))  # 10 frames a second
    Path("truth.csv").write_text(table(*(f"clip {n},0.2,{0.8 + n / 10},jump" for n in range(6))))
    given = ["--annotations", "truth.csv", "--videos", "clips", "--out", "own", "--json"]
    assert prepare.run(given) == 0
    result = json.loads(capsys.readouterr().out)
    truth = json.loads(Path("own/annotations.json").read_text())["database"]
    assert [video["duration"] for video in truth.values()] == pytest.approx([1.5 + n / 10 for n in range(6)])
    assert result["videos"] == {"training": 4, "validation": 2}
    spec = read_spec(result["spec"])
    assert spec.data.source.args["pattern"] == "{id}.mkv"
    assert spec.encoder is not None
    assert spec.encoder.network.name == "r2plus1d-small"
    assert spec.model.class_head is None  # one class needs no head
    corpus = build.build_corpus(spec)
    assert corpus.subsets["training"].frames is not None
    assert corpus.subsets["training"].frames[0].shape == (32, 3, 8, 56, 56)
    short = ["--set", "training.epochs=1", "--set", "training.decay_epochs=[1]"]
    assert run_command.run(["--spec", result["spec"], "--out", "run", "--json", *short]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "done"
    Path("weights.pth").touch()
    assert prepare.run([*given, "--encoder", "weights.pth"]) == 0
    spec = read_spec(json.loads(capsys.readouterr().out)["spec"])
    assert spec.encoder is not None
    assert (spec.encoder.checkpoint, spec.data.channels) == (str(own / "weights.pth"), 512)
    Path("clips/clip 3.mkv").write_bytes(b"")
    assert prepare.run(given) == 1
    assert "clip 3.mkv" in capsys.readouterr().err
    Path("clips/clip 3.mkv").unlink()
    assert prepare.run(given) == 1
    assert "1 videos have no duration (clip 3)" in capsys.readouterr().err
    assert prepare.run([*given, "--missing", "skip"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (sum(result["videos"].values()), result["missing"]) == (5, 1)
