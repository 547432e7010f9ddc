"""The first half of a run: a detector trained, in a folder that every run which trains the same reads."""

from functools import cache, partial
from pathlib import Path
from typing import cast

import pandas as pd
import torch

from etad import build, engine, measure, processes
from etad.data.samples import Corpus
from etad.end_to_end import EndToEndModel
from etad.gradients import SnippetEncoder
from etad.model.detector import Detector
from etad.record import CHECKPOINT, TRAINED_FILE, Figure, Trained, now, read_trained, write_json
from etad.spec import Spec, spec_text
from etad.weights import load_weights
from experiments.progress import bar, log, say
from experiments.trace_memory import steps


def trained(
    spec: Spec, corpus: Corpus, folder: Path, device: torch.device, *, key: str, rank: int
) -> tuple[Detector, SnippetEncoder | None, Trained]:
    """The trained detector, the encoder trained with it, and what their training says: from the folder or trained into it.

    Of several processes the first one returns; the others leave when the training is over. Raises RecordError where the
    folder holds another training.
    """
    started = now()
    held = read_trained(folder, key)
    if held is not None:
        say(f"trained already: {folder}")
        processes.leave_together()
        detector, encoder = load(spec, folder / CHECKPOINT)
    else:
        with measure.peak_memory(device) as peak:
            model, videos = train(spec, corpus, folder, device)
        detector = cast(Detector, model.detector)
        encoder = model.encoder if isinstance(model, EndToEndModel) else None
    if rank > 0:
        processes.end_process()
    if held is None:
        where = measure.device_name(device)
        figures = _timing_figures(spec, folder, corpus, where, videos)
        note = "training; features resident on the device included"
        figures += [_measured("run_peak_memory", p, "B", corpus.mark, where, note) for p in peak]
        held = Trained(
            key=key,
            started=started,
            finished=now(),
            mark=corpus.mark,
            anchors=int(model.drawn),
            figures=(*figures, *size_figures(spec)),
            environment=measure.environment(device),
        )
        write_json(folder / TRAINED_FILE, held.model_dump(mode="json"))
    return detector, encoder, held


def load(spec: Spec, path: Path) -> tuple[Detector, SnippetEncoder | None]:
    """Detector and encoder of a checkpoint."""
    detector = build.build_detector(spec)
    load_weights(detector, path)
    if spec.encoder is None:
        return detector, None
    own = spec.encoder.model_copy(update={"checkpoint": str(path)})
    return detector, build.build_encoder(spec.model_copy(update={"encoder": own}))


def size_figures(spec: Spec) -> list[Figure]:
    """Parameters, and the memory and products of a step of this very size, traced: the same on every machine."""
    if spec.encoder:
        return _end_to_end_size(spec)
    training = spec.training.model_copy(update={"seed": 0, "epochs": 1, "decay_epochs": (1,)})  # these change no size
    return _detector_size(spec.model_copy(update={"training": training}).model_dump_json(exclude={"name", "runtime"}))


def _end_to_end_size(spec: Spec) -> list[Figure]:
    training, made = spec.training, steps(spec)
    model = made.made[0]
    traced = made.trace("sampled", chunk=model.encoder.chunk, count=model.count)
    frames = " x ".join(map(str, made.batch["frames"].shape[1:]))
    size = f"{frames}, batch {training.batch}, {training.precision}"
    values = [
        ("parameters", sum(p.numel() for p in model.parameters()), "", "of detector and encoder"),
        ("peak_memory", traced.parts.peak, "B", f"a training step: {size}"),
        ("flops", traced.flops / training.batch, "FLOP", f"a training step, of one video: {size}"),
    ]
    return [Figure(name=n, value=v, unit=u, evidence="traced", note=note) for n, v, u, note in values]


@cache
def _detector_size(text: str) -> list[Figure]:
    spec = Spec.model_validate_json(text)
    training, data = spec.training, spec.data
    step = measure.trace_step(
        partial(build.build_step, spec),
        videos=training.batch,
        tscale=data.tscale,
        channels=data.channels,
        dtype=build.DTYPES[training.precision],
    )
    size = f"T {data.tscale}, C {data.channels}, batch {training.batch}, {training.precision}"
    values = (
        ("parameters", step.parameters // 4, "", "of the detector"),
        ("peak_memory", step.peak, "B", f"a training step: {size}"),
        ("flops", step.flops / training.batch, "FLOP", f"a training step, of one video: {size}"),
    )
    return [Figure(name=n, value=v, unit=u, evidence="traced", note=note) for n, v, u, note in values]


def train(spec: Spec, corpus: Corpus, folder: Path, device: torch.device) -> tuple[engine.TrainingModel, int]:
    """The model trained from the folder's checkpoint on, and on how many videos."""
    rows = build.build_rows(spec, corpus)
    if device.type == "cuda":
        rows = rows.to(device)
    model = build.build_training(spec, build.build_detector(spec), rows.ids).to(device)
    optimizer = build.build_optimizer(spec, model)
    training, runtime = spec.training, spec.runtime
    if (folder / CHECKPOINT).exists():
        say(f"going on from {folder / CHECKPOINT}")
    with bar("training") as advance:

        def progress(step: int, steps: int, losses: dict[str, float]) -> None:
            advance(step, steps, f"loss {losses['total']:.3f}")
            if step * training.epochs % steps == 0:
                parts = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
                log.info(f"epoch {step * training.epochs // steps} of {training.epochs}: {parts}")

        engine.train(
            model,
            rows,
            folder,
            optimizer=optimizer,
            epochs=training.epochs,
            decay_epochs=training.decay_epochs,
            batch=training.batch,
            clip_norm=training.clip_norm,
            dtype=build.DTYPES[training.precision],
            seed=training.seed,
            device=device,
            workers=runtime.workers,
            graph=runtime.graph and spec.encoder is None,
            checkpoint_every=runtime.checkpoint_every,
            log_every=runtime.log_every,
            loggers=runtime.loggers,
            meta={
                "spec": spec_text(spec),
                "classes": list(corpus.annotations.classes),
                "mark": corpus.mark,
                "protocol": {"annotations_sha256": corpus.annotations.sha256, "sources": dict(corpus.sources)},
            },
            progress=progress,
        )
    return model, len(rows)


def _timing_figures(spec: Spec, folder: Path, corpus: Corpus, device: str, videos: int) -> list[Figure]:
    """Training, step and epoch time from timings.csv; each row is a mean over the steps since the one before."""
    table = pd.read_csv(folder / "timings.csv")
    steps = table["iteration"].diff().fillna(table["iteration"])
    total, waited = float((table["seconds"] * steps).sum()), float((table["data_seconds"] * steps).sum())
    warm = table.iloc[1:] if len(table) > 1 else table  # the first row holds the first step, warm-up included
    step = float(warm["seconds"].median())
    made = [("training_time", total, "s"), ("step_time", step, "s"), ("data_wait", 100 * waited / total, "%")]
    made.append(("epoch_time", step * (videos // spec.training.batch), "s"))
    return [_measured(name, value, unit, corpus.mark, device) for name, value, unit in made]


def _measured(name: str, value: float, unit: str, mark: str, device: str, note: str = "") -> Figure:
    return Figure(name=name, value=value, unit=unit, evidence="measured", data=mark, device=device, note=note)
