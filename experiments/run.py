"""One spec -> one record: train, detect, evaluate. What is done is not done again; what was interrupted goes on.

In a folder of runs, all runs that train the same share what was trained: runs/trained/KEY. `--out` keeps it in one folder.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from etad.record import Record, RecordError, now, read_record, replacing, write_record
from etad.spec import TESTED, Spec, differences, read_spec, spec_text
from experiments.command import Failure, console, main, parser
from experiments.keys import run_folder, tested_key, trained_folder, trained_key
from experiments.progress import log, logged, say

LOCK = ".lock"
FROM_TRAINING = ("losses.csv", "timings.csv")


def run_spec(spec: Spec, folder: Path, command: str = "", trained_in: Path | None = None) -> Record:
    """Trains, detects and evaluates into `folder`, or reads the record that is there.

    The training is kept in `trained_in` (default: the same folder) and taken from there where it is done. Where another
    process works on either, this one waits for it. A failure is recorded with its error and raised; the next call tries
    again, from the last checkpoint.
    """
    done = finished(spec, folder)
    if done:
        say(f"{folder} is done already")
        return done
    from etad.processes import rank_and_world  # torch takes seconds to import

    rank, world = rank_and_world()
    console.quiet = rank > 0
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder, wait=world == 1) if rank == 0 else nullcontext():
        if done := finished(spec, folder):
            return done
        if rank == 0:
            (folder / "record.json").unlink(missing_ok=True)  # of a failure, which is tried again
            with replacing(folder / "spec.yaml") as file:
                file.write(spec_text(spec))
        command = command or f"python -m experiments.run --spec {folder / 'spec.yaml'}"
        with logged(folder / "log.txt") if rank == 0 else nullcontext():
            return _recorded(spec, folder, trained_in or folder, command, rank=rank, world=world)


def run_in(root: Path, spec: Spec, command: str = "") -> tuple[Path, Record]:
    """A run in a folder of runs: its own folder, and its record."""
    folder = run_folder(spec, root)
    return folder, run_spec(spec, folder, command, trained_folder(spec, root))


@contextmanager
def held(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """One process works in a folder at a time; the lock goes with the process. Raises Failure where it is not to wait."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise Failure(f"another process works on {folder}; run the same command when it is done") from None
        say(f"another process works on {folder}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _recorded(spec: Spec, folder: Path, trained_in: Path, command: str, *, rank: int, world: int) -> Record:
    """The run, and its record, be it of a failure."""
    keys = {"trained": trained_key(spec), "tested": tested_key(spec)}
    base = {"name": folder.name, "started": now(), "command": command, "keys": keys}
    log.info(f"start: {command}")
    try:
        made = _run(spec, folder, trained_in, keys["trained"], rank, world)
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
    there = folder / "spec.yaml"
    if there.exists() and any(knob.split(".")[0] in TESTED for knob in differences(spec, read_spec(there))):
        raise Failure(f"{folder} holds a run of another spec; {mend}")
    try:
        record = read_record(folder)
    except RecordError:
        return None
    if record.status == "done" and record.keys.get("tested") != tested_key(spec):
        raise Failure(f"{folder} holds a run of other code or data; {mend}")
    return record if record.status == "done" else None


def _run(spec: Spec, folder: Path, trained_in: Path, key: str, rank: int, world: int) -> dict[str, Any]:
    """Both halves; what the record says of them."""
    from torch import distributed

    from etad import build, measure, processes
    from experiments.tested import tested
    from experiments.trained import trained

    warnings.filterwarnings("ignore", category=FutureWarning, module="mmengine")
    processes.make_ready(spec.runtime.threads)
    device = build.build_device(spec)
    corpus = build.build_corpus(spec)
    apart = trained_in != folder
    trained_in.mkdir(parents=True, exist_ok=True)
    with held(trained_in, wait=world == 1) if apart and rank == 0 else nullcontext():
        if world > 1:
            distributed.barrier()  # all look at the same state of the folder
        with logged(trained_in / "log.txt") if apart and rank == 0 else nullcontext():
            detector, encoder, training = trained(spec, corpus, trained_in, device, key=key, rank=rank)
    if apart:
        for name in FROM_TRAINING:
            with replacing(folder / name, "wb") as file:
                file.write((trained_in / name).read_bytes())
    made = tested(spec, corpus, folder, detector, encoder, device)
    figures = (*made.pop("figures"), *training.figures)
    made["details"]["anchors_a_video"] = {"training": training.anchors, "testing": made.pop("anchors")}
    if spec.encoder:
        made["details"]["snippets_a_video"] = {"training": build.count_snippets(spec), "of": spec.data.tscale}
    return {**made, "figures": figures, "environment": measure.environment(device)}


def show(result: dict[str, Any]) -> None:
    figures = {f["name"]: f for f in result["figures"]}
    for name in ("average_mAP", "average_mAP_floor", "average_mAP_ceiling", "training_time"):
        if name in figures:
            print(f"{name:20} {figures[name]['value']:.2f} {figures[name]['unit']}")
    print(f"record: {result['folder']}")


def work(args: argparse.Namespace) -> dict[str, Any]:
    spec = read_spec(args.spec, args.set)
    if os.environ.get("RANK", "0") == "0":
        say(f"run: {args.out or run_folder(spec, args.runs)}")
    if args.out:
        folder, record = args.out, run_spec(spec, args.out)
    else:
        folder, record = run_in(args.runs, spec)
    return {**record.model_dump(mode="json"), "folder": str(folder)}


def run(argv: Sequence[str] | None = None) -> int:
    made = parser(
        "experiments.run",
        "Train, detect and evaluate one spec. Runs under torchrun as it is.",
        "python -m experiments.run --spec experiments/specs/laptop.yaml --set training.epochs=2",
    )
    made.add_argument("--spec", type=Path, required=True, help="a YAML spec, differences from the defaults only")
    made.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help="override a knob: roi.bins=16")
    made.add_argument("--runs", type=Path, default=Path("runs"), help="folder of runs (default: %(default)s)")
    made.add_argument("--out", type=Path, help="the run's folder, checkpoint included (default: runs/NAME-KEY)")
    return main(made, work, show, argv)


if __name__ == "__main__":
    sys.exit(run())
