"""Features of videos by a trained encoder, and a detector trained on them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import noise, write_clip, write_truth
from conftest import ROOT

from etad import build
from etad.data.packed import open_packed
from etad.registry import ENCODERS
from etad.spec import Spec, merge, parse_spec, read_spec, read_tree, spec_text
from experiments import extract
from experiments.run import run_spec

SMOKE = ROOT / "experiments" / "specs" / "smoke.yaml"
NETWORK = {"name": "r2plus1d-small", "args": {"planes": [4, 4, 4, 8]}}


def network(seed: int = 3) -> torch.nn.Module:
    torch.manual_seed(seed)
    ENCODERS.import_from_location()
    return ENCODERS.get(NETWORK["name"])(planes=(4, 4, 4, 8)).eval()  # type: ignore[misc]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six short videos, weights, and the spec of both."""
    names = ["a", "b", "c", "d", "e", "f"]
    for n, name in enumerate(names):
        write_clip(tmp_path / f"{name}.mp4", noise(20, seed=n))
    write_truth(tmp_path / "gt.json", dict.fromkeys(names, 2.0), validation=("e", "f"))
    torch.save(network().state_dict(), tmp_path / "weights.pth")
    (tmp_path / "spec.yaml").write_text(spec_text(spec(tmp_path)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def spec(folder: Path) -> Spec:
    args = {"videos": str(folder), "pattern": "{id}.mp4", "annotations": str(folder / "gt.json")}
    video = {"frames": 4, "short_side": 20, "size": 16}
    tree = {
        "data": {"source": {"name": "videos", "args": args}, "tscale": 6, "channels": 8, "video": video},
        "encoder": {"network": NETWORK, "frozen_stages": None},
        "training": {"batch": 2},
    }
    return parse_spec(tree)


def by_hand(folder: Path, encoder: torch.nn.Module) -> dict[str, np.ndarray]:
    """Each video's features [T, C]: one snippet after the other through the bare network."""
    mean, std = (110.2008, 100.63983, 95.99475), (58.14765, 56.46975, 55.332195)
    made = {}
    for samples in build.build_corpus(spec(folder)).subsets.values():
        assert samples.frames is not None
        for row, id in enumerate(samples.ids):
            columns = []
            for snippet in samples.frames[row].astype(np.float32):
                normal = [(snippet[c] - mean[c]) / std[c] for c in range(3)]
                with torch.no_grad():
                    columns.append(encoder(torch.tensor(np.array(normal), dtype=torch.float32)[None])[0].numpy())
            made[id] = np.array(columns)
    return made


def command(*args: str, npy: bool = False) -> int:
    return extract.run(["--out", "out", *(["--npy"] if npy else []), *args])


def extracted(npy: bool) -> dict[str, np.ndarray]:
    if npy:
        return {path.stem: np.load(path) for path in Path("out").glob("*.npy")}
    pack = open_packed("out")
    pack.verify()
    return {row.id: x for row, x in zip(pack.index.rows, pack.features, strict=True)}


@pytest.mark.parametrize("npy", [False, True], ids=["pack", "npy"])
def test_features_are_the_encoders_and_a_detector_trains_on_them(npy: bool, folder: Path) -> None:
    assert command("--spec", "spec.yaml", "--checkpoint", "weights.pth", npy=npy) == 0
    expected, found = by_hand(folder, network()), extracted(npy)
    assert found.keys() == expected.keys()
    for id, features in found.items():
        assert features.dtype == np.float16
        np.testing.assert_allclose(features, expected[id], rtol=2e-3, atol=2e-3)
    assert np.ptp(np.array([*found.values()]), axis=0).max() > 0.01, "videos differ"
    chosen = read_spec("out/spec.yaml")
    trained = read_spec(SMOKE).model_copy(update={"data": chosen.data})
    trained = trained.model_copy(update={"training": trained.training.model_copy(update={"batch": 4})})
    record = run_spec(trained, folder / "run")
    assert record.status == "done"
    assert record.data is not None
    assert record.data.videos == {"training": 4, "validation": 2}


def test_a_runs_checkpoint_brings_its_own_spec(folder: Path) -> None:
    """An end-to-end run, then features by the encoder that it trained."""
    tree = spec(folder).model_dump(mode="json", include={"data", "encoder"})
    trained = parse_spec(
        merge(read_tree(SMOKE), merge(tree, {"training": {"batch": 2, "epochs": 1, "decay_epochs": [1]}}))
    )
    trained = trained.model_copy(update={"encoder": trained.encoder.model_copy(update={"lr": 0.01})})  # type: ignore[union-attr]
    assert run_spec(trained, folder / "run").status == "done"
    assert command("--checkpoint", "run/latest.pth") == 0
    held = torch.load("run/latest.pth", weights_only=True)["state_dict"]
    after = network()
    after.load_state_dict({name: held[f"encoder.network.{name}"] for name in after.state_dict()})
    before = dict(build.build_encoder(trained).network.named_parameters())
    assert any(not torch.equal(before[name], value) for name, value in after.named_parameters())
    expected = by_hand(folder, after)
    for id, features in extracted(False).items():
        np.testing.assert_allclose(features, expected[id], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("entry", ["data.source", "encoder.network"])
def test_code_that_only_a_checkpoint_names_is_not_imported(entry: str, folder: Path, capsys: Any) -> None:
    (folder / "stranger.py").write_text("raise SystemExit(7)")
    stated = spec_text(spec(folder)).replace(
        {"data.source": "name: videos", "encoder.network": "name: r2plus1d-small"}[entry], "name: stranger:part"
    )
    assert "stranger:part" in stated
    torch.save({"state_dict": {}, "meta": {"spec": stated}}, "latest.pth")
    assert command("--checkpoint", "latest.pth") == 1
    assert f"its {entry} is code from outside" in capsys.readouterr().err


@pytest.mark.parametrize("npy", [False, True], ids=["pack", "npy"])
def test_killed_it_goes_on(npy: bool, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    asked = []
    whole = extract.Encoding.__call__

    def counted(self: Any, id: str) -> Any:
        asked.append(id)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return whole(self, id)

    monkeypatch.setattr(extract.Encoding, "__call__", counted)
    assert command("--spec", "spec.yaml", "--checkpoint", "weights.pth", npy=npy) == 130
    assert command("--spec", "spec.yaml", "--checkpoint", "weights.pth", npy=npy) == 0
    assert asked == ["a", "b", "c", "c", "d", "e", "f"]
    assert command("--spec", "spec.yaml", "--checkpoint", "weights.pth", "--json", npy=npy) == 0
    assert len(asked) == 7
    assert '"reused_videos": 6' in capsys.readouterr().out
    torch.save(network(9).state_dict(), "weights.pth")
    again = command("--spec", "spec.yaml", "--checkpoint", "weights.pth", npy=npy)
    if npy:
        assert again == 1
        assert "of another encoder" in capsys.readouterr().err
    else:
        assert again == 0
        assert len(asked) == 13


def test_what_is_missing_is_said(folder: Path, capsys: Any) -> None:
    assert command() == 2
    assert "give --checkpoint" in capsys.readouterr().err
    assert command("--spec", "spec.yaml") == 2
    assert "untrained" in capsys.readouterr().err
    assert command("--spec", str(SMOKE), "--checkpoint", "weights.pth", "--set", "encoder=null") == 1
    assert "no videos (data.video) and encoder" in capsys.readouterr().err
    assert command("--spec", "spec.yaml", "--checkpoint", "nowhere.pth") == 1
    assert "nowhere.pth" in capsys.readouterr().err
    windows = "data.windows={stride_s: 0.5}"
    assert command("--spec", "spec.yaml", "--checkpoint", "weights.pth", "--set", windows, npy=True) == 2
    assert not Path("out").exists()


def test_windows_go_into_a_pack(folder: Path) -> None:
    windows = "data.windows={stride_s: 0.2}"
    assert command("--spec", "spec.yaml", "--checkpoint", "weights.pth", "--set", windows) == 0
    spans = [row.span_s for row in open_packed("out").index.rows if row.id == "a"]
    np.testing.assert_allclose(spans, [(0.0, 1.2), (0.6, 1.8), (0.8, 2.0)])
    assert read_spec("out/spec.yaml").data.source.name == "packed"


def test_made_up_videos_bring_their_truth_and_classifier(folder: Path) -> None:
    source = "data.source={name: synthetic_videos, args: {train_videos: 4, test_videos: 2, classes: 4}}"
    assert command("--spec", "spec.yaml", "--checkpoint", "weights.pth", "--set", source) == 0
    made = build.build_corpus(read_spec("spec.yaml", [source]))
    read = build.build_corpus(read_spec("out/spec.yaml"))
    assert read.mark == made.mark == "synthetic-videos-1"
    assert read.classifier == made.classifier
    for id, video in made.annotations.videos.items():
        np.testing.assert_array_equal(read.annotations.videos[id].segments_s, video.segments_s)
