"""Detections in memory and in the ActivityNet submission layout."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
