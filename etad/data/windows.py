"""Rows of T columns: a video's features resized whole, or cut into sliding windows; seconds to fractions and back."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etad.data.features import FeatureSource, resize
from etad.spec import WindowSpec


def window_starts(t: int, tscale: int, overlap: float) -> NDArray[np.int64]:
    """First column of each window [W]: every column is in one, and the last window ends with the last column.

    A sequence shorter than a window gives one window from 0, which `make_rows` pads with zeros.
    """
    step = max(1, round(tscale * (1 - overlap)))
    last = max(0, t - tscale)
    return np.append(np.arange(0, last, step), last)


def row_spans(t: int, duration_s: float, tscale: int, windows: WindowSpec | None) -> NDArray[np.float64]:
    """Start and end in seconds of each row [W, 2] of a video with t columns; a padded window runs past the video."""
    if windows is None:
        return np.array([[0.0, duration_s]])
    starts = window_starts(t, tscale, windows.overlap)
    stride_s = duration_s / t if windows.fitted else windows.stride_s
    return np.multiply(np.stack([starts, starts + tscale], axis=1), stride_s, dtype=np.float64)


def make_rows(features: NDArray[np.float16], tscale: int, windows: WindowSpec | None) -> NDArray[np.float16]:
    """Features [t, C] as rows [W, tscale, C]: resized whole (W = 1), or windows padded with zeros at their end."""
    if windows is None:
        return resize(features, tscale).astype(np.float16)[None]
    t = len(features)
    padded = np.pad(features, ((0, max(0, tscale - t)), (0, 0)))
    return np.take(padded, window_starts(t, tscale, windows.overlap)[:, None] + np.arange(tscale), axis=0)


@dataclass(frozen=True)
class RowMaker:
    """A video's rows [W, T, C] from its raw features. Raises DataError."""

    source: FeatureSource
    tscale: int
    windows: WindowSpec | None

    def __call__(self, id: str) -> NDArray[np.float16]:
        return make_rows(self.source.read(id), self.tscale, self.windows)


def to_fractions(segments_s: NDArray[np.float64], span_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Seconds [..., 2] as fractions of the row that covers span_s [2]; not clipped."""
    fractions: NDArray[np.float64] = (segments_s - span_s[0]) / (span_s[1] - span_s[0])
    return fractions


def to_seconds(
    fractions: NDArray[np.float64], span_s: NDArray[np.float64] | tuple[float, float]
) -> NDArray[np.float64]:
    """Fractions [..., 2] of the row that covers span_s [2] as seconds; not clipped."""
    seconds: NDArray[np.float64] = span_s[0] + fractions * (span_s[1] - span_s[0])
    return seconds


def segments_in_window(
    segments_s: NDArray[np.float64], span_s: NDArray[np.float64], min_inside: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The segments [N, 2] that train a row, clipped to it: fractions [M, 2] in [0, 1], and which of the N they are [M].

    One is kept where at least `min_inside` of its length lies in span_s [2]; it must have some length there.
    Source: METHOD 1 (THUMOS-14).
    """
    clipped = np.clip(segments_s, span_s[0], span_s[1])
    inside, length = clipped[:, 1] - clipped[:, 0], segments_s[:, 1] - segments_s[:, 0]
    kept = np.flatnonzero((inside > 0) & (inside >= (min_inside - 1e-9) * length))  # the slack is rounding
    return np.clip(to_fractions(clipped[kept], span_s), 0.0, 1.0), kept
