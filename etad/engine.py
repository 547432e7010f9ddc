"""Training on mmengine's Runner. Ours: the step, a loop that starts mid-epoch, atomic checkpoints."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
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
from etad.hooks import Checkpoints, Progress, StepLog
from etad.losses import Criterion
from etad.processes import everyones, leave_together, rank_and_world, total
from etad.proposals import Draw, ProposalMap
from etad.randomness import uniform
from etad.record import CHECKPOINT
from etad.targets import boundary_targets, match
from etad.weights import first_line, read_checkpoint

START_OVER = "delete it to train from the start"


class TrainingError(ValueError):
    """Training that cannot go on; the message names the step and the videos."""


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
        # In the map's order: neighbours read the same columns, and caches hold those. Nothing of the loss hangs on it.
        anchors = self.anchors[self.sampler(draw).sort(1).values]
        self.drawn.fill_(anchors.shape[1])
        boundary = boundary_targets(segments, present, features.shape[1])
        matched, place = match(anchors, segments, present)
        kinds = torch.arange(4 * len(self.criterion.thresholds), device=device).view(-1, 4, 1)
        draws = uniform(self.seed, LOSSES, batch["iteration"], kinds, row, count=anchors.shape[1], device=device)
        out = self.detector(features.transpose(1, 2), anchors)
        return self.criterion(out, matched, boundary, draws, total, batch["labels"].gather(1, place))

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
        whole = total(torch.stack([part.detach() for part in parts.values()]))
        if not whole.isfinite().all():
            videos = ", ".join(self.ids[r] for r in everyones(batch["row"].tolist()))
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


def record_steps(model: TrainingModel, device: torch.device, dtype: torch.dtype) -> None:
    """Has a model's steps on features replayed as CUDA graphs; on a CPU they stay as they are."""

    def losses(batch: dict[str, Any]) -> dict[str, Tensor]:
        with autocast(device, dtype):
            return model.losses(batch)

    if device.type == "cuda":
        model.graphs = StepGraphs(losses, model.parameters())


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
            raise ValueError(f"{filename}: of another detector ({first_line(error)}); {START_OVER}") from None
        except ValueError as error:
            raise ValueError(f"{error}; {START_OVER}") from None
        return checkpoint


def _as_made(batch: Any) -> Any:
    return batch


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
    if graph and world == 1:
        record_steps(model, device, dtype)
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
        custom_hooks=[StepLog(log_every, progress, model.criterion.parts), Checkpoints(checkpoint_every, meta or {})],
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
