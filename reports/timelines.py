"""Videos as timelines: ground truth, the best detections judged, boundary probabilities. Geometry only."""

from collections.abc import Sequence
from dataclasses import dataclass

from reports.load import Example, Segment

SHOWN = 10  # detections a video
JUDGED_AT = 0.5  # tIoU


@dataclass(frozen=True)
class Bar:
    """A segment on a timeline; left and width in percent of the video."""

    left: float
    width: float
    label: str
    start_s: float
    end_s: float
    score: float | None = None
    opacity: float = 1.0
    tiou: float | None = None  # with the ground truth that it found; None: it found none
    same_label: bool = True  # some ground truth of the video has its label

    @property
    def correct(self) -> bool:
        return self.tiou is not None

    @property
    def verdict(self) -> str:
        if self.tiou is not None:
            return f"correct, tIoU {self.tiou:.2f}"
        return f"no free truth at tIoU {JUDGED_AT}" if self.same_label else "wrong label"


@dataclass(frozen=True)
class Timeline:
    id: str
    duration_s: float
    truth: tuple[Bar, ...]
    detections: tuple[Bar, ...]  # by falling score
    left_out: int  # detections not shown
    curves: tuple[tuple[str, str], ...]  # start and end: points of a polyline in a box of 100 x 100
    ticks: tuple[tuple[float, str], ...]  # percent, time

    @property
    def summary(self) -> str:
        found = sum(bar.correct for bar in self.detections)
        return (
            f"{len(self.truth)} ground-truth segments; of the {len(self.detections)} highest-scored detections, "
            f"{found} correct at tIoU {JUDGED_AT}"
        )


def tiou(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Temporal IoU of two segments in [0, 1]; 0 where both are empty."""
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - shared
    return shared / union if union > 0 else 0.0


def judge(truth: Sequence[Segment], detections: Sequence[Segment], threshold: float = JUDGED_AT) -> list[float | None]:
    """For each detection, given by falling score, its tIoU with the ground truth that it takes, or None.

    Source: METHOD 11: the highest-tIoU ground truth of its label at or above the threshold that is not taken.
    """
    taken: set[int] = set()
    out: list[float | None] = []
    for found in detections:
        overlaps = [
            (tiou(found.segment, t.segment), -i)
            for i, t in enumerate(truth)
            if i not in taken and t.label == found.label and tiou(found.segment, t.segment) >= threshold
        ]
        best = max(overlaps, default=None)
        if best is not None:
            taken.add(-best[1])
        out.append(best[0] if best else None)
    return out


def _clock(seconds: float, duration_s: float) -> str:
    if duration_s >= 120:
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
    return f"{seconds:.0f} s" if duration_s >= 10 else f"{seconds:.1f} s"


def _curve(values: Sequence[float]) -> str:
    """Probabilities, one a snippet, as points at the snippets' centres."""
    n = len(values)
    return " ".join(f"{100 * (i + 0.5) / n:.2f},{100 * (1 - min(1.0, max(0.0, v))):.1f}" for i, v in enumerate(values))


def timeline(video: Example, shown: int = SHOWN) -> Timeline:
    """The geometry of one video's timeline."""
    ranked = sorted(video.detections, key=lambda d: -(d.score or 0.0))
    takes = judge(video.truth, ranked)
    top = max((d.score or 0.0 for d in ranked), default=0.0)
    labels = {t.label for t in video.truth}

    def bar(segment: Segment, take: float | None, faint: bool) -> Bar:
        start, end = (min(max(t / video.duration_s, 0.0), 1.0) for t in segment.segment)
        share = (segment.score or 0.0) / top if faint and top > 0 else 1.0
        return Bar(
            round(100 * start, 3),
            round(max(100 * (end - start), 0.2), 3),
            segment.label,
            *segment.segment,
            score=segment.score,
            opacity=round(0.3 + 0.7 * max(0.0, share), 2),
            tiou=take,
            same_label=segment.label in labels,
        )

    return Timeline(
        video.id,
        video.duration_s,
        tuple(bar(t, 1.0, False) for t in video.truth),
        tuple(bar(d, take, True) for d, take in list(zip(ranked, takes, strict=True))[:shown]),
        max(0, len(ranked) - shown),
        tuple((name, _curve(values)) for name, values in (("start", video.start), ("end", video.end)) if values),
        tuple((25.0 * i, _clock(video.duration_s * i / 4, video.duration_s)) for i in range(5)),
    )


def drawn(line: Timeline, width: int = 44) -> str:
    """The timeline in characters, for Markdown: ground truth first, then detections by falling score."""

    def row(head: str, bars: Sequence[Bar], tail: str) -> str:
        cells = ["·"] * width
        for bar in bars:
            first = min(int(bar.left / 100 * width), width - 1)
            last = max(first + 1, round((bar.left + bar.width) / 100 * width))
            cells[first:last] = "█" * (min(last, width) - first)
        return f"{head:<8}{''.join(cells)} {' '.join(tail.split())[:22]}".rstrip()

    labels = sorted({bar.label for bar in line.truth})
    out = [row("truth", [b for b in line.truth if b.label == label], label) for label in labels] or [
        row("truth", [], "")
    ]
    for bar in line.detections:
        score = "" if bar.score is None else f"{bar.score:.2f}"
        out.append(row(f"{score} {'✓' if bar.correct else '✗'}", [bar], bar.label))
    return "\n".join(out)
