"""What is detected in: rows, each a whole video or a window of one, of features or of frames."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from etad.data.annotations import Annotations

VideoScores = Mapping[str, tuple[tuple[str, float], ...]]  # video id -> (label, score), best first


class Frames(Protocol):
    """Rows of uint8 RGB frames [T, 3, L, H, W], decoded when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        """The row as it is tested: the centre cut out."""

    def augmented(self, row: int, *, seed: int, epoch: int) -> NDArray[np.uint8]:
        """The row as it is trained on: cut, mirrored and coloured alike in all snippets, by (seed, epoch, row)."""


@dataclass(frozen=True)
class Samples:
    """Rows of one subset. Row w covers span_s[w] = (start, end) seconds of video ids[w] with T columns or snippets.

    It has features, or frames that an encoder makes features of.
    """

    ids: tuple[str, ...]  # [W], a video's id once for each of its windows
    span_s: NDArray[np.float64]  # [W, 2]
    features: NDArray[np.float16] | None  # [W, T, C], in memory or memory-mapped
    frames: Frames | None = None


@dataclass(frozen=True)
class Corpus:
    """Everything a run needs of its data. `mark` is the evidence mark: anet, synthetic-1, a custom set's name."""

    mark: str
    annotations: Annotations
    subsets: Mapping[str, Samples]  # subset -> rows
    classifier: VideoScores | None  # video-level classes; None: detections stay unlabelled
    sources: Mapping[str, str] = field(default_factory=dict)  # what -> file name and hash, generator settings
    bounds: Mapping[str, Any] = field(default_factory=dict)  # made-up data: its floor and ceiling detections
