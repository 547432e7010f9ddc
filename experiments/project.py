"""How many runs studies would take, and how long: from training steps and detections timed here."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from etad import build
from etad.measure import watch_cores
from etad.processes import make_ready
from etad.spec import Spec, parse_spec
from experiments.bench import VIDEOS, Timed, detection, training, what_matters
from experiments.display import duration
from experiments.plan import MADE_UP, TEST_VIDEOS, Plan, Run, distinct, state_of
from experiments.progress import bar
from experiments.schedule import default_jobs

START_S = 8.0  # of a run, before its first and after its last step: imports, data, traced sizes, evaluation
TIMED = 4  # videos of a timed step on a CPU, whose time grows with them
TRAIN_VIDEOS = 400  # the made-up sets' default


def projected(plans: Sequence[Plan], jobs: int | None) -> dict[str, dict[str, Any]]:
    """Study -> runs, those done, and seconds for the rest; a run that an earlier study of these has is not counted again."""
    base = plans[0].base
    jobs = jobs or default_jobs(base.runtime.device)
    make_ready(base.runtime.threads or max(1, (os.cpu_count() or 1) // jobs))  # as each run has
    seen: set[str] = set()
    found: dict[str, dict[str, Any]] = {}
    clock = Clock(build.build_device(base))
    for plan in plans:
        fresh = [run for run in distinct(plan.runs) if run.folder.name not in seen]
        seen |= {run.folder.name for run in fresh}
        state = state_of(fresh)
        seconds = clock.seconds(state.to_come) / jobs
        shared = len(plan.runs) - len(fresh)
        text = f"{len(plan.runs)} runs ({len(state.done)} done"
        text += f", {shared} shared with the studies before" if shared else ""
        text += f"); about {duration(seconds)} for the rest, {jobs} at a time, projected from steps timed here"
        text += "".join(f" ({busy})" for busy in clock.busy)
        found[plan.study.name] = {"runs": len(plan.runs), "done": len(state.done), "seconds": seconds, "text": text}
    return found


class Clock:
    """Seconds of runs, each kind of step timed once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.busy: list[str] = []  # what to say of the machine
        self.steps: dict[str, float] = {}
        self.detections: dict[str, float] = {}

    def seconds(self, runs: Sequence[Run]) -> float:
        """Of runs one after the other; those that train the same train once."""
        total = 0.0
        trained: set[Path] = set()
        with bar("timing") as advance:
            for n, run in enumerate(runs):
                data = sizes(run.spec)
                if run.trained not in trained and not (run.trained / "trained.json").exists():
                    trained.add(run.trained)
                    training = run.spec.training
                    total += self._step(run.spec) * training.epochs * (data.train_rows // training.batch)
                total += START_S + self._detection(run.spec) * data.test_rows
                advance(n + 1, len(runs), "")
        return total

    def _step(self, spec: Spec) -> float:
        kind = what_matters(spec, "step")
        if kind not in self.steps:
            batch = min(TIMED, spec.training.batch) if self.device.type == "cpu" else spec.training.batch
            work = training(spec, self.device, batch)
            self.steps[kind] = self._seconds(work) * spec.training.batch / batch
        return self.steps[kind]

    def _detection(self, spec: Spec) -> float:
        kind = what_matters(spec, "detect")
        if kind not in self.detections:
            self.detections[kind] = self._seconds(detection(spec, self.device)) / VIDEOS
        return self.detections[kind]

    def _seconds(self, work: Timed) -> float:
        """Of one call, after one to warm up."""
        with watch_cores(self.device) as busy:
            for _ in range(2):
                start = time.perf_counter()
                work()
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
            seconds = time.perf_counter() - start
        self.busy = self.busy or busy
        return seconds


@dataclass(frozen=True)
class Sizes:
    train_rows: int
    test_rows: int
    test_videos: int


def sizes(spec: Spec) -> Sizes:
    """Of the data of a spec; made-up sets are not made for it. Raises SpecError, DataError."""
    source = spec.data.source
    if source.name in (MADE_UP, "synthetic_videos"):
        test = source.args.get("test_videos", TEST_VIDEOS)
        return Sizes(source.args.get("train_videos", TRAIN_VIDEOS), test, test)
    return _sizes(spec.data.model_dump_json())


@cache
def _sizes(data: str) -> Sizes:
    spec = parse_spec({"data": json.loads(data)})
    rows = build.build_corpus(spec).subsets
    tested = rows[spec.data.test_subset].ids
    return Sizes(len(rows[spec.data.train_subset].ids), len(tested), len(set(tested)))
