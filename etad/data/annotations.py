"""Ground truth in the ActivityNet layout: `database/<id>: {duration, subset, annotations: [{segment, label}]}`."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etad.record import replacing

PAST_VIDEO_S = 0.1  # an end less than this past its video is rounding, not a flaw
POLICIES = {
    "zero_or_negative_length": "dropped",
    "end_past_video": f"clipped to the video; counted above {PAST_VIDEO_S} s, smaller ones are clipped uncounted",
    "starts_before_zero": "clipped to the video",
    "outside_video": "dropped: nothing of it lies inside the video",
    "duplicates": "kept, as the official evaluator does",
    "without_segments": "kept; videos of an unlabelled subset are among them",
}
BLOCKED = {"anet-79": "blocked_anet_79.json"}  # lists of ids that ship with the package


class DataError(ValueError):
    """A data file that cannot be used; the message names the file and the mend."""


@dataclass(frozen=True)
class Video:
    """One annotated video; segments [N, 2] in seconds, float64, inside [0, duration_s]; labels [N] index `classes`."""

    id: str
    subset: str
    duration_s: float
    segments_s: NDArray[np.float64]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Annotations:
    videos: dict[str, Video]  # by id, in file order
    classes: tuple[str, ...]  # sorted
    flaws: dict[str, int]  # kind -> count, kinds that were looked for and not found included as 0
    policies: dict[str, str]  # kind -> what was done
    sha256: str  # of the file's bytes; of the generator's settings for made-up data

    def subset(self, name: str) -> list[Video]:
        return [video for video in self.videos.values() if video.subset == name]


def read_annotations(path: str | Path, *, mend: bool = True) -> Annotations:
    """Ground truth, strictly checked; the flaws of real files are counted, and mended as POLICIES states.

    Without `mend` segments stay as written, those of no length too: what the official evaluator counts.

    Raises DataError, naming file and video, where the file is broken: bad JSON, a key missing or given twice, a value
    of the wrong type, a number that is not finite, a duration that is not positive.
    """
    tree, sha256 = load_json(path)
    database = tree.get("database") if isinstance(tree, dict) else None
    if not isinstance(database, dict) or not database:
        raise DataError(f"{path}: no videos under the key 'database'; give ground truth in the ActivityNet layout")
    flaws: Counter[str] = Counter(dict.fromkeys(POLICIES, 0))
    found: dict[str, tuple[str, float, list[tuple[float, float]], list[str]]] = {}
    id = ""
    try:
        for id, entry in database.items():
            found[id] = _video(id, entry, flaws, mend)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        what = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{path}: video {id!r}: {what}; mend or remove this entry") from None
    classes = tuple(sorted({label for *_, labels in found.values() for label in labels}))
    index = {label: i for i, label in enumerate(classes)}
    videos = {
        id: Video(
            id,
            subset,
            duration_s,
            np.array(segments, np.float64).reshape(-1, 2),
            np.array([index[label] for label in labels], np.int64),
        )
        for id, (subset, duration_s, segments, labels) in found.items()
    }
    policies = POLICIES if mend else dict.fromkeys(POLICIES, "kept as written")
    return Annotations(videos, classes, dict(flaws), dict(policies), sha256)


def _video(
    id: str, entry: Any, flaws: Counter[str], mend: bool
) -> tuple[str, float, list[tuple[float, float]], list[str]]:
    text(id, "id")
    if not isinstance(entry, dict):
        raise TypeError("its entry is not an object")
    subset, duration_s = text(entry["subset"], "subset"), number(entry["duration"], "duration")
    if duration_s <= 0:
        raise ValueError(f"duration {duration_s} is not positive")
    if not isinstance(entry["annotations"], list):
        raise TypeError("'annotations' is not a list")
    segments, labels = [], []
    seen = set()
    for instance in entry["annotations"]:
        if not isinstance(instance, dict):
            raise TypeError(f"annotation {instance!r} is not an object")
        segment, label = instance["segment"], text(instance["label"], "label")
        if not isinstance(segment, list) or len(segment) != 2:
            raise TypeError(f"segment {segment!r} is not a pair [start, end]")
        start, end = number(segment[0], "start"), number(segment[1], "end")
        if not mend:
            segments.append((start, end))
            labels.append(label)
        if end <= start:
            flaws["zero_or_negative_length"] += 1
            continue
        flaws["duplicates"] += (start, end, label) in seen
        seen.add((start, end, label))
        flaws["end_past_video"] += end > duration_s + PAST_VIDEO_S
        flaws["starts_before_zero"] += start < 0
        start, end = max(start, 0.0), min(end, duration_s)
        if end <= start:
            flaws["outside_video"] += 1
        elif mend:
            segments.append((start, end))
            labels.append(label)
    flaws["without_segments"] += not segments
    return subset, duration_s, segments, labels


def number(value: Any, what: str) -> float:
    """`value` as a finite float. Raises TypeError or ValueError, calling it `what`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} {value!r} is not a number")
    if not math.isfinite(value):
        raise ValueError(f"{what} {value} is not finite")
    return float(value)


def text(value: Any, what: str) -> str:
    """`value` as a string that can be written again. Raises TypeError or ValueError, calling it `what`."""
    if not isinstance(value, str):
        raise TypeError(f"{what} {value!r} is not text")
    if not value:
        raise ValueError(f"{what} is empty")
    value.encode()  # half a surrogate pair could not be written again
    return value


def load_json(path: str | Path) -> tuple[Any, str]:
    """A JSON file as plain data, and the sha256 of its bytes. Raises DataError, on a key given twice too."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read this file: {error.strerror}; give the path of a file") from None
    try:
        tree = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not usable as JSON: {error}; download or write the file again") from None
    return tree, hashlib.sha256(raw).hexdigest()


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return tree


def write_annotations(path: str | Path, annotations: Annotations) -> None:
    """Ground truth in the ActivityNet layout, as `read_annotations` reads it back."""
    classes = annotations.classes
    database = {
        video.id: {
            "duration": video.duration_s,
            "subset": video.subset,
            "annotations": [
                {"segment": segment, "label": classes[label]}
                for segment, label in zip(video.segments_s.tolist(), video.labels.tolist(), strict=True)
            ],
        }
        for video in annotations.videos.values()
    }
    with replacing(Path(path)) as file:
        file.write(json.dumps({"version": "1.3", "taxonomy": [], "database": database}, allow_nan=False))


def match_id(key: str, known: Container[str]) -> str | None:
    """The known id that `key` means: itself, or it without or with the prefix `v_` of ActivityNet's file names."""
    return next((id for id in (key, key.removeprefix("v_"), f"v_{key}") if id in known), None)


def read_blocked(name_or_path: str | Path) -> tuple[frozenset[str], str]:
    """Ids to leave out, and the sha256 of their list: one shipped by name, or a JSON list. Raises DataError.

    Source: `anet-79` is the list that the released evaluation leaves out (METHOD 11); 31 of it are validation videos.
    """
    name = str(name_or_path)
    if name in BLOCKED:
        with resources.as_file(resources.files("etad.data") / "tables" / BLOCKED[name]) as table:
            ids, sha256 = load_json(table)
    elif Path(name).is_file():
        ids, sha256 = load_json(name)
    else:
        raise DataError(f"{name}: no such list of blocked ids; give a JSON file or a name: {', '.join(BLOCKED)}")
    if not isinstance(ids, list) or not all(isinstance(id, str) and id for id in ids):
        raise DataError(f"{name}: blocked ids are a JSON list of strings")
    return frozenset(ids), sha256


def without(annotations: Annotations, ids: Iterable[str]) -> Annotations:
    """The annotations less these videos; ids may carry the prefix `v_` or not, unknown ones change nothing."""
    blocked = {match_id(id, annotations.videos) for id in ids}
    return replace(annotations, videos={id: video for id, video in annotations.videos.items() if id not in blocked})
