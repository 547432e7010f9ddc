"""Training on mmengine's Runner. Ours: the step, a loop that starts mid-epoch, atomic checkpoints."""

import csv
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import torch
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.data import DataLoader

from etad.data.batches import LOSSES, PROPOSALS, EpochBatches, TrainingRows
from etad.graphs import StepGraphs
from etad.losses import Criterion
from etad.proposals import Draw, ProposalMap
from etad.randomness import uniform
from etad.record import CHECKPOINT
from etad.targets import boundary_targets, match
from etad.weights import read_tensors

START_OVER = "delete it to train from the start"
Progress = Callable[[int, int, dict[str, float]], None]  # step, of how many, its losses


class TrainingError(ValueError):
    """Training that cannot go on; the message names the step and the videos."""


def _total(counts: Tensor) -> Tensor:
    """Sums over all processes."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(counts)
    return counts


def _everyones(items: list[int]) -> list[int]:
    """The items of all processes."""
    if not dist.is_initialized():
        return items
    gathered: list[list[int]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, items)
    return [item for part in gathered for item in part]


class TrainingModel(BaseModel):
    """One training step: draw anchors, make targets, detect, judge. Source: METHOD 4, 6, 7."""

    wrapper: type[MMDistributedDataParallel] = MMDistributedDataParallel  # what several processes train it through
    graphs: StepGraphs | None = None  # replays steps on a GPU

    def __init__(
        self,
        *,
        detector: nn.Module,
        criterion: Criterion,
        sampler: Callable[[Draw], Tensor],
        proposals: ProposalMap,
        ratio: float,
        seed: int,
        ids: tuple[str, ...],
    ):
        super().__init__()
        self.detector, self.criterion, self.sampler = detector, criterion, sampler
        self.proposals, self.ratio, self.seed, self.ids = proposals, ratio, seed, ids
        self.register_buffer("anchors", proposals.anchors, persistent=False)
        self.register_buffer("cells", proposals.cells, persistent=False)
        self.register_buffer("drawn", torch.zeros((), dtype=torch.int64))  # anchors a video in the last step

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The parts of this process's share of the loss, and `loss`, their sum; batch as TrainingRows makes it."""
        features, segments, present = batch["features"].float(), batch["segments"], batch["present"]
        row, device = batch["row"], features.device
        draw = Draw(
            ProposalMap(self.proposals.tscale, self.proposals.dscale, self.anchors, self.cells),
            self.ratio,
            lambda count: uniform(self.seed, PROPOSALS, batch["epoch"], row, count=count, device=device),
            features,
            segments,
        )
        anchors = self.anchors[self.sampler(draw)]
        self.drawn.fill_(anchors.shape[1])
        boundary = boundary_targets(segments, present, features.shape[1])
        matched, place = match(anchors, segments, present)
        kinds = torch.arange(4 * len(self.criterion.thresholds), device=device).view(-1, 4, 1)
        draws = uniform(self.seed, LOSSES, batch["iteration"], kinds, row, count=anchors.shape[1], device=device)
        out = self.detector(features.transpose(1, 2), anchors)
        return self.criterion(out, matched, boundary, draws, _total, batch["labels"].gather(1, place))

    def train_step(self, data: dict[str, Any], optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Raises TrainingError where the loss is not finite."""
        if self.graphs is None:
            return super().train_step(data, optim_wrapper)  # type: ignore[no-any-return]
        parts = self.graphs(data)
        optim_wrapper.step()  # before the losses are read, which waits for them: the weights of a failed step are not kept
        return self.parse_losses(self._checked(parts, data))[1]  # type: ignore[no-any-return]

    def forward(self, mode: str = "loss", **batch: Any) -> dict[str, Tensor]:
        """mmengine's step calls this with the batch's fields. Raises TrainingError where the loss is not finite."""
        return self._checked(self.losses(batch), batch)

    def _checked(self, parts: dict[str, Tensor], batch: dict[str, Any]) -> dict[str, Tensor]:
        """What is logged, and `loss`, which goes back."""
        whole = _total(torch.stack([part.detach() for part in parts.values()]))
        if not whole.isfinite().all():
            videos = ", ".join(self.ids[r] for r in _everyones(batch["row"].tolist()))
            raise TrainingError(
                f"the loss is not finite at iteration {batch['iteration']} (videos {videos}): "
                "check their features, or lower training.lr"
            )
        # DDP averages gradients; the loss is a share of a sum over all processes
        world = dist.get_world_size() if dist.is_initialized() else 1
        logged = {name: value for name, value in zip(parts, whole.unbind(), strict=True) if name != "loss"}
        return {**logged, "loss": parts["loss"] * world, "total": whole[-1]}


class AutocastOptimWrapper(OptimWrapper):
    """Mixed precision by torch.autocast, on any device (mmengine's own insists on a GPU)."""

    def __init__(self, *, device: torch.device, dtype: torch.dtype, **kwargs: Any):
        super().__init__(**kwargs)
        self.device, self.dtype = device, dtype

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), autocast(self.device, self.dtype):
            yield


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


@LOOPS.register_module()
class MidEpochLoop(EpochBasedTrainLoop):  # type: ignore[misc]
    """Resumes inside an epoch, reading no batch that was trained on already."""

    def run_epoch(self) -> None:
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        batches = self.dataloader.batch_sampler
        batches.epoch, batches.begin = self._epoch, self._iter - self._epoch * len(batches)
        for n, batch in enumerate(self.dataloader, start=batches.begin):
            self.run_iter(n, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1


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

    def __init__(self, every: int, progress: Progress | None):
        self.every, self.progress = every, progress

    def before_train(self, runner: Runner) -> None:
        self.folder = Path(runner.work_dir)
        if runner.rank == 0:
            names = _unwrap(runner.model).criterion.parts
            self._open("losses.csv", ["iteration", "epoch", "lr", "total", *names], runner.iter)
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


def _unwrap(model: nn.Module) -> TrainingModel:
    return model.module if isinstance(model, MMDistributedDataParallel) else model  # type: ignore[return-value]


class _Runner(Runner):  # type: ignore[misc]
    """mmengine's Runner on the device it is told, resuming through weights-only loads, leaving no files of its own."""

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        super().setup_env(env_cfg)
        self._timestamp = "."  # mmengine makes a folder of this name in the run's: none

    def dump_config(self) -> None:
        pass  # the run's spec.yaml says more

    def build_logger(self, log_level: int | str = "ERROR", **_: Any) -> MMLogger:
        return MMLogger.get_instance(self.experiment_name, log_level=log_level)

    def wrap_model(self, model_wrapper_cfg: Any, model: nn.Module) -> nn.Module:
        return model

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        super().resume(filename, map_location="cpu")

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            checkpoint = read_checkpoint(Path(filename))
            _unwrap(self.model).load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            raise ValueError(f"{filename}: of another detector ({_first(error)}); {START_OVER}") from None
        except ValueError as error:
            raise ValueError(f"{error}; {START_OVER}") from None
        return checkpoint


def _as_made(batch: Any) -> Any:
    return batch


def rank_and_world() -> tuple[int, int]:
    """This process's place, joining the group that torchrun announces."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def leave_together() -> None:
    """Ends the group of processes, once all are here: each goes its own way from now on."""
    if dist.is_initialized():
        gc.collect()  # what DDP holds of the group goes before it
        dist.barrier()
        dist.destroy_process_group()


def end_process() -> NoReturn:
    """Ends a process that has nothing left to do, without the tear-down of gloo, which now and then aborts.

    The message is "terminate called without an active exception": a thread of the group's is still joinable (torch 2.13).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def train(
    model: TrainingModel,
    rows: TrainingRows,
    folder: Path,
    *,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    decay_epochs: tuple[int, ...],
    batch: int,
    clip_norm: float | None,
    dtype: torch.dtype,
    seed: int,
    device: torch.device,
    workers: int = 0,
    graph: bool = False,
    checkpoint_every: int = 100,
    log_every: int = 10,
    loggers: tuple[str, ...] = (),
    meta: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> None:
    """Trains `model` to the end of the schedule, going on from the folder's checkpoint where there is one.

    graph: steps of one process on a GPU are replayed as a CUDA graph. Raises TrainingError on a loss that is not finite.
    """
    if missing := [name for name in loggers if find_spec(name) is None]:
        raise ValueError(f"runtime.loggers: {', '.join(missing)} not installed; pip install {' '.join(missing)}")
    rank, world = rank_and_world()
    backends = {"tensorboard": "TensorboardVisBackend", "wandb": "WandbVisBackend"}
    batches = EpochBatches(len(rows), batch=batch, seed=seed, rank=rank, world=world)
    loader = DataLoader(rows, batch_sampler=batches, num_workers=workers, collate_fn=_as_made)
    if graph and device.type == "cuda" and world == 1:

        def losses(batch: dict[str, Any]) -> dict[str, Tensor]:
            with autocast(device, dtype):
                return model.losses(batch)

        model.graphs = StepGraphs(losses, model.parameters())
    wrapped = (
        model.wrapper(model, device_ids=[device.index] if device.index is not None else None) if world > 1 else model
    )
    runner = _Runner(
        model=wrapped,
        work_dir=str(folder),
        train_dataloader=loader,
        train_cfg={"type": "MidEpochLoop", "max_epochs": epochs},
        optim_wrapper=AutocastOptimWrapper(
            device=device,
            dtype=dtype,
            optimizer=optimizer,
            clip_grad={"max_norm": clip_norm} if clip_norm else None,
        ),
        param_scheduler=[{"type": "MultiStepLR", "milestones": list(decay_epochs), "gamma": 0.1, "by_epoch": True}],
        default_hooks={"logger": None, "checkpoint": None, "sampler_seed": None, "timer": None},
        custom_hooks=[StepLog(log_every, progress), Checkpoints(checkpoint_every, meta or {})],
        load_from=str(folder / CHECKPOINT) if (folder / CHECKPOINT).exists() else None,
        resume=(folder / CHECKPOINT).exists(),
        launcher="pytorch" if world > 1 else "none",
        visualizer={"type": "Visualizer", "vis_backends": [{"type": backends[name]} for name in loggers]},
        log_level="ERROR",
        randomness={"seed": seed},
        experiment_name=f"{folder.name}-{time.time_ns()}",
    )
    runner.train()
    del runner, wrapped
    leave_together()


def _first(error: Exception) -> str:
    """The first line that says something: torch's first one names a class."""
    lines = [line.strip() for line in str(error).splitlines() if "loading state_dict" not in line]
    return next(iter(lines), type(error).__name__)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint as tensors and plain values; no code of it runs. Raises ValueError naming the file."""
    checkpoint = read_tensors(path)
    if not isinstance(checkpoint, dict) or not {"state_dict", "meta"} <= checkpoint.keys():
        raise ValueError(f"{path}: not a checkpoint of this suite: it has no state_dict or no meta")
    return checkpoint


def load_weights(detector: nn.Module, path: Path) -> dict[str, Any]:
    """Loads a checkpoint's detector, weights only, and returns what it says of itself. Raises ValueError naming the file."""
    checkpoint, prefix = read_checkpoint(path), "detector."
    try:
        state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
        detector.load_state_dict(state)
        return dict(checkpoint["meta"])
    except (RuntimeError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a checkpoint of this detector ({_first(error)})") from None
