"""The step benchmark of a study: its values in turn, step by step, so that a machine's moods hit all alike."""

import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray

from ablations.outcome import Estimate
from etad import build, footprint, measure
from etad.data.samples import Samples
from etad.end_to_end import EndToEndModel
from etad.processes import make_ready
from etad.record import Evidence
from etad.spec import Spec
from experiments.progress import bar

ROUNDS, VIDEOS = 7, 2  # timed rounds, after one to warm up; videos detected in a round
Floats = NDArray[np.float64]
Timed = Callable[[], object]


def training(spec: Spec, device: torch.device, videos: int | None = None) -> Timed:
    """A training step on noise, of the spec's batch or of so many videos."""
    spec = _untrained(spec)
    data, dtype, count = spec.data, build.DTYPES[spec.training.precision], videos or spec.training.batch
    made = build.build_step(spec, device)
    if isinstance(made[0], EndToEndModel):
        batch = footprint.make_frames(count, data.tscale, _clip(spec), device)
        return partial(footprint.step, (made[0], made[1]), batch, "sampled", dtype)
    return partial(measure.step, made, measure.made_up_batch(count, data.tscale, data.channels, device), dtype)


def detection(spec: Spec, device: torch.device) -> Timed:
    """Detection in VIDEOS videos of noise, the encoder before and soft-NMS included."""
    spec = _untrained(spec)
    made = build.build_inference(spec, build.build_detector(spec), device)
    T, C = spec.data.tscale, spec.data.channels
    noise = np.random.default_rng(0).standard_normal((VIDEOS, T, C)).astype(np.float16)
    samples = Samples(tuple(str(n) for n in range(VIDEOS)), np.tile([0.0, 60.0], (VIDEOS, 1)), noise)

    def detect() -> None:
        if encoder is not None:
            encoder(frames)
        for _, rows in made.videos(samples):
            made.detections(rows, 60.0)

    encoder = None
    if spec.encoder:
        encoder = build.build_encoder(spec).to(device).eval()
        frames = footprint.make_frames(VIDEOS, T, _clip(spec), device)["frames"]
    return detect


def _untrained(spec: Spec) -> Spec:
    """The spec with an encoder from no file, which takes the same time."""
    if spec.encoder is None:
        return spec
    return spec.model_copy(update={"encoder": spec.encoder.model_copy(update={"checkpoint": None})})


def _clip(spec: Spec) -> footprint.Clip:
    assert spec.data.video is not None
    return spec.data.video.frames, spec.data.video.size, spec.data.video.size


def _rounds(what: str, work: Mapping[str, Timed], device: torch.device) -> dict[str, list[float]]:
    """Seconds of each, in rounds through all; the first round warms up and is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    with bar(what) as advance:
        for n in range(1 + ROUNDS):
            for name, run in work.items():
                start = time.perf_counter()
                run()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                if n:
                    seconds[name].append(time.perf_counter() - start)
            advance(n + 1, 1 + ROUNDS, "")
    return seconds


def time_estimates(specs: Mapping[str, Spec], steps: Mapping[str, int]) -> dict[str, list[Estimate]]:
    """Time columns of each cell: its step and its detection, measured; its training, projected over its steps.

    The machine should do nothing else; two benchmarks on it wait for each other. A ratio is the median over rounds of this
    cell's seconds by the first cell's of the same round.
    """
    with FileLock(Path(tempfile.gettempdir()) / "etad-bench.lock"):
        return _time_estimates(specs, steps)


def _time_estimates(specs: Mapping[str, Spec], steps: Mapping[str, int]) -> dict[str, list[Estimate]]:
    base = next(iter(specs.values()))
    make_ready(base.runtime.threads)
    device = build.build_device(base)
    where = measure.device_name(device)
    found: dict[str, list[Estimate]] = {name: [] for name in specs}
    for kind, make in (("step", training), ("detect", detection)):
        alike: dict[str, str] = {}  # cells whose steps are the same are timed once
        work: dict[str, Timed] = {}
        for name, spec in specs.items():
            same = what_matters(spec, kind)
            if same not in alike:
                alike[same] = name
                work[name] = make(spec, device)
        with measure.watch_cores(device) as busy:
            seconds = _rounds(f"timing {kind}s, interleaved", work, device)
        first = np.array(next(iter(seconds.values())))
        for name, spec in specs.items():
            times = np.array(seconds[alike[what_matters(spec, kind)]])
            for made in _estimates(kind, times, times / first, spec, steps.get(name), where):
                found[name].append(made.model_copy(update={"note": "; ".join((made.note, *busy))}))
    return found


def what_matters(spec: Spec, kind: str) -> str:
    """The same for specs whose steps, or detections, take the same time."""
    left_out = {"name", "runtime", "evaluation"} | ({"inference"} if kind == "step" else {"proposals", "loss"})
    tree: dict[str, Any] = spec.model_dump(mode="json", exclude=left_out)
    del tree["data"]["source"]  # they run on noise
    for knob in ("seed", "epochs", "decay_epochs", "lr"):
        tree["training"].pop(knob)
    if kind == "detect":
        tree["training"] = {}
    return repr(tree)


def _estimates(kind: str, times: Floats, ratios: Floats, spec: Spec, steps: int | None, where: str) -> list[Estimate]:
    def estimate(name: str, values: Floats, unit: str, note: str, evidence: Evidence = "measured") -> Estimate:
        low, value, high = (float(v) for v in np.quantile(values, (0.25, 0.5, 0.75)))
        spread = f"; median of {ROUNDS} interleaved rounds, quartiles {low:.3g} to {high:.3g}"
        return Estimate(name=name, value=value, unit=unit, evidence=evidence, device=where, note=note + spread)

    if kind == "detect":
        note = f"a video at T {spec.data.tscale}, {spec.inference.precision}"
        return [estimate("detect_time_video", times / VIDEOS, "s", note)]
    size = f"a step at T {spec.data.tscale}, batch {spec.training.batch}, {spec.training.precision}"
    found = [
        estimate("step_time", times, "s", size),
        estimate("step_time_ratio", ratios, "", "by the first cell's of the same round"),
    ]
    if steps:
        found.append(estimate("training_time", times * steps, "s", f"step_time x {steps} steps", "projected"))
    return found
