"""Made-up ground truth drawn from the statistics of a real benchmark.

A table (etad/data/tables, counted by experiments/statistics.py) holds how many segments videos have and, for each row
of such numbers, a joint histogram of the first start and the last end, how much of that span is filled, how unequal
the segments and the gaps between them are, and how long the videos last.
"""

import hashlib
import json
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.special import ndtr, ndtri

from etad.data.annotations import Annotations, Video

Floats = NDArray[np.float64]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Row(_Frozen):
    """Videos with `at_least` segments or more, up to the next row's. Quantiles are at 0, 0.05 .. 1."""

    at_least: int
    spans: tuple[tuple[int, int, int], ...]  # bin of the first start, bin of the last end, videos
    filled: tuple[float, ...]  # quantiles of the share of the span inside segments
    length_spread: float  # standard deviation of log lengths inside a video
    gap_spread: float  # the same of the gaps
    duration_s: tuple[float, ...]  # quantiles


class Statistics(_Frozen):
    source: str
    edges: tuple[float, ...]  # of the bins of starts and ends, fractions of the video
    numbers: tuple[tuple[int, int], ...]  # segments in a video, videos
    class_number: float  # correlation of the class with the number of segments
    class_length: float  # with the length of the span, among videos of one row
    windows: tuple[tuple[float, float, float], ...]  # five fixed windows and their scores: the floor
    rows: tuple[Row, ...]


TABLES = ("anet13", "thumos14")


def read_statistics(name: str) -> Statistics:
    """A table shipped with the package: anet13 or thumos14. Raises ValueError, naming those there are."""
    if name not in TABLES:
        raise ValueError(f"no table of statistics named {name!r}; known: {', '.join(TABLES)}")
    return Statistics.model_validate_json((files("etad.data") / "tables" / f"{name}.json").read_text(encoding="utf-8"))


def generator(seed: int, video: str, stream: str) -> np.random.Generator:
    """Random numbers that depend on nothing but the seed, the video's id and what they are for."""
    key = int.from_bytes(hashlib.sha256(f"{stream}|{video}".encode()).digest()[:16], "little")
    return np.random.Generator(np.random.SFC64([seed, key]))


def _quantile(values: tuple[float, ...], u: float) -> float:
    return float(np.interp(u, np.linspace(0, 1, len(values)), values))


def _pick(counts: NDArray[np.int64], u: float) -> int:
    """Index whose share of the counts holds u."""
    total = counts.cumsum()
    return min(int(np.searchsorted(total, u * total[-1], "right")), len(counts) - 1)


def draw_segments(table: Statistics, level: float, rng: np.random.Generator) -> tuple[Floats, float]:
    """One video: segments [N, 2] (fractions, sorted, apart) and its duration in seconds.

    `level` is the class's standard normal score: high for classes of long, single segments. It enters through a
    Gaussian copula, so that over all classes the table's own shares come out.
    """
    latent, span, *place, fill, duration = rng.standard_normal(2).tolist() + rng.random(4).tolist()
    rho = table.class_number
    latent = rho * level + np.sqrt(1 - rho**2) * latent
    falling = np.array(table.numbers)[::-1]
    number = int(falling[_pick(falling[:, 1], ndtr(latent)), 0])
    row = [r for r in table.rows if r.at_least <= number][-1]
    # What the class still says about the length, once its part in the number of segments is taken out.
    rest = (level - rho * latent) / np.sqrt(1 - rho**2)
    span = ndtr(table.class_length * rest + np.sqrt(1 - table.class_length**2) * span)
    start, end = _span(table, row, float(span), place)
    if number == 1:
        return np.array([[start, end]]), _quantile(row.duration_s, duration)
    filled = np.clip(_quantile(row.filled, fill), 0.02, 0.98)
    lengths = np.exp(row.length_spread * rng.standard_normal(number))
    gaps = np.exp(row.gap_spread * rng.standard_normal(number - 1))
    parts = np.zeros(2 * number - 1)
    parts[::2], parts[1::2] = lengths / lengths.sum() * filled, gaps / gaps.sum() * (1 - filled)
    points = start + (end - start) * np.r_[0.0, parts.cumsum()]
    return points.reshape(-1, 2), _quantile(row.duration_s, duration)


def _span(table: Statistics, row: Row, u: float, place: list[float]) -> tuple[float, float]:
    """First start and last end: the cell of the joint histogram at u, cells in order of length; uniform inside it."""
    edges, cells = np.array(table.edges), np.array(row.spans)
    low, high = edges[cells[:, :2]], edges[cells[:, :2] + 1]
    order = np.argsort((low + high) @ (-1, 1), kind="stable")
    cell = order[_pick(cells[order, 2], u)]
    points = low[cell] + (high[cell] - low[cell]) * place
    start, end = np.sort(points)
    return float(start), float(max(end, start + 1e-3))


def draw_annotations(table: Statistics, videos: dict[str, int], classes: int, seed: int) -> Annotations:
    """Ground truth of `videos` (subset -> how many) over `classes`, from the shortest class to the longest."""
    names = tuple(f"class_{k:03d}" for k in range(classes))
    drawn = {}
    for subset, count in videos.items():
        for index in range(count):
            id = f"{subset}_{index:06d}"
            label = index % classes
            level = float(ndtri((label + 0.5) / classes))
            segments, duration = draw_segments(table, level, generator(seed, id, "truth"))
            labels = np.full(len(segments), label)
            drawn[id] = Video(id, subset, duration, np.minimum(segments * duration, duration), labels)
    settings = json.dumps([table.model_dump(), videos, classes, seed])
    return Annotations(drawn, names, {}, {}, hashlib.sha256(settings.encode()).hexdigest())
