"""A checkpoint put to use on one video: the same detections as a run's, any length, and bad input."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT

import etad
from etad import build
from etad.data.annotations import DataError
from etad.detecting import Trained, load
from etad.detections import read_detections
from etad.spec import Spec, merge, parse_overrides, parse_spec, read_spec, spec_text
from experiments import detect as command
from experiments.run import run_spec
from reports.strip import lanes

SMOKE = ROOT / "experiments" / "specs" / "smoke.yaml"
TINY = ["data.tscale=16", "runtime.threads=1", "runtime.device=cpu"]
WINDOWS = "data.windows={stride_s: 0.5}"
ID = "sub/vidéo 1"  # an id may look like a path, below its folder
ONLY = "seen in validation only"


def checkpoint(path: Path, *overrides: str, classes: tuple[str, ...] | None = ("a", "b", "c"), **meta: Any) -> Path:
    """Weights that were never trained, of the smoke spec's detector."""
    spec = read_spec(SMOKE, [*TINY, *overrides])
    state = {f"detector.{name}": value for name, value in build.build_detector(spec).state_dict().items()}
    if spec.encoder:  # drawn otherwise than the spec would, so that they must come from the file
        encoder = build.build_encoder(read_spec(SMOKE, [*TINY, *overrides, "training.seed=1"]))
        state |= {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    held = {"spec": spec_text(spec), "classes": classes and list(classes), "mark": "m", **meta}
    torch.save({"state_dict": state, "meta": {k: v for k, v in held.items() if v is not None}}, path)
    return path


def features(t: int, channels: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((t, channels)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos with all that may surprise: path-like and unicode ids, overlaps, one-column instances, an unseen class."""
    folder = tmp_path_factory.mktemp("set")
    (folder / "f" / "sub").mkdir(parents=True)
    database = {}
    for n in range(9):
        id, t = (ID if n == 8 else f"v{n}"), 20 + 7 * n
        np.save(folder / "f" / f"{id}.npy", features(t, seed=n))
        spans = [(2.0, 5.0, "a"), (3.0, 6.0, "a"), (4.0, 4.5, "b"), (6.0, 9.0, ONLY if n > 6 else "b")]
        database[id] = {
            "duration": t * 0.5,
            "subset": "validation" if n > 6 else "training",
            "annotations": [{"segment": [s, e], "label": label} for s, e, label in spans],
        }
    database["bare"] = {"duration": 10.0, "subset": "validation", "annotations": []}  # a video without instances
    np.save(folder / "f" / "bare.npy", features(20, seed=9))
    (folder / "gt.json").write_text(json.dumps({"database": database}), encoding="utf-8")
    return folder


def on_disk(folder: Path, *overrides: str) -> Spec:
    args = {
        "features": str(folder / "f"),
        "pattern": "{id}.npy",
        "layout": "TC",
        "annotations": str(folder / "gt.json"),
    }
    tree = {"data": {"source": {"name": "features", "args": args}}, "training": {"batch": 4}}
    base = read_spec(SMOKE, TINY).model_dump(mode="json")
    return parse_spec(merge(merge(base, tree), parse_overrides([WINDOWS, *overrides])))


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in windows with a class head."""
    made = tmp_path_factory.mktemp("run")
    record = run_spec(on_disk(folder, "model.class_head={classes: 3}"), made)
    assert record.status == "done"
    return made


def test_a_run_with_a_class_head_evaluates_classes_without_a_classifier(run: Path) -> None:
    record = json.loads((run / "record.json").read_text(encoding="utf-8"))
    assert sorted(record["details"]["ap"]) == ["a", "b", ONLY]  # unseen in training, it counts all the same
    assert record["protocol"]["classes"] == 3
    assert record["protocol"]["labels"] == "class head"
    assert record["data"]["flaws"]["classes_unseen_in_training"] == 1
    assert record["data"]["flaws"]["without_segments"] == 1
    found = json.loads((run / "detections.json").read_text(encoding="utf-8"))["results"]
    assert set(found) == {"v7", ID, "bare"}
    labels = {row["label"] for rows in found.values() for row in rows}
    assert len(labels) > 1
    assert labels <= {"a", "b", ONLY}
    assert "classes" in (run / "losses.csv").read_text().splitlines()[0].split(",")


def test_one_video_is_detected_in_as_the_run_did(run: Path, folder: Path) -> None:
    path = folder / "f" / f"{ID}.npy"
    got = etad.detect(path, checkpoint=run / "latest.pth", device="cpu")
    want = json.loads((run / "detections.json").read_text(encoding="utf-8"))["results"][ID]
    want.sort(key=lambda row: -row["score"])
    assert [d.label for d in got] == [row["label"] for row in want]
    assert [[d.start_s, d.end_s] for d in got] == [row["segment"] for row in want]
    assert [d.score for d in got] == [row["score"] for row in want]
    turned = np.ascontiguousarray(np.load(path).T)
    assert etad.detect(turned, checkpoint=run / "latest.pth", layout="CT", device="cpu") == got


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, etad; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'detekt'"):
        _ = etad.detekt


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return load(checkpoint(tmp_path_factory.mktemp("c") / "whole.pth"), "cpu")


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    head = "model.class_head={classes: 3}"
    return load(checkpoint(tmp_path_factory.mktemp("c") / "cut.pth", WINDOWS, head), "cpu")


@pytest.mark.parametrize("t", [1, 2, 15, 16, 17, 400])
def test_any_length_one_column_too(whole: Trained, cut: Trained, t: int) -> None:
    for trained, length in ((whole, {"stride_s": 0.5}), (cut, {})):
        sequence = trained.read(features(t), **length)
        assert sequence.duration_s == t * 0.5
        seen: list[tuple[int, int]] = []
        found = trained.find(sequence, lambda done, total, seen=seen: seen.append((done, total)))  # type: ignore[misc]
        assert found or t == 1  # a lone column fills a sixteenth of its padded window; the rest lies past the video
        assert all(0 <= d.start_s < d.end_s <= t * 0.5 for d in found)
        assert [d.score for d in found] == sorted((d.score for d in found), reverse=True)
        assert seen[-1][0] == seen[-1][1] == len(seen)
    assert len(seen) == (1 if t <= 16 else 2 if t == 17 else 49)
    assert {d.label for d in whole.find(whole.read(features(t), stride_s=0.5))} == {"action"}


def test_how_long_a_video_lasts_must_be_known(whole: Trained, cut: Trained) -> None:
    for given in ({}, {"duration_s": 10.0, "stride_s": 0.5}):
        with pytest.raises(DataError, match=r"either duration_s .* or stride_s"):
            whole.read(features(20), **given)
    for given in ({"duration_s": 0.0}, {"stride_s": -1.0}, {"duration_s": float("inf")}):
        with pytest.raises(DataError, match="a time above 0"):
            whole.read(features(20), **given)
    for given in ({"duration_s": 50.0}, {"stride_s": 2.0}):
        with pytest.raises(DataError, match=r"takes one every 0\.5 s"):
            cut.read(features(20), **given)
    assert cut.read(features(20), duration_s=9.8).duration_s == 9.8


def spoilt(path: Path, how: str) -> Path:
    whole = features(20)
    if how == "empty file":
        path.write_bytes(b"")
    elif how == "no columns":
        np.save(path, whole[:0])
    elif how == "NaN":
        whole[3, 4] = np.nan
        np.save(path, whole)
    elif how == "cut off":
        np.save(path, whole)
        path.write_bytes(path.read_bytes()[:-9])
    elif how == "whole numbers":
        np.save(path, whole.astype(int))
    elif how == "three axes":
        np.save(path, whole[None])
    elif how == "objects":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif how == "wider":
        np.save(path, features(20, 40))
    elif how == "turned":
        np.save(path, whole.T)
    elif how == "no numpy file":
        path.write_bytes(b"RIFF....AVI")
    return path


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("empty file", "is an empty file"),
        ("no columns", r"is empty \(0, 32\)"),
        ("NaN", "holds NaN or infinity"),
        ("cut off", "is cut off"),
        ("whole numbers", "not floating point"),
        ("three axes", "has 3 axes"),
        ("objects", "holds pickled objects"),
        ("wider", r"40 channels a column, .*whole\.pth takes 32"),
        ("turned", r"20 channels a column.*--layout CT"),
        ("missing", "cannot be read"),
        ("no numpy file", "cannot be read"),
    ],
)
def test_bad_features_are_one_clear_error(whole: Trained, tmp_path: Path, how: str, says: str) -> None:
    path = tmp_path / "v ü.npy"
    with pytest.raises(DataError, match=says) as raised:
        whole.read(spoilt(path, how), stride_s=0.5)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_bad_array_is_refused_like_a_file(whole: Trained) -> None:
    bad = features(20)
    bad[1, 1] = np.inf
    for array, says in ((bad, "NaN or infinity"), (features(20)[0], "has 1 axes"), (features(0), "is empty")):
        with pytest.raises(DataError, match=says):
            whole.read(array, stride_s=0.5)


def test_a_video_without_an_encoder_says_what_to_do(tmp_path: Path) -> None:
    sources = {"sources": {"features": "tsp, v_{id}.npy, TC"}}
    trained = load(checkpoint(tmp_path / "c.pth", protocol=sources), "cpu")
    (tmp_path / "v.mp4").write_bytes(b"....ftyp")
    with pytest.raises(DataError, match=r"v\.mp4: .*c\.pth was trained on features \(tsp, v_\{id\}\.npy, TC\)"):
        trained.read(tmp_path / "v.mp4")


SHOWN = [
    "encoder={network: {name: r2plus1d-small, args: {planes: [8, 8, 8, 16]}}, chunk: 3}",
    "data.channels=16",
    "data.video={frames: 4, short_side: 16, size: 16, cache: /nowhere/at/all}",
]


@pytest.mark.parametrize("windows", ["null", "{stride_s: 0.25}"])
def test_a_video_goes_through_the_encoder_of_the_checkpoint(windows: str, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    from clips import noise, write_clip

    assert av
    path = checkpoint(tmp_path / "c.pth", *SHOWN, f"data.windows={windows}")
    clip = write_clip(tmp_path / "vidéo.mp4", noise(60))  # 6 s
    trained = load(path, "cpu")
    sequence = trained.read(clip)
    assert sequence.duration_s == pytest.approx(6.0, abs=0.01)
    rows = sequence.samples
    assert len(rows.ids) == (1 if windows == "null" else 2)
    found = trained.find(sequence)
    assert found == etad.detect(clip, checkpoint=path, device="cpu")
    # The same by hand: the frames, their features, and those as if they came from elsewhere.
    spec = read_spec(SMOKE, [*TINY, *SHOWN, f"data.windows={windows}", "training.seed=1"])
    encoder = build.build_encoder(spec)
    with torch.no_grad():
        by_hand = [encoder(torch.from_numpy(rows.frames[w])[None])[0].numpy() for w in range(len(rows.ids))]
    samples = replace(rows, features=np.stack(by_hand), frames=None)
    assert trained.find(sequence._replace(samples=samples)) == found
    with pytest.raises(DataError, match="a video knows how long it lasts"):
        trained.read(clip, duration_s=3.0)
    for content, says in ((b"", "is an empty file"), (clip.read_bytes()[:700], "cannot be|none of it|decod")):
        (tmp_path / "bad.mp4").write_bytes(content)
        with pytest.raises(DataError, match=says):
            trained.find(trained.read(tmp_path / "bad.mp4"))
    with pytest.raises(DataError, match=r"nowhere\.mp4: cannot be opened"):
        trained.read(tmp_path / "nowhere.mp4")
    with pytest.raises(DataError, match="too short"):
        trained.read(write_clip(tmp_path / "one.mp4", noise(1)))


@pytest.mark.parametrize(
    ("overrides", "meta", "device", "says"),
    [
        ((), {"spec": None}, "cpu", "says nothing of its spec"),
        ((), {"spec": "[1]"}, "cpu", "no mapping of sections"),
        (
            (),
            {"spec": "model: {aggregator: {name: 'antigravity:fly'}}"},
            "cpu",
            "code from outside the suite, antigravity",
        ),
        (
            (),
            {"spec": "encoder: {network: {name: 'antigravity:fly'}}"},
            "cpu",
            "code from outside the suite, antigravity",
        ),
        (("model.class_head={classes: 3}",), {"classes": None}, "cpu", "names 0 classes, its class head has 3"),
        ((), {"spec": "!!python/object/apply:os.system [ls]"}, "cpu", "its spec: not a plain YAML file"),
        ((), {"spec": "model: {deepness: 3}"}, "cpu", "its spec: unknown key model.deepness"),
        ((), {"spec": "{}"}, "cpu", "not a checkpoint of this detector"),
        (("model.class_head={classes: 2}",), {}, "cpu", "names 3 classes, its class head has 2"),
        ((), {}, "cuda:7", "sees no GPU"),
        ((), {}, "abacus", "device 'abacus'"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_clear_error(
    overrides: tuple[str, ...], meta: dict[str, Any], device: str, says: str, tmp_path: Path
) -> None:
    if device.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    path = checkpoint(tmp_path / "c.pth", *overrides, **meta)
    with pytest.raises(ValueError, match=says) as raised:
        load(path, device)
    assert device != "cpu" or str(path) in str(raised.value)
    assert "antigravity" not in sys.modules


def test_components_of_ones_own_are_imported_where_that_is_allowed(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "c.pth", f"model.aggregator.name={__name__}:plain")
    with pytest.raises(ValueError, match=f"code from outside the suite, {__name__}:plain"):
        etad.detect(features(20), checkpoint=path, duration_s=9.0)
    assert etad.detect(features(20), checkpoint=path, duration_s=9.0, own_code=True)


def plain(width: int) -> torch.nn.Module:
    """A user's own aggregator."""
    from etad.model.aggregation import Direct

    return Direct()


# --- the command


def test_the_command_writes_table_file_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("[red]run[/]", "läuft, $x$", "c")
    checkpoint(tmp_path / "c.pth", WINDOWS, "model.class_head={classes: 3}", classes=names)
    np.save("vidéo.npy", features(40))
    args = ["vidéo.npy", "--checkpoint", "c.pth", "--device", "cpu", "--top", "5"]
    assert command.run([*args, "--out", "d.json", "--timeline", "t.png", "--json"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert "detecting" in said.err
    assert (result["id"], result["duration_s"], len(result["detections"])) == ("vidéo", 20.0, 5)
    rows = read_detections("d.json", tuple(sorted(names)))  # the submission layout
    assert rows.ids == ("vidéo",)
    assert [rows.classes[n] for n in rows.label] == [d["label"] for d in result["detections"]]
    assert rows.segments_s.tolist() == [[d["start_s"], d["end_s"]] for d in result["detections"]]
    assert Path("t.png").read_bytes().startswith(b"\x89PNG")
    assert command.run([*args, "--out", "d.csv"]) == 0
    shown = capsys.readouterr().out
    assert all(d["label"] in shown for d in result["detections"])
    with open("d.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["score"]) for row in table] == [d["score"] for d in result["detections"]]
    least = result["detections"][2]["score"]
    assert command.run([*args, "--min-score", str(least), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["detections"]) == 3
    assert command.run([*args, "--min-score", "2", "--timeline", "none.png"]) == 0
    assert Path("none.png").exists()


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--out", "d.txt"], 2, "name a .json or a .csv file"),
        (["--timeline", "t.svg"], 2, "name a .png file"),
        (["--top", "0"], 2, "give 1 or more"),
        (["--duration", "-3"], 2, "--help"),
        (["--checkpoint", "nowhere.pth"], 1, "nowhere.pth: not a whole checkpoint"),
    ],
)
def test_exit_codes(args: list[str], code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        found = command.run(["v.npy", "--checkpoint", "c.pth", *args])
    except SystemExit as left:
        found = left.code  # type: ignore[assignment]
    said = capsys.readouterr()
    assert (found, said.out) == (code, "")
    assert says in said.err


def test_bars_of_one_lane_do_not_hide_each_other() -> None:
    rows = [(0.0, 5.0, "a", 0.9), (4.0, 8.0, "a", 0.8), (1.0, 2.0, "b", 0.7), (5.0, 6.0, "a", 0.6)]
    assert lanes(rows) == [("a", [[rows[0], rows[3]], [rows[1]]]), ("b", [[rows[2]]])]


def test_windows_fitted_to_each_video_follow_its_own_stride(tmp_path: Path) -> None:
    fixed = load(checkpoint(tmp_path / "fixed.pth", WINDOWS), "cpu")
    fitted = load(checkpoint(tmp_path / "fitted.pth", "data.windows={stride_s: 0.5, fitted: true}"), "cpu")
    x = features(20)
    assert [one.read(x, stride_s=0.6).duration_s for one in (fixed, fitted)] == [10.0, 12.0]
    assert fitted.read(x, duration_s=11.0).duration_s == 11.0
