"""What a run is called: one key of all that decides its training, one of all that decides its figures. No torch.

A key holds the resolved knobs, the content of the files that they name, and the content of the modules that compute the
result. Where a file lies, `runtime`, and modules that only measure, record or read do not matter.
"""

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import etad
from etad.record import CHECKPOINT, read_record
from etad.spec import TESTED, TRAINED, Spec

SAMPLED = 256 * 2**20  # bytes; larger files are known by size and time, as hashing them would take seconds
# Modules that decide no result. A new module counts until it is named here.
APART = {
    "measure.py",
    "footprint.py",
    "pretraining.py",
    "diagnose.py",
    "detecting.py",
    "record.py",
    "registry.py",
    "spec.py",
}
APART |= {"model/released.py", "data/packing.py"}
APART |= {
    "data/folders.py",
    "data/layout.py",
    "data/survey.py",
    "data/tabular.py",
}  # a set's preparation: its spec says all
AFTER = {"inference.py", "postprocess.py", "detections.py", "matches.py", "evaluate.py"}  # after training
AFTER |= {"data/classifier.py", "data/synthetic_bounds.py", "data/versions.py"}
# Arguments of the suite's own data sets that do not reach the training videos.
TEST_SIDE = {"test_videos", "classifier"}

NAMED = {"args", "checkpoint", "blocked"}  # where a spec names files
PLACES = {"cache", "folder"}  # folders whose content follows from the rest
LABELS = {"mark"}  # what a set is called, though a folder may be called the same


def trained_key(spec: Spec) -> str:
    """The same for all specs that train the same detector on the same videos."""
    tree = {name: part for name, part in spec.model_dump(mode="json").items() if name in TRAINED}
    del tree["data"]["test_subset"]
    source = tree["data"]["source"]
    if ":" not in source["name"]:
        source["args"] = {name: value for name, value in source["args"].items() if name not in TEST_SIDE}
    return _hash(tree, AFTER)


def tested_key(spec: Spec) -> str:
    """The same for all specs that give the same figures."""
    return _hash({name: part for name, part in spec.model_dump(mode="json").items() if name in TESTED}, set())


def run_folder(spec: Spec, root: Path) -> Path:
    return root / f"{spec.name}-{tested_key(spec)}"


def trained_folder(spec: Spec, root: Path) -> Path:
    """Where all runs in `root` that train the same find it."""
    return root / "trained" / trained_key(spec)


def checkpoint_of(path: Path) -> Path:
    """A checkpoint's file, or that of a run's folder, which may share its training. Raises RecordError without a record."""
    if not path.is_dir() or (path / CHECKPOINT).exists():
        return path / CHECKPOINT if path.is_dir() else path
    return path.parent / "trained" / read_record(path).keys["trained"] / CHECKPOINT


def _hash(tree: dict[str, Any], left_out: set[str]) -> str:
    digest = hashlib.sha256(json.dumps(_contents(tree), sort_keys=True).encode())
    digest.update(_code(frozenset(APART | left_out)).encode())
    for module in sorted({name.partition(":")[0] for name in _names(tree) if ":" in name}):
        digest.update(_file_of(module).encode())
    return digest.hexdigest()[:12]


def _contents(tree: Any, paths: bool = False) -> Any:
    """The tree with every path that exists replaced by what is there, and without places that only keep work."""
    if isinstance(tree, dict):
        inside = {k: k not in LABELS and (paths or k in NAMED) for k in tree if k not in PLACES}
        return {k: _contents(tree[k], named) for k, named in inside.items()}
    if isinstance(tree, list):
        return [_contents(value, paths) for value in tree]
    if paths and isinstance(tree, str) and tree and Path(tree).exists():
        return _content(Path(tree))
    return tree


def _content(path: Path) -> str:
    """A file's hash, a pack's (its index holds a checksum of every row), or the names, sizes and times in a folder."""
    if path.is_dir():
        if (path / "index.json").exists():
            return _content(path / "index.json")
        return _listing(path, path.stat().st_mtime_ns)
    state = path.stat()
    if state.st_size > SAMPLED:
        return f"{path.name} {state.st_size} {state.st_mtime_ns}"
    return _sha256(path, state.st_size, state.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, time_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _listing(path: Path, time_ns: int) -> str:
    def lines() -> Iterator[str]:
        for file in sorted(path.rglob("*")):
            state = file.stat()
            if file.is_file():
                yield f"{file.relative_to(path)} {state.st_size} {state.st_mtime_ns}\n"

    return _digest(lines())


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode())
    return digest.hexdigest()


@cache
def _code(left_out: frozenset[str]) -> str:
    root = Path(etad.__path__[0])
    files = {str(path.relative_to(root)): path for path in sorted(root.rglob("*.py"))}
    return _digest(
        f"{name} {hashlib.sha256(p.read_bytes()).hexdigest()}" for name, p in files.items() if name not in left_out
    )


def _names(tree: Any) -> Iterator[str]:
    """Names of the entries in a tree."""
    if isinstance(tree, dict):
        if set(tree) == {"name", "args"}:
            yield tree["name"]
        for value in tree.values():
            yield from _names(value)


@cache
def _file_of(module: str) -> str:
    """The content of a user's own module; its name where it cannot be found, which building it will say."""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    return _content(Path(found.origin)) if found and found.origin and Path(found.origin).is_file() else module
