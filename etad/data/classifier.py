"""Video-level class scores from the public layouts, told apart by their structure."""

import csv
import io
from collections.abc import Collection, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from etad.data.annotations import DataError, load_json, match_id, number, text
from etad.data.samples import VideoScores

COLUMNS = ["id", "label", "score"]
UNTRIMMEDNET = "untrimmednet_thumos14.json"  # what the public array of THUMOS-14's test scores holds
Row = tuple[str, str, float]  # id as it stands in the file, label, score


def read_classifier(path: str | Path, ids: Collection[str]) -> VideoScores:
    """Each video's (label, score), best first, equal scores in file order; only of videos among `ids`.

    Layouts: ActivityNet's `{"results": {id: [scores]}, "class": [labels]}`; `{id: {"class": label, "score": score}}`;
    CSV with the columns id,label,score; an array .npy [videos, classes] with a JSON of its name beside it, else read as
    UntrimmedNet's of THUMOS-14 (`_array`). An id may carry the prefix `v_` or not. Raises DataError.
    """
    path, known = Path(path), frozenset(ids)
    scores: dict[str, dict[str, float]] = {}
    owner: dict[str, str] = {}
    try:
        for key, label, score in _rows(path):
            id = match_id(key, known)
            if id is None:
                continue
            if owner.setdefault(id, key) != key:
                raise ValueError(f"{owner[id]!r} and {key!r} are the same video")
            if label in scores.setdefault(id, {}):
                raise ValueError(f"video {key!r} has the label {label!r} twice")
            if score < 0:
                raise ValueError(f"video {key!r}: score {score} is negative; scores multiply those of detections")
            scores[id][label] = score
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, DataError) else DataError(f"{path}: {error}; mend this file") from None
    if not scores:
        raise DataError(f"{path}: none of its videos is annotated; give the scores that belong to these annotations")
    return {id: tuple(sorted(of.items(), key=lambda item: -item[1])) for id, of in scores.items()}


def check_labels(scores: VideoScores, classes: Collection[str]) -> None:
    """Raises DataError, naming every label of `scores` that is not among `classes`."""
    unknown = sorted({label for of in scores.values() for label, _ in of} - set(classes))
    if unknown:
        raise DataError(
            f"the classifier knows {len(unknown)} labels that no annotation has: {', '.join(map(repr, unknown[:10]))}"
            f"{' ...' if len(unknown) > 10 else ''}; spell labels as in the annotations"
        )


def _rows(path: Path) -> Iterator[Row]:
    if path.suffix == ".npy":
        return _array(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            content = file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot read this file: {error.strerror}; give the path of a file") from None
    if not content.lstrip().startswith(("{", "[")):
        return _csv(content)
    tree, _ = load_json(path)
    if not isinstance(tree, dict):
        raise TypeError("a JSON list is none of the known layouts: results/class, {id: {class, score}}, id,label,score")
    return _matrix(tree) if isinstance(tree.get("class"), list) else _single(tree)


def _matrix(tree: dict[str, Any]) -> Iterator[Row]:
    labels, results = [text(label, "class") for label in tree["class"]], tree.get("results")
    if len(set(labels)) < len(labels) or not labels:
        raise ValueError("its labels under 'class' are none, or one stands twice")
    if not isinstance(results, dict):
        raise TypeError("beside 'class' it needs 'results': {id: [scores]}")
    for id, row in results.items():
        if not isinstance(row, list) or len(row) != len(labels):
            raise ValueError(f"video {id!r} needs a list of {len(labels)} scores, one a class")
        for label, score in zip(labels, row, strict=True):
            yield id, label, number(score, f"video {id!r}: score")


def _single(tree: dict[str, Any]) -> Iterator[Row]:
    for id, entry in tree.items():
        if not isinstance(entry, dict) or entry.keys() != {"class", "score"}:
            raise ValueError(f"video {id!r} needs {{class, score}}, and nothing else")
        yield id, text(entry["class"], f"video {id!r}: class"), number(entry["score"], f"video {id!r}: score")


def _array(path: Path) -> Iterator[Row]:
    """Rows of an array, named by `{"ids": [id of each row], "columns": {label: its column}}`; other columns are not read.

    Ids may be a pattern like `video_test_{:07d}`, numbered from 1. Source: the 20 columns of UCF-101's 101 classes are
    those that the public THUMOS-14 code takes.
    """
    beside = path.with_suffix(".json")
    if beside.exists():
        named, _ = load_json(beside)
    else:
        with resources.as_file(resources.files("etad.data") / "tables" / UNTRIMMEDNET) as table:
            named, _ = load_json(table)
    try:
        scores = np.load(path, allow_pickle=False)
        ids, columns = named["ids"], named["columns"]
        if isinstance(ids, str):
            ids = [ids.format(n) for n in range(1, len(scores) + 1)]
        taken = scores[:, list(columns.values())].astype(np.float64)
        pairs = list(zip(ids, taken.tolist(), strict=True))
    except OSError as error:
        raise DataError(f"{path}: cannot read this array: {error.strerror or error}") from None
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, EOFError) as error:
        raise ValueError(
            f"not an array [videos, classes] as {beside.name if beside.exists() else UNTRIMMEDNET} names it ({error})"
        ) from None
    for id, row in pairs:
        for label, score in zip(columns, row, strict=True):
            yield id, label, number(score, f"video {id!r}: score")


def _csv(content: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        if next(reader, None) != COLUMNS:
            raise ValueError("neither JSON nor CSV whose first line is id,label,score")
        for row in reader:
            where = f"line {reader.line_num}"
            if len(row) != len(COLUMNS):
                raise ValueError(f"{where}: {len(row)} columns, not 3")
            yield (
                text(row[0], f"{where}: id"),
                text(row[1], f"{where}: label"),
                number(float(row[2]), f"{where}: score"),
            )
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None
