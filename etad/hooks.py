"""What a training does besides its steps: atomic checkpoints, curves, progress."""

import csv
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from etad.record import CHECKPOINT

Progress = Callable[[int, int, dict[str, float]], None]  # step, of how many, its losses


class Checkpoints(Hook):  # type: ignore[misc]
    """Keeps one checkpoint, replaced whole: a kill leaves the old or the new one. It holds tensors and plain values only."""

    priority = "VERY_LOW"

    def __init__(self, every: int, meta: dict[str, Any]):
        self.every, self.meta = every, meta

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        # mmengine's log buffers are objects that a weights-only load refuses; the curves are in losses.csv
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}

    def _save(self, runner: Runner, epoch: int, iteration: int) -> None:
        part = f"{CHECKPOINT}.part"
        meta = {**self.meta, "epoch": epoch, "iter": iteration}
        runner.save_checkpoint(runner.work_dir, part, meta=meta)
        if runner.rank == 0:
            path = Path(runner.work_dir, part)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            os.replace(path, path.with_name(CHECKPOINT))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        last = batch_idx + 1 == len(runner.train_dataloader)
        if not last and (runner.iter + 1) % self.every == 0:
            self._save(runner, runner.epoch, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        self._save(runner, runner.epoch + 1, runner.iter)  # the learning rate's schedule has made its step by now


class StepLog(Hook):  # type: ignore[misc]
    """losses.csv and timings.csv, the visualisation backends, and whoever shows progress."""

    def __init__(self, every: int, progress: Progress | None, parts: Sequence[str]):
        """parts: what the loss is the sum of."""
        self.every, self.progress, self.parts = every, progress, parts

    def before_train(self, runner: Runner) -> None:
        self.folder = Path(runner.work_dir)
        if runner.rank == 0:
            self._open("losses.csv", ["iteration", "epoch", "lr", "total", *self.parts], runner.iter)
            self._open("timings.csv", ["iteration", "seconds", "data_seconds"], runner.iter)
        self._reset()

    def _open(self, name: str, header: list[str], done: int) -> None:
        """Starts the file, or after a resumption keeps its rows up to the checkpoint."""
        path, rows = self.folder / name, []
        if done and path.exists():
            with open(path, newline="") as file:
                rows = [row for row in list(csv.reader(file))[1:] if row and row[0].isdigit() and int(row[0]) <= done]
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([header, *rows])

    def _reset(self) -> None:
        self.seconds, self.waited, self.steps = 0.0, 0.0, 0
        self.left = time.perf_counter()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.waited += time.perf_counter() - self.left

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        now = time.perf_counter()
        self.steps += 1
        self.seconds += now - self.left
        self.left = now
        step, last = runner.iter + 1, batch_idx + 1 == len(runner.train_dataloader)
        if runner.rank != 0 or (step % self.every and step != 1 and not last):
            return
        losses = {k: float(v) for k, v in outputs.items() if k != "loss"}
        lr = runner.optim_wrapper.get_lr()["lr"][0]
        ordered = [losses[k] for k in ("total", *(k for k in losses if k != "total"))]
        self._append("losses.csv", [step, runner.epoch, lr, *ordered])
        seconds, waited = self.seconds / self.steps, self.waited / self.steps
        self._append("timings.csv", [step, f"{seconds:.6f}", f"{waited:.6f}"])
        runner.visualizer.add_scalars({**losses, "lr": lr, "step_seconds": seconds}, step=step)
        if self.progress:
            self.progress(step, runner.max_iters, losses)
        self._reset()

    def _append(self, name: str, row: list[Any]) -> None:
        with open(self.folder / name, "a", newline="") as file:
            csv.writer(file).writerow(row)
