"""Runs of a study as jobs of a Slurm cluster, through submitit: `pip install -e ".[cluster]"`.

All nodes must see the folder of runs, this directory and this Python. A job is one training with the runs that test it,
and carries its key in its name, so that any later call finds the jobs that are queued already and waits for them.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping

from experiments.command import Failure
from experiments.plan import Run, State, state_of
from experiments.schedule import Job, Progress, Watch, settle, write_spec
from experiments.worker import SAID

POLL_S = 2.0
JOBS = "jobs"  # submitit's own files, in the folder of runs
DEFAULTS = {"time": 24 * 60, "cpus_per_task": 2}
TRIES = 3  # of a job that ends without its runs, as cancelled ones do

Group = list[Run]  # runs that train the same


def compute(commands: list[tuple[list[str], str]], directory: str) -> None:
    """On a node: each run's command, what it says going into its folder."""
    for command, said in commands:
        with open(said, "w", encoding="utf-8") as file:
            subprocess.run(command, cwd=directory, check=False, stdout=subprocess.DEVNULL, stderr=file)


def run_all(runs: Iterable[Run], *, retry_failed: bool, watch: Watch, parameters: Mapping[str, str | int]) -> State:
    """Submits what is not done and waits for it, taking up the jobs that are queued already; the cluster decides how many
    run at once. An interruption leaves the jobs to the cluster. Raises Failure without submitit or Slurm.
    """
    progress = Progress(state_of(runs, retry_failed=retry_failed))
    state, groups = progress.state, dict[str, Group]()
    for run in state.to_come:
        groups.setdefault(_name(run), []).append(run)
        if retry_failed:
            (run.folder / "record.json").unlink(missing_ok=True)
    state.to_come = []
    tries = dict.fromkeys(groups, 0)
    while groups:
        queued = _queued()
        for name, group in list(groups.items()):
            for run in _ended(group, state):
                group.remove(run)
                watch(progress, run)
            if not group:
                del groups[name]
            elif name in queued:
                continue
            elif tries[name] < TRIES:
                tries[name] += 1
                _submit(name, group, {**DEFAULTS, **parameters})
            elif not _ended(group, State()):
                del groups[name]
                for run in group:  # without a record: the next call runs it again
                    state.failed[run.folder] = (
                        f"its job ended {TRIES} times before it: cancelled, or out of time or memory"
                    )
                    watch(progress, run)
        waiting = [(run, queued.get(name, "")) for name, group in groups.items() for run in group]
        progress.jobs = [Job(run) for run, word in waiting if word == "RUNNING"]
        state.to_come = [run for run, word in waiting if word != "RUNNING"]
        watch(progress, None)
        time.sleep(POLL_S)
    state.to_come, progress.jobs = [], []
    return state


def _name(run: Run) -> str:
    return f"etad-{run.trained.name}"


def _ended(group: Group, state: State) -> list[Run]:
    """The runs of a group that have a record, counted in the state."""
    found = [run for run in group if (run.folder / "record.json").exists()]
    for run in found:
        record = run.record()
        settle(run, record.error if record else "its record cannot be read", state)
    return found


def _queued() -> dict[str, str]:
    """Job name -> state of this user's jobs that have not ended. Raises Failure where there is no Slurm."""
    command = ["squeue", "--noheader", "--me", "--format=%j %T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except FileNotFoundError:
        raise Failure("no squeue here: --executor slurm runs on a node of a Slurm cluster") from None
    except subprocess.SubprocessError as error:
        raise Failure(f"squeue failed: {getattr(error, 'stderr', '') or error}") from None
    words = (line.split() for line in done.stdout.splitlines())
    return {name: word for name, word in words if word != "COMPLETING"}


def _submit(name: str, group: Group, parameters: Mapping[str, str | int]) -> None:
    try:
        import submitit
    except ImportError:
        raise Failure('--executor slurm needs submitit: pip install -e ".[cluster]"') from None
    root = group[0].trained.parent.parent.resolve()
    commands = []
    for run in group:
        spec = write_spec(run).resolve()
        command = [sys.executable, "-m", "experiments.run", "--spec", str(spec), "--runs", str(root)]
        commands.append((command, str(run.folder.resolve() / SAID)))
    executor = submitit.SlurmExecutor(folder=root / JOBS)
    executor.update_parameters(job_name=name, **parameters)
    executor.submit(compute, commands, os.getcwd())


def parsed(pairs: Iterable[str]) -> dict[str, str | int]:
    """`partition=gpu` pairs as parameters of sbatch. Raises Failure."""
    found: dict[str, str | int] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise Failure(f"--slurm {pair!r}: write parameter=value, for example partition=gpu")
        found[name] = int(value) if value.isdigit() else value
    return found
