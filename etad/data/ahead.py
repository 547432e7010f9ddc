"""Rows of frames that are decoded before they are asked for."""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from etad.data.samples import Frames


class Ahead:
    """The tested rows of `frames`; `count` threads decode those that follow the one asked for (decoding frees the others)."""

    def __init__(self, frames: Frames, count: int):
        self.frames, self.count = frames, count
        self.pool = ThreadPoolExecutor(count) if count else None
        self.waiting: dict[int, Future[NDArray[np.uint8]]] = {}

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        if self.pool is None or not 0 <= row < len(self):
            return self.frames[row]
        wanted = range(row, min(row + self.count + 1, len(self)))
        kept = {w: self.waiting.get(w) or self.pool.submit(self.frames.__getitem__, w) for w in wanted}
        self.waiting = kept
        return kept.pop(row).result()
