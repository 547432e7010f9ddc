"""Detections in memory and in the ActivityNet submission layout."""

import gc
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from etad.data.annotations import DataError, load_json
from etad.record import replacing

Floats = NDArray[np.float64]
LAYOUT = '{"results": {video id: [{"segment": [start_s, end_s], "label": text, "score": number}]}}'


@dataclass(frozen=True)
class Detections:
    """Labelled segments over many videos, as columns of n rows.

    video [n] int64 indexes `ids`; segments_s [n, 2] float64 seconds; label [n] int64 indexes `classes`; score [n] float64.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    video: NDArray[np.int64]
    segments_s: NDArray[np.float64]
    label: NDArray[np.int64]
    score: NDArray[np.float64]


def tiou(a: Floats, b: Floats) -> Floats:
    """tIoU of segments a [..., 2] and b [..., 2], broadcast; in [0, 1]; NaN where the two lengths sum to zero (0/0)."""
    inter = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
    np.maximum(inter, 0.0, out=inter)
    with np.errstate(invalid="ignore", divide="ignore"):
        out: Floats = inter / ((b[..., 1] - b[..., 0]) + (a[..., 1] - a[..., 0]) - inter)
    return out


def write_detections(path: Path, detections: Detections, external_data: Mapping[str, Any] | None = None) -> None:
    """Write the submission layout, video by video, rows in their order; every id appears, with an empty list if need be.

    Raises ValueError where a segment or score is not finite.
    """
    if not (np.isfinite(detections.segments_s).all() and np.isfinite(detections.score).all()):
        raise ValueError(f"{path}: detections hold NaN or infinity; nothing was written")
    order = np.argsort(detections.video, kind="stable")
    ends = np.searchsorted(detections.video[order], np.arange(len(detections.ids) + 1))
    names = [json.dumps(name) for name in detections.classes]
    with replacing(path) as file:
        head = json.dumps({"version": "VERSION 1.3", "external_data": dict(external_data or {})}, allow_nan=False)
        file.write(head[:-1] + ', "results": {')
        for index, video in enumerate(detections.ids):
            rows = order[ends[index] : ends[index + 1]]
            columns = (
                detections.segments_s[rows].tolist(),
                detections.label[rows].tolist(),
                detections.score[rows].tolist(),
            )
            lines = [
                f'{{"segment": [{start!r}, {end!r}], "label": {names[label]}, "score": {score!r}}}'
                for (start, end), label, score in zip(*columns, strict=True)
            ]
            file.write(("" if index == 0 else ",") + f"\n{json.dumps(video)}: [" + ", ".join(lines) + "]")
        file.write("\n}}\n")


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection: building millions of small objects, none of them garbage, it takes four times as long."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _load(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        raw = path.read_bytes()
        tree = from_json(raw.removeprefix(b"\xef\xbb\xbf"), allow_inf_nan=False)
    except OSError as error:
        raise DataError(f"{path}: cannot read these detections: {error.strerror}; give the path of a file") from None
    except ValueError as error:
        raise DataError(f"{path}: not plain JSON ({error}); expected {LAYOUT}") from None
    results = tree.get("results") if isinstance(tree, dict) else None
    if not isinstance(results, dict):
        raise DataError(f"{path}: no object under the key 'results'; expected {LAYOUT}")
    for video, rows in results.items():
        if not isinstance(rows, list) or set(map(type, rows)) - {dict}:
            raise DataError(f"{path}: the detections of video {video!r} are not a list of objects; expected {LAYOUT}")
    if raw.count(b'"segment"') != sum(map(len, results.values())):
        load_json(path)  # slower; refuses a key given twice, of which the quick reader keeps the last
    return results


def _numbers(path: Path, what: str, values: Sequence[Any]) -> Floats:
    if strange := set(map(type, values)) - {float, int}:
        raise DataError(f"{path}: a {what} is not a number but {sorted(t.__name__ for t in strange)}; mend the file")
    try:
        numbers = np.array(values, dtype=np.float64)
    except OverflowError:
        numbers = np.array([np.inf])
    if not np.isfinite(numbers).all():
        raise DataError(f"{path}: a {what} is too large for a number; mend the file")
    return numbers


def _labels(path: Path, names: list[Any], classes: tuple[str, ...] | None) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    if set(map(type, names)) - {str}:
        raise DataError(f"{path}: a label is not text; mend the file")
    classes = tuple(sorted(set(names))) if classes is None else classes
    index = {name: i for i, name in enumerate(classes)}
    if unknown := set(names) - index.keys():
        count = sum(name in unknown for name in names)
        raise DataError(
            f"{path}: {count} detections carry {len(unknown)} labels that the ground truth does not have: "
            f"{', '.join(sorted(unknown)[:5])}{' ...' if len(unknown) > 5 else ''}; evaluate against the right annotations"
        )
    return classes, np.fromiter(map(index.__getitem__, names), np.int64, len(names))


def read_detections(path: str | Path, classes: tuple[str, ...] | None = None) -> Detections:
    """Any tool's detections in the submission layout, rows in file order, `ids` those of the file.

    `classes` are the labels allowed; None takes those found. Videos unknown to the ground truth stay in: the evaluator's
    profile decides about them. Raises DataError on anything but finite numbers, known labels and the layout.
    """
    with _uncollected():
        return _columns(Path(path), classes)


def _columns(path: Path, classes: tuple[str, ...] | None) -> Detections:
    results = _load(path)
    rows = list(chain.from_iterable(results.values()))
    try:
        segments = [row["segment"] for row in rows]
        names = [row["label"] for row in rows]
        scores = [row["score"] for row in rows]
    except KeyError as error:
        raise DataError(f"{path}: a detection has no key {error}; expected {LAYOUT}") from None
    if set(map(type, segments)) - {list} or set(map(len, segments)) - {2}:
        raise DataError(f"{path}: a segment is not [start_s, end_s]; mend the file")
    classes, label = _labels(path, names, classes)
    counts = np.fromiter(map(len, results.values()), np.int64, len(results))
    return Detections(
        ids=tuple(results),
        classes=classes,
        video=np.repeat(np.arange(len(results)), counts),
        segments_s=_numbers(path, "segment", list(chain.from_iterable(segments))).reshape(-1, 2),
        label=label,
        score=_numbers(path, "score", scores),
    )
