"""The commands that run a spec and show specs, as a user types them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import etad
from etad.spec import Spec, parse_spec, parse_yaml, read_spec
from experiments import keys, reproduce, run
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


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path) -> None:
    done = subprocess.run(
        f"set -o pipefail; {sys.executable} -m experiments.specs schema | head -n 1",
        shell=True,
        executable="/bin/bash",
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "{\n", "")


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
    def made(*overrides: str) -> tuple[str, str]:
        spec = read_spec(SMOKE, overrides)
        return keys.trained_key(spec), keys.tested_key(spec)

    base = made()
    assert base == made("runtime.workers=2", "runtime.log_every=7", "runtime.threads=1", "name=other")
    films = ["data.source={name: synthetic_videos}", "encoder={}"]
    decoded = made(*films, "data.video={}")
    assert decoded == made(*films, "data.video={cache: somewhere}", "data.source.args.folder=elsewhere")
    trainings = [made("training.seed=1"), made("roi.bins=16"), made("data.source.args.train_videos=31")]
    tests = [made("inference.sigma=0.4"), made("evaluation.proposals=[1]"), made("data.source.args.test_videos=17")]
    assert {trained for trained, _ in tests} == {base[0]}
    assert len({base[0], *(trained for trained, _ in trainings)}) == 4
    assert len({base[1], *(tested for _, tested in (*trainings, *tests))}) == 7


def test_keys_follow_the_content_of_files(tmp_path: Path) -> None:
    truth, features, classes = tmp_path / "truth.json", tmp_path / "features", tmp_path / "classes.csv"
    (features / "a").mkdir(parents=True)

    def made(place: Path = tmp_path) -> tuple[str, str]:
        args = {"features": features, "annotations": place / truth.name, "classifier": classes, "pattern": "{id}"}
        text = ", ".join(f"{name}: '{value}'" for name, value in args.items())
        spec = read_spec(SMOKE, [f"data.source={{name: features, args: {{{text}}}}}"])
        return keys.trained_key(spec), keys.tested_key(spec)

    truth.write_text("1")
    classes.write_text("1")
    first = made()
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / truth.name).write_text("1")
    assert made(tmp_path / "moved") == first
    classes.write_text("22")
    second = made()
    assert (second[0] == first[0], second[1] == first[1]) == (True, False)
    truth.write_text("22")
    assert made()[0] != first[0]
    before = made()[0]
    (features / "b.npy").write_bytes(b"1")
    assert made()[0] != before


def test_a_name_that_is_also_a_folder_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raw data in `mine` beside a pack that is called `mine` after it."""
    monkeypatch.chdir(tmp_path)
    source = "data.source={name: packed, args: {features: prepared/mine, annotations: mine/truth.json, mark: mine}}"
    before = keys.trained_key(read_spec(SMOKE, [source]))
    (tmp_path / "mine").mkdir()
    assert keys.trained_key(read_spec(SMOKE, [source])) == before


def test_keys_follow_the_code_that_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "etad"
    shutil.copytree(ROOT / "etad", package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(etad, "__path__", [str(package)])
    spec = read_spec(SMOKE)

    def made() -> tuple[str, str]:
        keys._code.cache_clear()
        return keys.trained_key(spec), keys.tested_key(spec)

    base = made()
    for name, trains, tests in (
        ("measure.py", False, False),
        ("model/released.py", False, False),
        ("postprocess.py", False, True),
        ("evaluate.py", False, True),
        ("losses.py", True, True),
        ("model/head.py", True, True),
        ("new.py", True, True),
    ):
        with open(package / name, "a") as file:
            file.write("# changed\n")
        changed = made()
        assert (changed[0] != base[0], changed[1] != base[1]) == (trains, tests), name
        base = changed
    for name in (*keys.APART, *keys.AFTER):
        assert (package / name).is_file(), name
    keys._code.cache_clear()


def test_runs_that_train_the_same_share_it(tmp_path: Path) -> None:
    small = ["training.epochs=1", "data.tscale=16", "runtime.device=cpu", "runtime.threads=1"]
    first, one = run.run_in(tmp_path, read_spec(SMOKE, small))
    second, two = run.run_in(tmp_path, read_spec(SMOKE, [*small, "inference.proposal_stride=2"]))
    assert first != second
    (trained,) = (tmp_path / "trained").iterdir()
    assert "trained already" in (second / "log.txt").read_text()
    assert one.keys["trained"] == two.keys["trained"] == trained.name
    for name in ("losses.csv", "timings.csv"):
        assert (first / name).read_bytes() == (second / name).read_bytes() == (trained / name).read_bytes()
    for name in ("parameters", "peak_memory", "flops", "training_time"):
        assert one.figure(name) == two.figure(name)
    assert one.details["anchors_a_video"]["training"] == two.details["anchors_a_video"]["training"]
    assert one.details["anchors_a_video"]["testing"] > two.details["anchors_a_video"]["testing"]


def test_an_edited_record_is_named(tmp_path: Path) -> None:
    record = run.Record(name="a", status="done", started="", finished="", command="")
    run.write_record(tmp_path, record)
    assert run.read_record(tmp_path).name == "a"
    path = tmp_path / "record.json"
    path.write_text(path.read_text().replace('"a"', '"b"'))
    with pytest.raises(run.RecordError, match="edited"):
        run.read_record(tmp_path)


def test_a_folder_that_another_process_holds(tmp_path: Path) -> None:
    holder = "import sys; from pathlib import Path; from experiments.run import held\n"
    holder += "with held(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        with pytest.raises(Failure, match="another process works on"), run.held(tmp_path, wait=False):
            pass
        process.kill()  # the lock goes with the process
        process.wait()
        with run.held(tmp_path):
            pass


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
