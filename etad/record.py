"""One run's record: the contract between what runs and what reports. No torch.

A run's folder holds
  spec.yaml          the resolved spec
  record.json        the Record below, written last: a folder without it is not a finished run
  losses.csv         iteration, epoch, lr, total, boundary, stage1.. (one row each logged step)
  timings.csv        iteration, seconds, data_seconds (one row each logged step, mean since the last)
  detections.json    the ActivityNet submission layout
  examples.json      a few videos with ground truth and detections, for timelines
  log.txt            what the terminal saw
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

VERSION = 1
Evidence = Literal["measured", "traced", "projected", "published"]


class RecordError(ValueError):
    """A record that cannot be read; the message names the file and the mend."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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


def write_record(folder: Path, record: Record) -> None:
    write_json(folder / "record.json", record.model_dump(mode="json"))


def read_record(folder: Path) -> Record:
    """Raises RecordError where the file is missing, cut off, of another version or not a record."""
    path = folder / "record.json"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(tree, dict) and tree.get("version") != VERSION:
            raise RecordError(f"{path}: version {tree.get('version')}, this suite reads {VERSION}; run it again")
        return Record.model_validate_json(json.dumps(tree))
    except FileNotFoundError:
        raise RecordError(f"{path}: missing; the run has not finished") from None
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error).splitlines()[0]
        raise RecordError(f"{path}: not a record ({what}); delete the folder and run it again") from None
