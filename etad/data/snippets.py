"""Which moments of a video a row of snippets shows."""

import numpy as np
from numpy.typing import NDArray


def snippet_times(
    span_s: tuple[float, float], *, tscale: int, frames: int, stride: int, frame_rate: float
) -> NDArray[np.float64]:
    """Seconds [T, L] of the frames of T snippets that lie evenly over span_s = (start, end).

    Snippet i is centred on start + (i + 1/2) (end - start) / T, as feature column i is; its L frames lie `stride` frames
    of the video's mean rate apart, around that centre. Times before the first frame show the first, after the last the
    last. Source: METHOD 1, which leaves the place inside a column open.
    """
    start_s, end_s = span_s
    centres = start_s + (np.arange(tscale) + 0.5) * (end_s - start_s) / tscale
    offsets = (np.arange(frames) - (frames - 1) / 2) * stride / frame_rate
    return np.add(centres[:, None], offsets, dtype=np.float64)
