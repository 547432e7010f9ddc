"""The numbers that the synthetic ground truth is drawn from, counted in a real annotation file."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from etad.record import replacing
from experiments.command import Failure, console, main, parser

EDGES = np.array([0.0, 0.01, *np.arange(1, 20) * 0.05, 0.99, 1.0])
LEVELS = np.linspace(0.0, 1.0, 21)
Floats = NDArray[np.float64]


def read_segments(path: Path, subsets: Sequence[str]) -> list[tuple[str, float, Floats]]:
    """First label, duration in seconds and sorted segments [N, 2] (fractions, clipped) of each video that has any."""
    try:
        database = json.loads(path.read_text(encoding="utf-8"))["database"]
    except (KeyError, ValueError, TypeError) as error:
        raise Failure(f"{path}: not in the ActivityNet layout ({error})") from None
    out = []
    for video in database.values():
        notes = video["annotations"] if video["subset"] in subsets else []
        segments = np.clip(np.array([n["segment"] for n in notes], float).reshape(-1, 2) / video["duration"], 0, 1)
        segments = segments[segments[:, 1] > segments[:, 0]]
        if len(segments):
            out.append((notes[0]["label"], float(video["duration"]), segments[np.lexsort(segments.T[::-1])]))
    if not out:
        raise Failure(f"{path}: no segments in {', '.join(subsets)}")
    return out


def covered(segments: Floats) -> float:
    """Length of the union of sorted segments [N, 2]."""
    ends = np.maximum.accumulate(segments[:, 1])
    return float(np.maximum(ends - np.maximum(segments[:, 0], np.r_[0.0, ends[:-1]]), 0).sum())


def log_spread(parts: Sequence[Floats]) -> float:
    """Standard deviation of the logarithms of positive numbers around their group's mean, pooled over the groups."""
    logs = [np.log(p) for p in parts if len(p) > 1]
    return float(np.sqrt(sum(((x - x.mean()) ** 2).sum() for x in logs) / max(sum(len(x) - 1 for x in logs), 1)))


def correlation(values: Floats, groups: NDArray[np.int64]) -> float:
    """Correlation of normal values [n] with their group's effect: root of the share of variance between groups."""
    counts = np.bincount(groups)
    if len(values) <= (counts > 0).sum():
        return 0.0
    means = np.bincount(groups, values) / np.maximum(counts, 1)
    within = ((values - means[groups]) ** 2).sum() / (len(values) - (counts > 0).sum())
    return float(np.sqrt(max(0.0, 1.0 - within / values.var(ddof=1))))


def probit_correlation(hits: NDArray[np.bool_], groups: NDArray[np.int64]) -> float:
    """The same for a latent normal of which only the sign against a threshold is seen."""
    counts = np.bincount(groups)
    shares = np.bincount(groups, hits) / counts
    if not 0 < hits.mean() < 1:
        return 0.0
    variance = shares.var() - (shares * (1 - shares) / np.maximum(counts - 1, 1)).mean()
    z, threshold = norm.ppf((np.arange(400) + 0.5) / 400), norm.ppf(hits.mean())

    def spread(rho: float) -> float:
        return float(norm.cdf((threshold + rho * z) / np.sqrt(1 - rho**2)).var() - variance)

    return float(brentq(spread, 0.0, 0.99)) if spread(0.0) < 0 < spread(0.99) else 0.0


def fixed_windows(videos: Sequence[Floats], count: int = 5) -> list[list[float]]:
    """The `count` windows (start, end, score) of a grid of twentieths that together match most segments.

    Chosen one after the other, each by the mean over tIoU 0.5:0.05:0.95 of the share of segments that no earlier
    window matches and it does; that share is its score.
    """
    starts, ends = np.nonzero(np.triu(np.ones((21, 21)), 1))
    grid = np.stack([starts, ends], 1) / 20
    segments = np.concatenate(videos)
    overlap = np.minimum(grid[:, None, 1], segments[:, 1]) - np.maximum(grid[:, None, 0], segments[:, 0])
    overlap = np.maximum(overlap, 0)
    tiou = overlap / ((grid[:, 1] - grid[:, 0])[:, None] + (segments[:, 1] - segments[:, 0]) - overlap)
    matches = np.floor((tiou - 0.45) / 0.05 + 1e-9).clip(0, 10)  # thresholds passed, of ten
    best, out = np.zeros(len(segments)), []
    for _ in range(count):
        gain = (np.maximum(matches, best) - best).mean(1) / 10
        k = int(gain.argmax())
        best = np.maximum(best, matches[k])
        out.append([float(grid[k, 0]), float(grid[k, 1]), round(float(gain[k]), 4)])
    return out


def derive(path: Path, subsets: Sequence[str], groups: Sequence[int]) -> dict[str, Any]:
    """The table. `groups`: numbers of segments at which a new row of it begins, for example 1, 2, 3, 5."""
    videos = read_segments(path, subsets)
    number = np.array([len(s) for _, _, s in videos])
    row = np.searchsorted(groups, number, "right") - 1
    _, label = np.unique([name for name, _, _ in videos], return_inverse=True)
    single = np.flatnonzero(number == 1)
    length = np.array([videos[i][2][0, 1] - videos[i][2][0, 0] for i in single])
    rows = []
    for g in range(len(groups)):
        mine = [videos[i] for i in np.flatnonzero(row == g)]
        spans = np.array([(s[0, 0], s[:, 1].max()) for _, _, s in mine])
        cells = np.histogram2d(spans[:, 0], spans[:, 1], [EDGES, EDGES])[0].astype(int)
        filled = [covered(s) / (s[:, 1].max() - s[0, 0]) for _, _, s in mine]
        gaps = [s[1:, 0] - s[:-1, 1] for _, _, s in mine]
        rows.append(
            {
                "at_least": int(groups[g]),
                "spans": [[int(i), int(j), int(cells[i, j])] for i, j in np.argwhere(cells)],
                "filled": np.quantile(filled, LEVELS).round(4).tolist(),
                "length_spread": round(log_spread([s[:, 1] - s[:, 0] for _, _, s in mine]), 3),
                "gap_spread": round(log_spread([x[x > 0.002] for x in gaps]), 3),
                "duration_s": np.quantile([d for _, d, _ in mine], LEVELS).round(1).tolist(),
            }
        )
    ranks = (np.argsort(np.argsort(length)) + 0.5) / max(len(length), 1)
    return {
        "source": f"{path.name}, {' and '.join(subsets)}: {len(videos)} videos, {int(number.sum())} segments",
        "edges": EDGES.round(2).tolist(),
        "numbers": [[int(n), int(c)] for n, c in zip(*np.unique(number, return_counts=True), strict=True)],
        "class_number": round(probit_correlation(number > np.median(number), label), 3),
        "class_length": round(correlation(norm.ppf(ranks), label[single]), 3),
        "windows": fixed_windows([s for _, _, s in videos]),
        "rows": rows,
    }


def run(argv: Sequence[str] | None = None) -> int:
    made = parser(
        "experiments.statistics",
        "Count the statistics that synthetic ground truth is drawn from, in a real annotation file.",
        "python -m experiments.statistics activity_net.v1-3.json etad/data/tables/anet13.json --subset training",
    )
    made.add_argument("annotations", type=Path, help="ground truth in the ActivityNet layout")
    made.add_argument("table", type=Path, help="JSON file to write")
    made.add_argument("--subset", nargs="+", required=True, help="subsets to count")
    made.add_argument(
        "--groups", nargs="+", type=int, default=[1, 2, 3, 5], help="numbers of segments that begin a row"
    )

    def work(args: Any) -> dict[str, Any]:
        table = derive(args.annotations, args.subset, args.groups)
        with replacing(args.table) as file:
            json.dump(table, file, separators=(",", ":"))
        return {"table": str(args.table), "source": table["source"]}

    return main(made, work, lambda result: console.print(f"{result['table']}: {result['source']}"), argv)


if __name__ == "__main__":
    sys.exit(run())
