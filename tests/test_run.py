"""The commands that run a spec and show specs, as a user types them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from etad.spec import Spec, parse_spec, parse_yaml, read_spec
from experiments import reproduce, run
from experiments.command import Failure
from experiments.specs import __main__ as specs

SMOKE = ROOT / "experiments" / "specs" / "smoke.yaml"


def command(module: str, *args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", module, *args], cwd=cwd, env=env, capture_output=True, text=True, timeout=100
    )


@pytest.mark.parametrize("module", [run, reproduce, specs])
def test_help_shows_an_example(module: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        module.run(["--help"])  # type: ignore[attr-defined]
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert "example:\n  python -m experiments." in out
    assert "--json" in out


def test_an_unknown_knob_is_one_line_with_the_nearest_name(tmp_path: Path) -> None:
    done = command("experiments.run", "--spec", str(SMOKE), "--set", "roi.bin=16", "--json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "unknown key roi.bin; did you mean roi.bins?" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--spec", str(SMOKE), "--set", "roi.bins=seven"], 1, "roi.bins"),
        (["--spec", str(SMOKE), "--set", "roi.bins=10"], 1, "multiple of 4"),
        (["--spec", str(SMOKE), "--set", "data.source={name: syntetic}"], 1, "did you mean synthetic?"),
        (["--spec", "nowhere.yaml"], 1, "cannot read this spec"),
        ([], 2, "--help"),
        (["--spec", str(SMOKE), "--colour", "red"], 2, "--help"),
    ],
)
def test_exit_codes(
    args: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        found = run.run(args)
    except SystemExit as left:
        found = left.code  # type: ignore[assignment]
    said = capsys.readouterr()
    assert (found, said.out) == (code, "")
    assert words in said.err


def test_a_spec_is_opened_as_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran, spec = tmp_path / "ran", tmp_path / "bad.yaml"
    for payload in (f"!!python/object/apply:os.mkdir ['{ran}']", f"!!python/object/apply:pathlib.Path ['{ran}']"):
        spec.write_text(f"name: {payload}\n")
        assert run.run(["--spec", str(spec)]) == 1
        assert "not a plain YAML file" in capsys.readouterr().err
    spec.write_text(f"_base_: bad.py\nname: {{{{ {ran} }}}}\n")
    assert run.run(["--spec", str(spec)]) == 1
    assert not ran.exists()


def test_a_folder_of_another_spec_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("training: {epochs: 3}\n")
    with pytest.raises(Failure, match=r"holds a run of another spec; give another --out"):
        run.run_spec(Spec(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]


def test_a_failure_is_recorded(tmp_path: Path) -> None:
    spec = read_spec(SMOKE, ["data.source={name: features, args: {features: none, pattern: '{id}', layout: TC}}"])
    with pytest.raises(ValueError, match="needs the argument annotations"):
        run.run_spec(spec, tmp_path, "the command")
    record = run.read_record(tmp_path)
    assert (record.status, record.command) == ("failed", "the command")
    assert "needs the argument annotations" in record.error


def test_keys_follow_what_decides_a_result() -> None:
    def folder(*overrides: str) -> Path:
        return run.run_folder(read_spec(SMOKE, overrides), Path("runs"))

    assert folder() == folder("runtime.workers=2", "runtime.log_every=7")
    others = {folder(), folder("training.seed=1"), folder("inference.sigma=0.4"), folder("evaluation.proposals=[1]")}
    assert len(others) == 4


def test_the_schema_describes_every_knob(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert specs.run(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert specs.run(["schema", "--out", str(tmp_path / "s.json"), "--json"]) == 0
    assert json.loads((tmp_path / "s.json").read_text()) == schema
    assert set(schema["properties"]) == {*Spec.model_fields, "_base_"}
    knobs = 0
    for name, section in schema["$defs"].items():
        assert section["additionalProperties"] is False, name
        for knob, what in section["properties"].items():
            knobs += 1
            assert what.get("description"), f"{name}.{knob}"
    assert knobs > 50


def test_show_prints_a_spec_that_reads_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert specs.run(["show", "--spec", str(SMOKE), "--set", "training.lr=3e-4"]) == 0
    text = capsys.readouterr().out
    wanted = read_spec(SMOKE, ["training.lr=0.0003"])
    assert parse_spec(parse_yaml(text, "shown")) == wanted
    (tmp_path / "shown.yaml").write_text(text)
    assert read_spec(tmp_path / "shown.yaml") == wanted
    assert specs.run(["show", "--spec", str(SMOKE), "--json"]) == 0
    assert Spec.model_validate(json.loads(capsys.readouterr().out)) == read_spec(SMOKE)
