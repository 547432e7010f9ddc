"""Runs of a study on this machine, a few at a time, by processes that compute one after the other."""

import contextlib
import errno
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from etad.record import Record, now, replacing, write_record
from etad.spec import spec_text
from experiments.command import Failure
from experiments.plan import Run, State, state_of
from experiments.run import LOCK
from experiments.worker import SAID

TICK_S, AGAIN_S = 0.2, 5.0  # between two looks at the processes; at what others hold
FULL = os.strerror(errno.ENOSPC)
ROOM = 2**20  # bytes; a disk with less left is full


class Worker:
    """A process that computes runs, one at a time; of the GPUs it sees the given one alone, or all."""

    def __init__(self, threads: int, gpu: str | None = None):
        self.gpu = gpu
        self.process = subprocess.Popen(
            [sys.executable, "-m", "experiments.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interruption reaches it through us alone
            env={"OMP_NUM_THREADS": str(threads), **os.environ} | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}),
        )

    def start(self, run: Run) -> None:
        spec = write_spec(run)
        (run.folder / SAID).unlink(missing_ok=True)
        assert self.process.stdin is not None
        line = json.dumps([str(spec), str(run.folder), str(run.trained.parent.parent)])
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def answer(self) -> str | None:
        """The error of the run that has ended, empty where there is none; None while it goes on."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], 0)[0]:
            return None
        line = self.process.stdout.readline()
        if line:
            return str(json.loads(line))
        code = self.process.wait()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"its process ended with exit code {code}"

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        """Ends the process; the training that it was in goes on from its checkpoint next time."""
        for kind, patience_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, kind)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience_s)
                break
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


@dataclass
class Job:
    """A run that is being computed; by no worker of ours where it is another machine's."""

    run: Run
    worker: Worker | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def last_line(self) -> str:
        """What the run said last."""
        with contextlib.suppress(OSError):
            lines = (self.run.folder / SAID).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return lines[-1] if lines else ""
        return ""


@dataclass
class Progress:
    """What a display may show; `seconds` are of the runs that this process computed."""

    state: State
    jobs: list[Job] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    elsewhere: int = 0  # runs that another process holds
    slots: int = 1

    def left_s(self) -> float | None:
        """Time left, if the runs to come take what those computed took; None where none was."""
        if not self.seconds:
            return None
        each = sum(self.seconds) / len(self.seconds)
        waiting = each * len(self.state.to_come)
        begun = sum(max(0.0, each - (time.monotonic() - job.started)) for job in self.jobs)
        return (waiting + begun) / max(1, self.slots)


def gpus(device: str) -> list[str]:
    """The GPUs to spread runs over, as CUDA_VISIBLE_DEVICES names them; none where runtime.device says which one."""
    if device != "auto":
        return []
    import torch

    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return (named.split(",") if named else [str(n) for n in range(count)])[:count]


def default_jobs(device: str) -> int:
    """Runs at a time: one for a GPU, or for two processor cores."""
    if device.startswith("cuda"):
        return 1
    return len(gpus(device)) or max(1, (os.cpu_count() or 1) // 2)


Watch = Callable[[Progress, Run | None], None]  # called each tick; with the run where one has just ended


def run_all(runs: Iterable[Run], *, jobs: int, retry_failed: bool, watch: Watch) -> State:
    """Computes what is not done, `jobs` at a time, spread over the GPUs; failures are kept, and the others go on.

    Runs that another process computes are left to it and waited for. Raises Failure where the disk is full.
    """
    progress = Progress(state_of(runs, retry_failed=retry_failed), slots=jobs)
    state, threads = progress.state, max(1, (os.cpu_count() or 1) // jobs)
    spread = gpus(state.to_come[0].spec.runtime.device) if state.to_come else []
    idle: list[Worker] = []
    again: dict[Path, float] = {}  # run that another process holds -> when to look again
    try:
        while state.to_come or progress.jobs:
            for job in list(progress.jobs):
                assert job.worker is not None
                error = job.worker.answer()
                if error is None:
                    continue
                progress.jobs.remove(job)
                progress.seconds.append(time.monotonic() - job.started)
                (idle.append if job.worker.alive else Worker.stop)(job.worker)
                settle(job.run, error, state)
                watch(progress, job.run)
            for run in _ready(state, progress, again, jobs, watch):
                worker = idle.pop() if idle else Worker(threads, least_used(spread, progress.jobs))
                progress.jobs.append(Job(run, worker))
                worker.start(run)
            progress.elsewhere = sum(until > time.monotonic() for until in again.values())
            watch(progress, None)
            time.sleep(TICK_S)
    finally:
        for worker in (*idle, *(job.worker for job in progress.jobs if job.worker)):
            worker.stop()
    return state


def least_used(spread: list[str], jobs: list[Job]) -> str | None:
    """The GPU that the fewest jobs compute on; None of none."""
    used = [job.worker.gpu for job in jobs if job.worker]
    return min(spread, key=used.count, default=None)


def _ready(state: State, progress: Progress, again: dict[Path, float], jobs: int, watch: Watch) -> list[Run]:
    """The runs to start now, taken from those to come: no two that train the same, none that another process holds."""
    training: set[Path] = {job.run.trained for job in progress.jobs}
    found: list[Run] = []
    for run in list(state.to_come):
        if len(progress.jobs) + len(found) >= jobs:
            break
        if run.trained in training or again.get(run.folder, 0) > time.monotonic():
            continue
        record = run.record() if run.folder in again else None
        if record is not None and record.status == "done":  # by the other process
            state.to_come.remove(run)
            state.done.append(run)
            again.pop(run.folder)
            watch(progress, run)
        elif _free(run.folder) and _free(run.trained):
            again.pop(run.folder, None)
            state.to_come.remove(run)
            training.add(run.trained)
            found.append(run)
        else:
            again[run.folder] = time.monotonic() + AGAIN_S
    return found


def _free(folder: Path) -> bool:
    """Whether no process works in the folder."""
    if not (folder / LOCK).exists():
        return True
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True


def write_spec(run: Run) -> Path:
    path = run.folder / "spec.yaml"
    with replacing(path) as file:
        file.write(spec_text(run.spec))
    return path


def settle(run: Run, error: str, state: State) -> None:
    """Counts a run that has ended as done or failed, keeping its error. Raises Failure where the disk is full."""
    record, said = run.record(), run.folder / SAID
    if record is not None and record.status == "done":
        state.done.append(run)
        said.unlink(missing_ok=True)
        return
    if FULL in error or shutil.disk_usage(run.folder).free < ROOM:
        raise Failure(
            f"the disk of {run.folder} is full; finished runs are whole: make room, run the same command again"
        )
    if record is None:
        keep_failure(run, error)
    state.failed[run.folder] = error


def keep_failure(run: Run, error: str) -> None:
    """The record of a run that could not write one itself."""
    at = now()
    command = f"python -m experiments.run --spec {run.folder / 'spec.yaml'}"
    failed = Record(name=run.folder.name, status="failed", error=error, started=at, finished=at, command=command)
    write_record(run.folder, failed)
