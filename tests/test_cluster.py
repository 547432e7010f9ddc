"""Studies on a real Slurm of one node; skipped where its daemon is not installed."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from test_ablate import TINY, outcome, starts

from experiments import ablate, cluster
from experiments.command import Failure


@pytest.fixture
def slurm(tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's directory, on a cluster that runs (started here where none does)."""
    pytest.importorskip("submitit")
    if not shutil.which("slurmctld"):
        pytest.skip("no slurmctld here; the Debian packages slurm-wlm and munge have it")
    running = subprocess.run(["sinfo", "-h"], capture_output=True, check=False).returncode == 0
    folder = "" if running else _output(str(shared / "slurm" / "start")).strip().splitlines()[-1]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "tiny.yaml").write_text(TINY.format(smoke=ROOT / "experiments/specs/smoke.yaml"))
    yield tmp_path
    if folder:
        subprocess.run([str(shared / "slurm" / "stop"), folder], check=False)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def wait_for(what: str, there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not there():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


@pytest.mark.slow
def test_a_cancelled_job_is_run_again_and_finished_ones_are_not(slurm: Path) -> None:
    args = ["--study", "temporal_aggregation", "--preset", "tiny.yaml", "--no-bench", "--seeds", "1"]
    args += ["--set", "training.epochs=40", "--set", "runtime.checkpoint_every=5"]
    one, both = ["--only", "aggregator=none"], ["--only", "aggregator=none", "--only", "aggregator=dilated"]
    assert ablate.run([*args, *one]) == 0  # on this machine
    here = starts(slurm)
    on_cluster = [
        sys.executable,
        "-m",
        "experiments.ablate",
        *args,
        *both,
        "--executor",
        "slurm",
        "--slurm",
        "cpus_per_task=1",
    ]
    process = subprocess.Popen(on_cluster, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for("a checkpoint of the job", lambda: len(list(slurm.glob("runs/trained/*/latest.pth"))) == 2)
    names = list(cluster._queued())
    assert len(names) == 1, names
    subprocess.run(["scancel", "--name", names[0]], check=True)
    said = process.communicate(timeout=200)[1]
    assert process.returncode == 0, said
    begun = starts(slurm)
    assert {name: begun[name] for name in here} == here  # finished ones are not run again
    (cancelled,) = set(begun) - set(here)
    assert begun[cancelled] == 2
    logs = [p.read_text() for p in slurm.glob("runs/trained/*/log.txt")]
    assert sum("going on from" in log for log in logs) == 1
    assert len(outcome("studies/temporal_aggregation-tiny").cells) == 2
    assert cluster._queued() == {}
    assert ablate.run([*args, *both]) == 0  # and back on this machine: nothing is left to do
    assert starts(slurm) == begun


def test_without_slurm_or_submitit_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Failure, match="no squeue here"):
        cluster._queued()
    with pytest.raises(Failure, match="write parameter=value"):
        cluster.parsed(["partition"])
    assert cluster.parsed(["partition=gpu", "time=60"]) == {"partition": "gpu", "time": 60}
