"""One spec -> one record: train, detect, evaluate. What is done is not done again; what was interrupted goes on."""

import argparse
import hashlib
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import etad
from etad import build, engine, measure
from etad.data.annotations import Annotations, read_blocked
from etad.data.samples import Corpus, Samples
from etad.detections import Detections, write_detections
from etad.evaluate import Evaluation, class_agnostic, evaluate
from etad.postprocess import Scored, collect, postprocess_video
from etad.record import DataSummary, Figure, Record, RecordError, read_record, replacing, write_json, write_record
from etad.spec import TESTED, TRAINED, Spec, read_spec, spec_text
from experiments.command import Failure, console, main, parser

log = logging.getLogger(__name__)
log.setLevel(logging.INFO)
log.propagate = False
EXAMPLES = 6  # videos kept for timelines
Advance = Callable[[int, int, str], None]  # done, of how many, what is new


def key(spec: Spec, sections: Sequence[str]) -> str:
    """Hash of the sections that decide a result and of the code that computes it."""
    digest = hashlib.sha256(json.dumps({s: spec.model_dump(mode="json")[s] for s in sections}, sort_keys=True).encode())
    root = Path(etad.__path__[0])
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def run_folder(spec: Spec, root: Path) -> Path:
    return root / f"{spec.name}-{key(spec, TESTED)}"


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """What is said meanwhile goes into this file too, behind what an interrupted run said."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def say(text: str) -> None:
    """A line on standard error and in the log."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    log.info(text)


@contextmanager
def bar(what: str) -> Iterator[Advance]:
    """A progress bar on standard error; plain lines, one each tenth, where that is no terminal."""
    if not console.is_terminal:
        said = [-1]

        def line(done: int, total: int, news: str) -> None:
            tenth = 10 * done // max(total, 1)
            if tenth != said[0]:
                said[0] = tenth
                console.print(f"{what}: {done}/{total} {news}".rstrip(), highlight=False, soft_wrap=True)

        yield line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, TextColumn("{task.fields[news]}"), console=console) as progress:
        task = progress.add_task(what, total=None, news="")
        yield lambda done, total, news: progress.update(task, completed=done, total=total, news=news)


def train(spec: Spec, corpus: Corpus, folder: Path, device: torch.device) -> tuple[torch.nn.Module, int]:
    """The trained detector, from the folder's checkpoint or from there on, and the anchors it saw a video and step."""
    detector = build.build_detector(spec)
    rows = build.build_rows(spec, corpus)
    if device.type == "cuda":
        rows = rows.to(device)
    model = build.build_training(spec, detector, rows.ids).to(device)
    optimizer = build.build_optimizer(spec, model)
    training, runtime = spec.training, spec.runtime
    if (folder / engine.CHECKPOINT).exists():
        say(f"going on from {folder / engine.CHECKPOINT}")
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
            checkpoint_every=runtime.checkpoint_every,
            log_every=runtime.log_every,
            loggers=runtime.loggers,
            meta={"spec": spec_text(spec), "classes": list(corpus.annotations.classes), "mark": corpus.mark},
            progress=progress,
        )
    return detector, int(model.drawn)


def classes_of(corpus: Corpus, annotations: Annotations, id: str, top: int) -> list[tuple[int, float]] | None:
    if corpus.classifier is None:
        return None
    number = {name: n for n, name in enumerate(annotations.classes)}
    return [(number[name], score) for name, score in corpus.classifier.get(id, ())[:top]]


def detect(
    spec: Spec, corpus: Corpus, annotations: Annotations, detector: torch.nn.Module, device: torch.device
) -> tuple[Detections, list[dict[str, Any]]]:
    """Detections of the test subset, and a few videos in full for timelines."""
    samples: Samples = corpus.subsets[spec.data.test_subset]
    ids = tuple(dict.fromkeys(samples.ids))
    inference, found = spec.inference, []
    examples: list[dict[str, Any]] = []
    with bar("detecting") as advance:
        rows = engine.predict(
            detector,
            samples,
            build.build_test_anchors(spec),
            dtype=build.DTYPES[inference.precision],
            device=device,
            progress=lambda done, total: advance(done, total, ""),
        )
        for id, scored in _by_video(samples.ids, rows):
            video = annotations.videos[id]
            classes = classes_of(corpus, annotations, id, inference.top_classes)
            found.append(
                postprocess_video(
                    scored,
                    video.duration_s,
                    classes,
                    sigma=inference.sigma,
                    max_detections=inference.max_detections,
                    candidates=inference.candidates,
                )
            )
            if len(examples) < EXAMPLES and len(video.labels):
                examples.append(_example(annotations, id, found[-1], scored))
    return collect(ids, annotations.classes, found), examples


def _by_video(ids: Sequence[str], rows: Iterator[Scored]) -> Iterator[tuple[str, list[Scored]]]:
    """Rows of one video stand together."""
    held: list[Scored] = []
    for n, row in enumerate(rows):
        held.append(row)
        if n + 1 == len(ids) or ids[n + 1] != ids[n]:
            yield ids[n], held
            held = []


def _example(annotations: Annotations, id: str, found: Any, scored: list[Scored]) -> dict[str, Any]:
    video, classes = annotations.videos[id], annotations.classes
    segments_s, labels, scores = found
    best = np.argsort(-scores, kind="stable")[:10]
    whole = scored[0].boundary.round(4).tolist() if len(scored) == 1 else [[], []]
    return {
        "id": id,
        "duration_s": video.duration_s,
        "truth": [
            {"segment": s.tolist(), "label": classes[n]} for s, n in zip(video.segments_s, video.labels, strict=True)
        ],
        "detections": [
            {"segment": segments_s[b].round(3).tolist(), "label": classes[labels[b]], "score": float(scores[b])}
            for b in best
        ],
        "start": whole[0],
        "end": whole[1],
    }


def _accuracy(tiou: Sequence[float], judged: Evaluation, mark: str, suffix: str = "") -> list[Figure]:
    values = {f"mAP@{t:.2f}": float(v) for t, v in zip(tiou, judged.mAP, strict=True)}
    values["average_mAP"] = judged.average_mAP
    return [
        Figure(name=f"{name}{suffix}", value=100 * value, unit="%", evidence="measured", data=mark)
        for name, value in values.items()
    ]


def evaluation_figures(
    spec: Spec, corpus: Corpus, annotations: Annotations, detections: Detections
) -> tuple[list[Figure], dict[str, Any], dict[str, Any]]:
    """Figures, protocol and details (per-class AP) of detections; made-up data's floor and ceiling beside them."""
    wanted, mark = spec.evaluation, corpus.mark
    blocked, blocked_hash = read_blocked(wanted.blocked) if wanted.blocked else (frozenset(), None)
    judge = partial(
        evaluate,
        annotations,
        tiou=wanted.tiou,
        subset=spec.data.test_subset,
        blocked=blocked,
        blocked_sha256=blocked_hash,
    )
    judged = judge(detections)
    figures = _accuracy(wanted.tiou, judged, mark)
    recall = {f"AR@{n}": float(judged.recall[n - 1]) for n in wanted.proposals} | {"AR_area": judged.area}
    figures += [Figure(name=n, value=100 * v, unit="%", evidence="measured", data=mark) for n, v in recall.items()]
    for name, bound in corpus.bounds.items():
        figures += _accuracy(wanted.tiou, judge(bound), mark, f"_{name}")
    details = {"ap": {c: ap.round(5).tolist() for c, ap in zip(judged.classes, judged.ap, strict=True)}}
    return figures, judged.protocol, details


def _timing_figures(spec: Spec, folder: Path, corpus: Corpus, device: str, videos: int) -> list[Figure]:
    """Training, step and epoch time from timings.csv; each row is a mean over the steps since the one before."""
    table = pd.read_csv(folder / "timings.csv")
    steps = table["iteration"].diff().fillna(table["iteration"])
    total, waited = float((table["seconds"] * steps).sum()), float((table["data_seconds"] * steps).sum())
    warm = table.iloc[1:] if len(table) > 1 else table  # the first row holds the first step, warm-up included
    step = float(warm["seconds"].median())
    made = [("training_time", total, "s"), ("step_time", step, "s"), ("data_wait", 100 * waited / total, "%")]
    made.append(("epoch_time", step * (videos // spec.training.batch), "s"))
    return [Figure(name=n, value=v, unit=u, evidence="measured", data=corpus.mark, device=device) for n, v, u in made]


def summary(spec: Spec, corpus: Corpus) -> DataSummary:
    annotations = corpus.annotations
    used = {s: [annotations.videos[id] for id in dict.fromkeys(rows.ids)] for s, rows in corpus.subsets.items()}
    return DataSummary(
        mark=corpus.mark,
        videos={s: len(videos) for s, videos in used.items()},
        segments={s: sum(len(v.labels) for v in videos) for s, videos in used.items()},
        classes=len(annotations.classes),
        flaws=annotations.flaws,
        policies=annotations.policies,
        sources=dict(corpus.sources),
    )


def run_spec(spec: Spec, folder: Path, command: str = "") -> Record:
    """Trains, detects and evaluates into `folder`, or reads the record that is there.

    A failure is recorded with its error and raised; the next call tries again, from the last checkpoint.
    """
    done = finished(spec, folder)
    if done:
        say(f"{folder} is done already")
        return done
    rank, _ = engine.rank_and_world()
    console.quiet = rank > 0
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "spec.yaml") as file:
        file.write(spec_text(spec))
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    command = command or f"python -m experiments.run --spec {folder / 'spec.yaml'}"
    keys = {"trained": key(spec, TRAINED), "tested": key(spec, TESTED)}
    base = {"name": folder.name, "started": started, "command": command, "keys": keys}

    def now() -> str:
        return datetime.now(timezone.utc).isoformat(timespec="seconds")

    with logged(folder / "log.txt") if rank == 0 else nullcontext():
        log.info(f"start: {command}")
        try:
            made = _run(spec, folder, rank)
        except Exception as error:
            if rank == 0:
                line = f"{type(error).__name__}: {error}".splitlines()[0]
                log.info(f"failed: {line}")
                write_record(folder, Record(**base, status="failed", error=line, finished=now()))
            raise
        record = Record(**base, status="done", finished=now(), **made)
        write_record(folder, record)
        for name in ("average_mAP", "average_mAP_floor", "average_mAP_ceiling"):
            if figure := record.figure(name):
                log.info(f"{name}: {figure.value:.2f} % on {figure.data}")
    return record


def finished(spec: Spec, folder: Path) -> Record | None:
    """The record of this very spec that the folder holds. Raises Failure where it holds a run of another spec or code."""
    mend = "give another --out, or delete the folder"
    held = folder / "spec.yaml"
    if held.exists() and key(read_spec(held), TESTED) != key(spec, TESTED):
        raise Failure(f"{folder} holds a run of another spec; {mend}")
    try:
        record = read_record(folder)
    except RecordError:
        return None
    if record.status == "done" and record.keys.get("tested") != key(spec, TESTED):
        raise Failure(f"{folder} holds a run of other code; {mend}")
    return record if record.status == "done" else None


def _run(spec: Spec, folder: Path, rank: int) -> dict[str, Any]:
    warnings.filterwarnings("ignore", category=FutureWarning, module="mmengine")
    if spec.runtime.threads:
        torch.set_num_threads(spec.runtime.threads)
    device = build.build_device(spec)
    corpus = build.build_corpus(spec)
    with measure.peak_memory(device) as peak:
        detector, drawn = train(spec, corpus, folder, device)
    if rank > 0:
        raise SystemExit(0)  # the first process detects, evaluates and writes alone
    annotations = corpus.annotations if corpus.classifier is not None else class_agnostic(corpus.annotations)
    began = datetime.now()
    detections, examples = detect(spec, corpus, annotations, detector, device)
    detect_seconds = (datetime.now() - began).total_seconds()
    write_detections(folder / "detections.json", detections)
    write_json(folder / "examples.json", {"videos": examples})
    figures, protocol, details = evaluation_figures(spec, corpus, annotations, detections)
    where = measure.device_name(device)
    figures += _timing_figures(spec, folder, corpus, where, len(build.build_rows(spec, corpus)))
    figures.append(
        Figure(name="detect_time", value=detect_seconds, unit="s", evidence="measured", data=corpus.mark, device=where)
    )
    note = "training; features resident on the device included"
    figures += [
        Figure(
            name="run_peak_memory", value=p, unit="B", evidence="measured", data=corpus.mark, device=where, note=note
        )
        for p in peak
    ]
    count = sum(p.numel() for p in detector.parameters())
    figures.append(Figure(name="parameters", value=count, unit="", evidence="traced", note="of the detector"))
    details["anchors_a_video"] = {"training": drawn, "testing": len(build.build_test_anchors(spec))}
    return {
        "data": summary(spec, corpus),
        "figures": tuple(figures),
        "protocol": protocol,
        "environment": measure.environment(device),
        "details": details,
    }


def show(result: dict[str, Any]) -> None:
    figures = {f["name"]: f for f in result["figures"]}
    for name in ("average_mAP", "average_mAP_floor", "average_mAP_ceiling", "training_time"):
        if name in figures:
            print(f"{name:20} {figures[name]['value']:.2f} {figures[name]['unit']}")
    print(f"record: {result['folder']}")


def work(args: argparse.Namespace) -> dict[str, Any]:
    spec = read_spec(args.spec, args.set)
    folder = args.out or run_folder(spec, Path("runs"))
    return {**run_spec(spec, folder).model_dump(mode="json"), "folder": str(folder)}


def run(argv: Sequence[str] | None = None) -> int:
    logging.getLogger("mmengine").setLevel(logging.ERROR)
    made = parser(
        "experiments.run",
        "Train, detect and evaluate one spec. Runs under torchrun as it is.",
        "python -m experiments.run --spec experiments/specs/laptop.yaml --set training.epochs=2",
    )
    made.add_argument("--spec", type=Path, required=True, help="a YAML spec, differences from the defaults only")
    made.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help="override a knob: roi.bins=16")
    made.add_argument("--out", type=Path, help="the run's folder (default: runs/NAME-KEY)")
    return main(made, work, show, argv)


if __name__ == "__main__":
    sys.exit(run())
