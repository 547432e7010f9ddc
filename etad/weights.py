"""Files of weights, opened as data: tensors and plain values, and no code of theirs runs."""

import argparse
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from etad.spec import parse_yaml

BUILT = ("model.aggregator", "encoder.network")  # entries of a spec that a detector is built from


def read_tensors(path: Path) -> Any:
    """What a checkpoint file holds. Raises ValueError naming the file."""
    try:
        # TSP's checkpoints keep their command's arguments: a bag of plain values
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path}: not a safe checkpoint: it is none, or holds more than tensors and plain values"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path}: not a whole checkpoint ({first})") from None


def stated_spec(meta: Any, path: Path, *, built: Sequence[str] = BUILT, own_code: bool = False) -> dict[str, Any]:
    """The spec that a checkpoint states, as a tree. Raises ValueError where it states none.

    An entry may name its component as module:object, which building it imports. In a file from somebody else that is code
    of theirs: refused in the entries `built`, unless own_code says that it is wanted.
    """
    if not isinstance(meta, dict) or "spec" not in meta:
        raise ValueError(f"{path}: it says nothing of its spec; make one that does: experiments.checkpoint import")
    tree = parse_yaml(str(meta["spec"]), f"{path}, its spec") or {}
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: its spec is no mapping of sections")
    for entry in built:
        name: Any = tree
        for key in (*entry.split("."), "name"):
            name = name.get(key) if isinstance(name, dict) else None
        if isinstance(name, str) and ":" in name and not own_code:
            raise ValueError(
                f"{path}: its {entry} is code from outside the suite, {name}; allow it by own_code (--own-code)"
            )
    return tree


def first_line(error: Exception) -> str:
    """The first line that says something: torch's first one names a class."""
    lines = [line.strip() for line in str(error).splitlines() if "loading state_dict" not in line]
    return next(iter(lines), type(error).__name__)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint as tensors and plain values; no code of it runs. Raises ValueError naming the file."""
    checkpoint = read_tensors(path)
    if not isinstance(checkpoint, dict) or not {"state_dict", "meta"} <= checkpoint.keys():
        raise ValueError(f"{path}: not a checkpoint of this suite: it has no state_dict or no meta")
    return checkpoint


def load_weights(detector: nn.Module, path: Path) -> dict[str, Any]:
    """Loads a checkpoint's detector, weights only, and returns what it says of itself. Raises ValueError naming the file."""
    checkpoint, prefix = read_checkpoint(path), "detector."
    try:
        state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
        detector.load_state_dict(state)
        return dict(checkpoint["meta"])
    except (RuntimeError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a checkpoint of this detector ({first_line(error)})") from None
