"""One run's record: the contract between what runs and what reports. No torch.

A run's folder holds
  spec.yaml          the resolved spec
  record.json        the Record below, written last: a folder without it is not a finished run
  losses.csv         iteration, epoch, lr, total, boundary, stage1.., classes (one row each logged step)
  timings.csv        iteration, seconds, data_seconds (one row each logged step, mean since the last)
  detections.json    the ActivityNet submission layout
  matches.npz        which detection takes which ground truth at each tIoU (etad/matches.py): judged again in seconds
  examples.json      a few videos with ground truth and detections, for timelines
  log.txt            what the terminal saw
  .lock              held by the process that works on it

A training's folder (runs/trained/KEY, shared by all runs that train the same, or the run's own) holds
  latest.pth         the checkpoint
  trained.json       the Trained below, written last: a folder without it is not a finished training
  losses.csv, timings.csv, log.txt, .lock
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

VERSION = 1
TRAINED_FILE = "trained.json"
CHECKPOINT = "latest.pth"
Evidence = Literal["measured", "traced", "projected", "published"]


class RecordError(ValueError):
    """A record that cannot be read; the message names the file and the mend."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


_Model = TypeVar("_Model", bound=_Frozen)


class Figure(_Frozen):
    """One number with what is needed to believe it. A missing value is None, never 0."""

    name: str  # average_mAP, mAP@0.50, training_time, peak_memory ...
    value: float | None
    unit: str  # "%", "s", "B", "FLOP", "" ...
    evidence: Evidence
    data: str | None = None  # the data it was measured on: anet, synthetic-1 ...
    device: str | None = None  # where measured; None for traced
    note: str = ""  # what was traced or projected, at which size


class DataSummary(_Frozen):
    mark: str  # evidence mark of the data: anet, synthetic-1, a custom set's name
    videos: dict[str, int]  # subset -> videos used
    segments: dict[str, int]  # subset -> ground-truth segments used
    classes: int
    flaws: dict[str, int]  # kind of flaw -> count found in the files
    policies: dict[str, str]  # kind of flaw -> what was done about it
    sources: dict[str, str]  # what -> file name, hash or generator settings


class Record(_Frozen):
    version: int = VERSION
    name: str
    status: Literal["done", "failed"]
    error: str = ""  # one line, when failed
    started: str  # ISO 8601, UTC
    finished: str
    command: str  # runs it again
    keys: dict[str, str] = {}  # trained, tested
    data: DataSummary | None = None
    figures: tuple[Figure, ...] = ()
    protocol: dict[str, Any] = {}  # of the evaluation: annotation hash, blocked hash, videos, ties, thresholds
    environment: dict[str, str] = {}  # device, cpu, threads, python, torch, mmengine, commit ...
    details: dict[str, Any] = {}  # per-class AP, AR curve, floor and ceiling, realised counts

    def figure(self, name: str) -> Figure | None:
        return next((f for f in self.figures if f.name == name), None)


class Trained(_Frozen):
    """What a finished training says of itself."""

    version: int = VERSION
    key: str
    started: str  # ISO 8601, UTC
    finished: str
    mark: str  # evidence mark of the data
    anchors: int  # drawn a video and step
    figures: tuple[Figure, ...]
    environment: dict[str, str]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def replacing(path: Path, mode: str = "w", *, durable: bool = True) -> Iterator[Any]:
    """A file that appears whole or not at all: written beside `path`, then renamed over it.

    durable: flushed to disk first, so that it survives a power cut; costs milliseconds a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, mode, **({} if "b" in mode else {"encoding": "utf-8", "newline": ""})) as file:  # type: ignore[call-overload]
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    with replacing(path) as file:
        json.dump(value, file, indent=1, ensure_ascii=False, allow_nan=False)


def _seal(tree: dict[str, Any]) -> str:
    """Hash of a record's values, written beside them, which tells an edited one."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


def write_record(folder: Path, record: Record) -> None:
    tree = json.loads(record.model_dump_json())
    write_json(folder / "record.json", {**tree, "seal": _seal(tree)})


def read_record(folder: Path) -> Record:
    """Raises RecordError where the file is missing, cut off, edited, of another version or not a record."""
    path = folder / "record.json"
    tree = _read(path, "run", "delete the folder and run it again")
    seal = tree.pop("seal", None)
    if seal is not None and seal != _seal(tree):
        raise RecordError(f"{path}: edited since it was written; delete the folder and run it again")
    return _parse(Record, tree, path)


def read_trained(folder: Path, key: str) -> Trained | None:
    """What a finished training says of itself; None where it has not finished. Raises RecordError."""
    path = folder / TRAINED_FILE
    if not path.exists():
        return None
    held = _parse(Trained, _read(path, "training", "delete it and train again"), path)
    if held.key != key:
        raise RecordError(f"{folder} holds another training; give another folder, or delete it")
    return held


def _read(path: Path, what: str, mend: str) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{path}: missing; the {what} has not finished") from None
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: not a record ({str(error).splitlines()[0]}); {mend}") from None
    if not isinstance(tree, dict):
        raise RecordError(f"{path}: not a record (no mapping); {mend}")
    if tree.get("version") != VERSION:
        raise RecordError(f"{path}: version {tree.get('version')}, this suite reads {VERSION}; run it again")
    return tree


def _parse(model: type[_Model], tree: dict[str, Any], path: Path) -> _Model:
    try:
        return model.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise RecordError(f"{path}: not a record ({what}); delete the folder and run it again") from None
