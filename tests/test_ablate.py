"""Studies run as a user runs them: shared, killed, failing, full disks, a cluster."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from rich.console import Console
from waiting import children, runs, until

from ablations.outcome import StudyOutcome
from ablations.studies import STUDIES
from etad.record import read_record
from etad.spec import read_spec
from experiments import ablate, bench, display, studying
from experiments.plan import Plan, shard
from experiments.project import START_S, Clock
from experiments.schedule import Job, Progress, Worker, default_jobs, gpus, least_used
from experiments.studying import looks

TINY = """
_base_: {smoke}
name: tiny
data:
  source: {{args: {{train_videos: 16, test_videos: 6, classes: 3}}}}
  tscale: 16
training: {{epochs: 1, decay_epochs: [1]}}
runtime: {{device: cpu, threads: 1}}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's directory with a preset of the smallest size."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "tiny.yaml").write_text(TINY.format(smoke=ROOT / "experiments/specs/smoke.yaml"))
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def words(study: str, *more: str) -> list[str]:
    return ["--study", study, "--preset", "tiny.yaml", "--no-bench", "--jobs", "1", *more]


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON where there is some, and what was said."""
    capsys.readouterr()
    try:
        code: Any = ablate.run([*args, "--json"])
    except SystemExit as left:
        code = left.code
    said = capsys.readouterr()
    return code, json.loads(said.out) if said.out else {}, said.err


def outcome(folder: str) -> StudyOutcome:
    return StudyOutcome.model_validate_json(Path(folder, "study.json").read_text())


def starts(home: Path) -> dict[str, int]:
    """Run -> how often it was begun."""
    return {p.parent.name: p.read_text().count("start: ") for p in home.glob("runs/*-*/log.txt")}


def test_a_study_from_its_runs_to_its_page(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [*words("cascade_depth"), "--seeds", "2", "--only", "stages=1", "--only", "stages=3"]
    args.remove("--no-bench")
    code, result, said = run(capsys, *args)
    assert code == 0, said
    found = outcome("studies/cascade_depth-tiny")
    assert result["folders"] == ["studies/cascade_depth-tiny"]
    assert all(Path(page).stat().st_size > 1000 for page in result["pages"])
    assert [c.name for c in found.cells] == [
        f"stages={n}, thresholds={t}" for n, t in ((1, "rising"), (3, "rising"), (1, "one for all"), (3, "one for all"))
    ]
    assert found.cells[0].runs == found.cells[2].runs  # values that mean the same run are one run
    assert len(list(home.glob("runs/tiny-*"))) == 3 * 2 + 2 * 2  # cells, and both sides of the claim on more videos
    assert len(list(home.glob("runs/trained/*/trained.json"))) == 6
    for cell in found.cells:
        run_of = read_record(home / "studies/cascade_depth-tiny" / found.runs / cell.runs[0])
        units = {e.name: (e.evidence, e.value is not None) for e in cell.estimates}
        for name in ("average_mAP", "mAP@0.50", "step_time", "step_time_ratio", "detect_time_video"):
            assert units[name] == ("measured", True), name
        for name in ("parameters", "flops", "peak_memory", "anchors", "steps", "proposals_seen"):
            assert units[name] == ("traced", True), name
        assert units["training_time"] == ("projected", True)
        mean = cell.estimate("average_mAP")
        assert mean is not None
        values = [read_record(home / "runs" / name).figure("average_mAP").value for name in cell.runs]  # type: ignore[union-attr]
        assert mean.value == pytest.approx(sum(values) / 2)  # type: ignore[arg-type]
        assert mean.low <= mean.value <= mean.high  # type: ignore[operator]
        assert run_of.data is not None
        assert run_of.data.videos == {"training": 16, "validation": 6}
    one, three = found.cells[0], found.cells[1]
    for name in ("parameters", "flops", "peak_memory"):
        assert one.estimate(name).value < three.estimate(name).value  # type: ignore[union-attr]
    difference, scores = one.estimate("difference"), [c.estimate("average_mAP").value for c in (one, three)]  # type: ignore[union-attr]
    assert difference is not None
    assert difference.value == pytest.approx(scores[0] - scores[1])
    assert difference.low <= difference.value <= difference.high  # type: ignore[operator]
    assert three.estimate("difference") is None  # three stages are the default
    (verdict,) = found.verdicts
    assert (verdict.claim, verdict.seeds, verdict.videos) == ("cascade", 2, 30)
    assert "power" in said
    assert "3 seeds" not in found.command
    assert set(found.diagnosis) <= {c.name for c in found.cells}
    kept = {path: path.stat().st_mtime_ns for path in home.glob("runs/*/*")}
    code, again, _ = run(capsys, *args, "--no-bench")
    assert code == 0
    assert {path: path.stat().st_mtime_ns for path in home.glob("runs/*/*")} == kept
    assert again["studies"]["cascade_depth"]["outcome"]["verdicts"] == [
        v.model_dump(mode="json") for v in found.verdicts
    ]


def test_a_failure_is_kept_and_an_edited_record_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Half of the anchors, and no square of them fits: block fails, random does not.
    args = [*words("proposal_sampling"), "--seeds", "1", "--only", "ratio=0.2"]
    args += ["--only", "strategy=block", "--only", "strategy=random", "--set", "proposals.max_duration=0.1"]
    code, _, said = run(capsys, *args)
    assert code == 1
    assert "1 runs failed, all others are done; --retry-failed tries them again" in said
    found = outcome("studies/proposal_sampling-tiny")
    cells = {c.values["strategy"]: c for c in found.cells}
    assert cells["random"].estimate("average_mAP") is not None
    (error,) = cells["block"].failed.values()
    assert "fits no map" in error
    assert cells["block"].estimates == ()
    begun = starts(home)
    assert run(capsys, *args)[0] == 1
    assert starts(home) == begun
    (edited,), (retried,) = cells["random"].runs, cells["block"].runs
    path = home / "runs" / edited / "record.json"
    path.write_text(re.sub(r'("name": "average_mAP",\s*"value": )[\d.]+', r"\g<1>99.5", path.read_text()))
    code, _, said = run(capsys, *args, "--retry-failed")
    assert code == 1
    assert f"runs/{edited}/record.json: edited since it was written" in said
    assert read_record(path.parent).figure("average_mAP").value != 99.5  # type: ignore[union-attr]
    again = starts(home)
    assert {name: again[name] - begun[name] for name in begun} == {edited: 1, retried: 1}


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "experiments.ablate", *args]


QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}


def begun_study(home: Path) -> tuple[list[str], subprocess.Popen[str], int]:
    """A study of two runs inside its first training: its command, its process and its worker's number."""
    args = [*words("temporal_aggregation"), "--seeds", "1", "--only", "aggregator=none", "--only", "aggregator=dilated"]
    args += ["--set", "training.epochs=30", "--set", "runtime.checkpoint_every=5"]
    study = subprocess.Popen(command(*args), **QUIET)
    until(lambda: bool(list(home.glob("runs/trained/*/latest.pth"))), "a checkpoint")
    (worker,) = children(study.pid)
    return args, study, worker


@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGKILL])
def test_one_of_two_processes_is_ended_and_the_others_go_on(home: Path, ended_by: signal.Signals) -> None:
    args, first, worker = begun_study(home)
    first.send_signal(ended_by)
    first.communicate()
    until(lambda: not runs(worker), "the worker's end")
    assert not list(home.glob("runs/*/record.json"))
    both = [subprocess.Popen(command(*args), **QUIET) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    logs = [p.read_text() for p in home.glob("runs/trained/*/log.txt")]
    assert sum("going on from" in log for log in logs) == 1
    assert sorted(starts(home).values()) == [1, 2]  # only the run that was ended was begun again
    assert len(outcome("studies/temporal_aggregation-tiny").cells) == 2


def test_a_killed_worker_is_a_failed_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a machine short of memory does."""
    args, study, worker = begun_study(home)
    os.kill(worker, signal.SIGKILL)
    said = study.communicate(timeout=120)[1]
    assert study.returncode == 1
    assert "killed by SIGKILL" in said
    assert sorted(cell.failed != {} for cell in outcome("studies/temporal_aggregation-tiny").cells) == [False, True]
    assert run(capsys, *args, "--retry-failed")[0] == 0
    assert sorted(starts(home).values()) == [1, 2]


FULL_DISK = """
import errno, os
from pathlib import Path
old = os.replace
def replace(source, target, **more):
    if Path(target).name == "detections.json" and len(list(Path("runs").glob("*/record.json"))) == 1:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
    old(source, target, **more)
os.replace = replace
"""


def test_a_full_disk_stops_the_study_with_its_finished_runs_whole(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "full").mkdir()
    (home / "full" / "sitecustomize.py").write_text(FULL_DISK)
    monkeypatch.setenv("PYTHONPATH", f"{home / 'full'}{os.pathsep}{ROOT}")
    args = [
        *words("roi"),
        "--seeds",
        "1",
        "--only",
        "extension=0.0",
        "--only",
        "extension=0.25",
        "--only",
        "extension=1.0",
    ]
    code, result, said = run(capsys, *args)
    assert (code, result) == (1, {})
    assert "is full; finished runs are whole: make room, run the same command again" in said
    done = [read_record(path.parent) for path in home.glob("runs/*/record.json")]
    assert [record.status for record in done].count("done") == 1
    assert not (home / "studies").exists()


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--study", "cascade_deph"], 2, "no study named 'cascade_deph'; did you mean cascade_depth?"),
        (["--study", "roi", "--only", "bin=8"], 2, "has no axis 'bin'; did you mean bins?"),
        (["--study", "roi", "--only", "extension=0.4"], 2, "has no value '0.4'; did you mean 0.5 or 0.0 or 0.25"),
        (["--study", "roi", "--set", "roi.bin=8"], 1, "did you mean roi.bins?"),
        (["--study", "roi", "--preset", "laptopp"], 1, "laptopp.yaml"),
        (["--study", "roi", "--data", "nowhere"], 2, "give a spec, or a folder that experiments.prepare made"),
        (["--study", "roi", "--shard", "3/2"], 2, "write i/n"),
        ([], 2, "give --study NAME"),
    ],
)
def test_misuse(args: list[str], code: int, message: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, _, said = run(capsys, *args)
    assert found == code
    assert message in said
    assert not (home / "runs").exists()


def plan(study: str, **more: Any) -> Plan:
    args = ablate.arguments().parse_args(["--study", study, "--preset", str(ROOT / "experiments/specs/laptop.yaml")])
    for name, value in more.items():
        setattr(args, name, value)
    return ablate.make_plan(args, STUDIES[study])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shards_are_the_whole_study_and_keep_what_trains_the_same_together(count: int) -> None:
    runs = plan("test_proposals").runs
    parts = [shard(runs, n, count) for n in range(1, count + 1)]
    assert sorted(run.folder for part in parts for run in part) == sorted(run.folder for run in runs)
    trained = [{run.trained for run in part} for part in parts]
    assert sum(map(len, trained)) == len(set().union(*trained)) == 3


def test_the_runs_of_claims_and_cells() -> None:
    made = plan("temporal_aggregation")
    assert {name: len(runs) for name, runs in made.cells.items()} == dict.fromkeys(made.cells, 3)
    (sides,) = made.claims
    assert len(sides.left) == len(sides.right) == 6
    assert {run.spec.data.source.args["test_videos"] for run in (*sides.left, *sides.right)} == {1000}
    assert len(made.runs) == 6 * 3 + 2 * 6
    assert len({run.trained for run in made.runs}) == 6 * 3 + 2 * 3  # a claim's first three seeds are its cells'
    assert {run.trained for run in sides.left[:3]} == {run.trained for run in made.cells["aggregator=lstm"]}
    assert len(plan("temporal_aggregation", variants=True).runs) == len(made.runs) + 4 * 2 * 6
    assert looks(made, 0) == [6]
    assert looks(made, 13) == [6, 9, 12, 13]
    assert looks(plan("roi"), 13) == [6]


def test_what_prepared_data_say_goes_before_the_preset(home: Path) -> None:
    (home / "mine").mkdir()
    (home / "mine" / "spec.yaml").write_text(
        "data: {source: {name: packed, args: {features: mine, annotations: gt.json}}, tscale: 48, channels: 8}\n"
        "training: {batch: 4}\nproposals: {max_duration: 0.5}\n"
    )
    for given in (Path("mine"), Path("mine/spec.yaml")):
        args = ablate.arguments().parse_args(["--study", "roi", "--data", str(given), "--set", "training.lr=0.5"])
        args.typed = []
        base = ablate.base_spec(args)
        assert (base.name, base.data.tscale, base.data.source.name) == ("mine", 48, "packed")
        assert (base.training.batch, base.training.epochs, base.training.lr) == (4, 8, 0.5)
        assert (base.proposals.max_duration, base.model.width) == (0.5, 128)
        assert ablate.options(args, "roi").folder == Path("studies/roi-mine")
        made = ablate.make_plan(args, STUDIES["cascade_depth"])
        assert {run.folder for run in made.claims[0].left[:3]} == {
            run.folder for run in made.cells["stages=3, thresholds=rising"]
        }
        assert len(made.runs) == 7 * 3 + 2 * 3  # a claim adds seeds alone: the videos are those that there are


def test_studies_share_their_default_runs() -> None:
    folders = [{run.folder for run in plan(name).runs} for name in ("roi", "precision", "temporal_aggregation")]
    assert len(folders[0] & folders[1] & folders[2]) == 3


def test_seeds_are_added_until_a_claim_is_decided(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def compute(plan: Plan, options: studying.Options) -> Any:
        seen.append(plan.claim_seeds)
        return Progress(studying.State()).state

    monkeypatch.setattr(studying, "compute", compute)
    monkeypatch.setattr(studying, "_undecided", lambda plan, count: plan.claim_seeds < 9)
    options = studying.Options(folder=home / "s", command="", jobs=1, until=15, bench=False)
    result = studying.run_study(plan("cascade_depth", preset="tiny.yaml"), options)
    assert seen == [6, 9]
    assert result.outcome is not None
    assert result.outcome.verdicts[0].word == "not run"


def test_a_terminal_is_drawn_live(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, out = plan("precision"), io.StringIO()
    monkeypatch.setattr(display, "console", Console(file=out, force_terminal=True, width=120))
    runs = made.cells["precision=float32"]
    board = display.Board("precision", made.cells, len(made.runs))
    state = studying.State(done=[runs[0]], failed={runs[1].folder: "it broke"}, to_come=list(runs[2:]))
    board.reached[runs[0].folder.name] = 41.5
    progress = Progress(state, jobs=[Job(runs[2])], seconds=[90.0, 110.0])
    with display.shown(board) as watch:
        watch(progress, runs[1])
        watch(progress, None)
    said = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    assert "precision=float32, seed 1: failed: it broke" in said
    assert "precision: 1 of 6 done, 1 running, 1 to come, 1 failed; about 3 min left" in said
    assert "best so far: precision=float32 at 41.50" in said
    assert "precision=float32, seed 2" in said


@pytest.mark.parametrize(
    ("device", "visible", "spread", "jobs"),
    [
        ("auto", None, ["0", "1", "2"], 3),
        ("auto", "5,GPU-9af1,7", ["5", "GPU-9af1", "7"], 3),
        ("cuda:1", None, [], 1),
        ("cpu", None, [], max(1, (os.cpu_count() or 1) // 2)),
    ],
)
def test_runs_are_spread_over_gpus(
    device: str, visible: str | None, spread: list[str], jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus(device) == spread
    assert default_jobs(device) == jobs


def test_without_gpus_two_cores_are_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert gpus("auto") == []
    assert default_jobs("auto") == max(1, (os.cpu_count() or 1) // 2)


def test_each_worker_sees_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs, three at a time: the third shares with the first; one that ends makes its GPU the least used."""
    seen: list[str | None] = []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, env, **__: seen.append(env.get("CUDA_VISIBLE_DEVICES")))
    run, jobs = plan("roi").runs[0], list[Job]()
    for _ in range(3):
        jobs.append(Job(run, Worker(1, least_used(["0", "1"], jobs))))
    Worker(1, least_used([], jobs))
    assert seen == ["0", "1", "0", None]
    assert least_used(["0", "1"], jobs[1:]) == "0"
    assert least_used(["0", "1"], jobs[::2]) == "1"


def test_a_projection_counts_what_is_to_come(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [*words("precision"), "--seeds", "2", "--dry-run"]
    code, result, _ = run(capsys, *args, "--study", "roi", "--only", "extension=0.5")
    assert code == 2  # precision has no such axis
    code, result, _ = run(capsys, *args)
    found = result["dry_run"]["precision"]
    assert (code, found["runs"], found["done"]) == (0, 4, 0)
    assert found["seconds"] > 4 * START_S
    assert "4 runs (0 done); about" in found["text"]
    assert not (home / "runs").exists()


def test_steps_that_take_the_same_time_are_timed_once() -> None:
    base = read_spec(ROOT / "experiments/specs/laptop.yaml")
    alike = ["data.source.args.test_videos=1000", "training.seed=3", "training.epochs=16", "training.decay_epochs=[12]"]
    same, other = (read_spec(ROOT / "experiments/specs/laptop.yaml", o) for o in (alike, ["proposals.ratio=0.5"]))
    for kind in ("step", "detect"):
        assert bench.what_matters(base, kind) == bench.what_matters(same, kind)
    assert bench.what_matters(base, "step") != bench.what_matters(other, "step")
    assert bench.what_matters(base, "detect") == bench.what_matters(other, "detect")  # all proposals are tested


def test_steps_end_to_end_are_timed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ROUNDS", 2)
    spec = read_spec(ROOT / "experiments/specs/end_to_end_smoke.yaml", ["encoder.checkpoint=nowhere.pth"])
    more = spec.model_copy(update={"encoder": spec.encoder.model_copy(update={"ratio": 1.0})})  # type: ignore[union-attr]
    seed = spec.model_copy(update={"training": spec.training.model_copy(update={"seed": 7})})
    found = bench.time_estimates({"few": spec, "all": more, "alike": seed}, {"few": 10})
    times = {cell: {e.name: e.value for e in estimates} for cell, estimates in found.items()}
    assert times["few"]["training_time"] == pytest.approx(10 * times["few"]["step_time"])  # type: ignore[operator]
    assert "training_time" not in times["all"]  # its runs have no steps to count
    assert times["few"]["step_time_ratio"] == 1
    assert times["alike"]["step_time"] == times["few"]["step_time"]  # the same step, so timed once


def test_the_commands_of_the_readme(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Clock, "seconds", lambda self, runs: 1.0)
    text = (ROOT / "README.md").read_text()
    typed = re.findall(r"python -m experiments\.ablate ([^`\n|#]*)", text)
    assert len(typed) >= 3
    for line in typed:
        args = [word for word in line.split() if word]
        if "--data" in args:
            continue  # of the user's own; tested by whoever prepares it
        if "--list" not in args:
            args += ["--preset", "tiny.yaml", "--dry-run"]
        assert run(capsys, *args)[0] == 0, line
