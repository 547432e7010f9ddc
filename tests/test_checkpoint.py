"""The checkpoint command: what it prints, the authors' format and back, and files that are none."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_detecting import checkpoint, features
from test_engine import Payload
from test_model import released_state

from etad.detecting import load
from etad.record import Record, RecordError, write_record
from etad.spec import Spec, spec_text
from experiments import checkpoint as command
from experiments.keys import checkpoint_of

HEAD = "model.class_head={classes: 3}"


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON printed, and what was said beside it."""
    code = command.run([*map(str, args), "--json"])
    said = capsys.readouterr()
    return code, json.loads(said.out or "{}"), said.err


def test_info_says_what_is_needed_to_use_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = checkpoint(tmp_path / "c.pth", HEAD, "roi.bins=4", epoch=1, iter=7, protocol={"annotations_sha256": "5e"})
    code, result, _ = run(capsys, "info", path)
    assert code == 0
    assert result["classes"] == ["a", "b", "c"]
    assert result["input"] == {"tscale": 16, "channels": 32, "windows": None}
    assert (result["spec"]["roi.bins"], result["epoch"], result["finished"]) == (4, 1, False)
    assert result["protocol"] == {"annotations_sha256": "5e"}
    detector = load(path, "cpu").inference.detector
    assert result["parameters"] == sum(p.numel() for p in detector.parameters())
    assert command.run(["info", str(path)]) == 0
    shown = capsys.readouterr().out
    for said in ("3 classes of its own: a, b, c", "not finished", "roi.bins: 4"):
        assert said in shown


def test_there_and_back_finds_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, theirs, back = checkpoint(tmp_path / "c.pth"), tmp_path / "theirs.pth", tmp_path / "back.pth"
    assert run(capsys, "export", path, "--to", "authors", theirs)[0] == 0
    held = torch.load(theirs, weights_only=True)
    assert {"tem.0.weight", "stage_pem.2.reg_e_fc.8.bias"} <= held["state_dict"].keys()
    assert run(capsys, "import", theirs, back)[0] == 0
    a, b = load(path, "cpu"), load(back, "cpu")
    assert (a.data, a.classes) == (b.data, b.classes)
    given = features(40)
    assert a.find(a.read(given, duration_s=9.0)) == b.find(b.read(given, duration_s=9.0))


def test_the_authors_file_is_taken_with_a_spec(
    parity: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {f"module.{name}": value for name, value in released_state(parity).items()}
    state["module.feature_extractor.model.backbone.fc.bias"] = torch.zeros(2)
    torch.save({"epoch": 5, "state_dict": state}, tmp_path / "theirs.pth")
    (tmp_path / "paper.yaml").write_text(spec_text(Spec()))
    given = [tmp_path / "theirs.pth", tmp_path / "ours.pth"]
    code, _, said = run(capsys, "import", *given)
    assert code == 2
    assert "name it with --spec" in said
    code, result, said = run(capsys, "import", *given, "--spec", tmp_path / "paper.yaml")
    assert (code, result["left_out"]) == (0, 1)
    trained = load(given[1], "cpu")
    arrays = np.load(parity / "detector.npz", allow_pickle=False)
    with torch.no_grad():
        out = trained.inference.detector(*(torch.tensor(arrays[name]) for name in ("features", "anchors")))
    np.testing.assert_allclose(out.proposals()[0].numpy(), arrays["refined"], atol=1e-4)


def test_what_does_not_fit_is_one_clear_error_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out, ran = tmp_path / "c.pth", tmp_path / "out.pth", tmp_path / "ran"

    def refused(says: str, *args: object) -> None:
        code, result, said = run(capsys, *args)
        assert (code, result) == (1, {}), said
        assert says in " ".join(said.split())
        assert "Traceback" not in said
        assert not out.exists()

    checkpoint(path, HEAD)
    refused("no place for a class head", "export", path, "--to", "authors", out)
    torch.save({"state_dict": {"tem.0.weight": torch.zeros(2)}}, path)
    (tmp_path / "s.yaml").write_text("{}")
    refused("missing", "import", path, out, "--spec", tmp_path / "s.yaml")
    for held in ({"state_dict": {"x": 3}}, [1, 2], {"state_dict": [3]}):
        torch.save(held, path)
        refused("no state_dict of tensors", "import", path, out, "--spec", tmp_path / "s.yaml")
    for verb in (("info", path), ("export", path, "--to", "authors", out), ("import", path, out)):
        for content in (pickle.dumps(Payload(ran)), b"", b"not a checkpoint"):
            path.write_bytes(content)
            refused(f"{path}: not a", *verb)
        torch.save({"state_dict": {"x": Payload(ran)}, "meta": {}}, path)
        refused("not a safe checkpoint", *verb)
    assert not ran.exists()
    torch.save({"weights": 1}, path)
    refused("not a checkpoint of this suite", "info", path)
    torch.save({"state_dict": {}, "meta": {}}, path)
    refused("says nothing of its spec", "info", path)
    refused("nowhere.pth", "info", tmp_path / "nowhere.pth")


def test_a_runs_folder_names_its_checkpoint_wherever_it_lies(tmp_path: Path) -> None:
    own, shared = tmp_path / "own", tmp_path / "run-5e"
    own.mkdir()
    checkpoint(own / "latest.pth")
    assert checkpoint_of(own) == checkpoint_of(own / "latest.pth") == own / "latest.pth"
    times = {"started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T00:00:00+00:00"}
    record = Record(name="run", status="done", command="c", keys={"trained": "77", "tested": "5e"}, **times)
    write_record(shared, record)
    assert checkpoint_of(shared) == tmp_path / "trained" / "77" / "latest.pth"
    with pytest.raises(RecordError, match="missing"):
        checkpoint_of(tmp_path)


@pytest.mark.parametrize("args", [[], ["explode", "c.pth"], ["export", "c.pth", "out.pth"], ["info"]])
def test_misuse(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command.run(args)
    assert left.value.code == 2
    assert "--help" in capsys.readouterr().err
