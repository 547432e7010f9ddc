"""Files of weights, opened as data: tensors and plain values, and no code of theirs runs."""

import argparse
import pickle
from pathlib import Path
from typing import Any

import torch


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
