"""What a report is made of: run folders, whole, failed or broken, and the published figures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from etad.record import Figure, Record, RecordError, read_record
from etad.spec import SpecError, differences, parse_spec, parse_yaml, read_spec

LOG_LINES = 40
PUBLISHED = Path(__file__).parent / "published.yaml"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PublishedTime(_Strict):
    seconds: float | None = None
    text: str  # as published


class PublishedMemory(_Strict):
    gigabytes: float | None = None  # as printed by the source, GB or GiB
    text: str


class Published(_Strict):
    """One published result. Percentages by tIoU ("0.50") or "average"; absent means not available."""

    method: str
    source: str
    url: str | None = None
    data: str  # evidence mark of the set
    setting: str
    mAP: dict[Annotated[str, Field(pattern=r"^(0\.\d\d|average)$")], Annotated[float, Field(gt=0, lt=100)]]
    time: PublishedTime | None = None
    memory: PublishedMemory | None = None
    note: str = ""


class PublishedFile(_Strict):
    figures: tuple[Published, ...]
    unavailable: tuple[str, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.data for row in self.figures))

    def of(self, mark: str) -> tuple[Published, ...]:
        return tuple(row for row in self.figures if row.data == mark)


def read_published(path: Path = PUBLISHED) -> PublishedFile:
    """Raises SpecError where the file is not plain YAML of the layout."""
    tree = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    try:
        return PublishedFile.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        raise SpecError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


class Segment(_Strict):
    segment: tuple[float, float]  # seconds
    label: str
    score: float | None = None


class Example(_Strict):
    """A video with its ground truth and detections; start and end are the boundary probabilities, one a snippet."""

    id: str
    duration_s: Annotated[float, Field(gt=0)]
    truth: tuple[Segment, ...] = ()
    detections: tuple[Segment, ...] = ()
    start: tuple[float, ...] = ()
    end: tuple[float, ...] = ()


class _Examples(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)
    videos: tuple[Example, ...]


@dataclass(frozen=True)
class Run:
    """A run's folder as far as it could be read; `problems` names what could not. No record: the folder is broken."""

    folder: Path
    record: Record | None = None
    changed: dict[str, tuple[Any, Any]] | None = None  # knob -> (here, default); None: the spec could not be read
    losses: pd.DataFrame | None = None
    timings: pd.DataFrame | None = None
    examples: tuple[Example, ...] = ()
    log: tuple[str, ...] = ()  # its last lines
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.record.name if self.record else self.folder.name

    @property
    def mark(self) -> str | None:
        """Evidence mark of its data; None where the record does not say."""
        return self.record.data.mark if self.record and self.record.data else None

    @property
    def synthetic(self) -> bool:
        return "synthetic" in (self.mark or "")

    def figure(self, *names: str) -> Figure | None:
        """The first of these figures that the record has with a value, measured on the record's own data."""
        if self.record is None:
            return None
        found = (f for name in names if (f := self.record.figure(name)) and f.value is not None)
        return next((f for f in found if f.data in (None, self.mark)), None)


def _columns(path: Path, needed: Sequence[str], problems: list[str]) -> pd.DataFrame | None:
    try:
        frame: pd.DataFrame = pd.read_csv(path, on_bad_lines="skip").apply(pd.to_numeric, errors="coerce")
    except FileNotFoundError:
        problems.append(f"{path.name}: missing")
        return None
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        problems.append(f"{path.name}: cannot be read ({str(error).splitlines()[0]})")
        return None
    absent = [name for name in needed if name not in frame.columns]
    frame = frame.replace([float("inf"), -float("inf")], float("nan"))
    frame = frame.dropna(subset=[name for name in needed[:1] if name not in absent])
    if absent or frame.empty:
        problems.append(f"{path.name}: no {', '.join(absent) or 'rows'}")
        return None
    return frame


def _examples(path: Path, problems: list[str]) -> tuple[Example, ...]:
    try:
        return _Examples.model_validate_json(path.read_bytes()).videos
    except FileNotFoundError:
        problems.append(f"{path.name}: missing")
    except ValidationError as error:
        first = error.errors()[0]
        problems.append(f"{path.name}: {'.'.join(map(str, first['loc']))} {first['msg']}".replace(":  ", ": "))
    except OSError as error:
        problems.append(f"{path.name}: cannot be read ({error.strerror})")
    return ()


def _changed(path: Path, problems: list[str]) -> dict[str, tuple[Any, Any]] | None:
    if not path.exists():
        problems.append(f"{path.name}: missing")
        return None
    try:
        spec = read_spec(path)
    except SpecError as error:
        problems.append(str(error).replace(str(path.resolve()), path.name).replace(str(path), path.name))
        return None
    default = differences(parse_spec({}), spec)
    return {knob: (value, default.get(knob)) for knob, value in differences(spec).items()}


def _log(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:])
    except OSError:
        return ()


def load_run(folder: Path) -> Run:
    """Reads what can be read; never raises for what a folder holds."""
    log = _log(folder / "log.txt")
    try:
        record = read_record(folder)
    except (RecordError, RecursionError) as error:
        reason = str(error).replace(f"{folder}/", "") if folder.is_dir() else "no such folder"
        return Run(folder, log=log, problems=[reason])
    problems: list[str] = []
    done = record.status == "done"
    expected: list[str] = problems if done else []  # a failed run need not have written everything
    mark = record.data.mark if record.data else None
    problems += [
        f"record.json: {f.name} states data {f.data}, the record {mark}; left out"
        for f in record.figures
        if f.data not in (None, mark)
    ]
    return Run(
        folder,
        record,
        _changed(folder / "spec.yaml", problems),
        _columns(folder / "losses.csv", ("iteration", "total"), expected),
        _columns(folder / "timings.csv", ("iteration", "seconds"), expected),
        _examples(folder / "examples.json", expected),
        log,
        problems,
    )
