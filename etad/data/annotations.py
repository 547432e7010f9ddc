"""Ground truth in the ActivityNet layout."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
