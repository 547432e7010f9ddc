"""Ground truth from a table: CSV rows id,start,end,label become the ActivityNet layout."""

import csv
import hashlib
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etad.data.annotations import DataError, number, text

NEEDED = ("id", "start", "end", "label")
OPTIONAL = ("duration", "subset")
HELD_OUT = 0.2  # share of the videos that are tested on where the table names no subsets


@dataclass
class TableVideo:
    """A video of a table; segments in seconds."""

    instances: list[tuple[float, float, str]] = field(default_factory=list)
    duration_s: float | None = None
    subset: str | None = None


def read_table(path: str | Path) -> dict[str, TableVideo]:
    """Videos by id, in file order. Columns: id, start and end (seconds), label; duration and subset may follow.

    A row with an id alone is a video without instances. Raises DataError, naming file and line.
    """
    try:
        content = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot read this file: {error.strerror}; give the path of a file") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not text in UTF-8; save it as UTF-8") from None
    reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    found: dict[str, TableVideo] = {}
    try:
        _check_head(reader.fieldnames)
        for row in reader:
            _add(found, row)
    except (csv.Error, TypeError, ValueError) as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}") from None
    if not found:
        raise DataError(f"{path}: no rows; write one a segment, with the columns {','.join(NEEDED)}")
    return found


def _check_head(names: Iterable[str] | None) -> None:
    names = list(names or ())
    lacking, unknown = [n for n in NEEDED if n not in names], [n for n in names if n not in NEEDED + OPTIONAL]
    if lacking or unknown or len(set(names)) < len(names):
        known = f"{','.join(NEEDED)}, and perhaps {' and '.join(OPTIONAL)}"
        raise ValueError(f"the columns are {', '.join(map(repr, names)) or 'none'}; the first line names {known}")


def _add(found: dict[str, TableVideo], row: dict[str, Any]) -> None:
    if None in row or None in row.values():
        raise ValueError("it has not as many columns as the first line")
    video = found.setdefault(text(row["id"].strip(), "id"), TableVideo())
    for name in OPTIONAL:
        given: Any = row.get(name, "").strip()
        if not given:
            continue
        attribute = "subset" if name == "subset" else "duration_s"
        value = given if name == "subset" else _seconds(given, name)
        if getattr(video, attribute) not in (None, value):
            raise ValueError(f"video {row['id']!r} has two {name}s: {getattr(video, attribute)} and {value}")
        setattr(video, attribute, value)
    instance = [row[name].strip() for name in NEEDED[1:]]
    if any(instance):
        start, end, label = instance
        video.instances.append((_seconds(start, "start"), _seconds(end, "end"), text(label, "label")))


def _seconds(value: str, what: str) -> float:
    try:
        return number(float(value), what)
    except ValueError:
        raise ValueError(f"{what} {value!r} is not a finite number of seconds") from None


def layout(
    videos: Mapping[str, TableVideo], durations_s: Mapping[str, float], *, train: str, test: str
) -> dict[str, Any]:
    """The ActivityNet layout of a table; `durations_s` serve where the table has none.

    Where it names no subsets, a fifth of the videos is held out: those first in the order of their ids' hashes, so that the
    choice does not change with the rows. Raises DataError where a duration or some subsets are missing.
    """
    lacking = [id for id, video in videos.items() if video.duration_s is None and id not in durations_s]
    if lacking:
        raise DataError(
            f"{len(lacking)} videos have no duration ({', '.join(lacking[:5])}); add a column duration to the table, or "
            "say how many seconds a feature column takes (--column-s)"
        )
    subsets = {id: video.subset for id, video in videos.items() if video.subset is not None}
    if not subsets:
        order = sorted(videos, key=lambda id: hashlib.sha256(id.encode()).digest())
        held = set(order[: math.ceil(HELD_OUT * len(order))])
        subsets = {id: test if id in held else train for id in videos}
    elif without := [id for id in videos if id not in subsets]:
        raise DataError(
            f"{len(without)} videos are in no subset ({', '.join(without[:5])}); name one for all, or for none"
        )
    database = {
        id: {
            "duration": durations_s[id] if video.duration_s is None else video.duration_s,
            "subset": subsets[id],
            "annotations": [{"segment": [start, end], "label": label} for start, end, label in video.instances],
        }
        for id, video in videos.items()
    }
    return {"version": "1.3", "taxonomy": [], "database": database}
