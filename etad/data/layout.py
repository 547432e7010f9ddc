"""How a set of one's own is best laid out for the detector, by rules on its statistics; each choice with its reason.

An instance is within reach where an anchor can be it: in a whole video resized to T columns, where it takes two of them; in
windows, where it takes two feature columns and lies inside a window as far as training asks (`windows.min_inside`).
The rules choose the paper's layout for ActivityNet-1.3 (whole videos, T 128, R 24), and for THUMOS-14 the windows of 128 and
R 16 of the public re-implementation; that one's limit of half a window is one of cost, here it is the longest instances.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from etad.data.annotations import Video
from etad.data.survey import LEAST_COLUMNS, instances
from etad.data.windows import row_spans, segments_in_window
from etad.spec import DataSpec, WindowSpec

WHOLE, WINDOWS = (32, 64, 128), (128, 256)  # T tried, the cheaper first
WORSE = 0.05  # reach that a cheaper layout may lack
BINS = (8, 16, 24)
BINS_A_COLUMN = 0.75  # of the median instance; ActivityNet-1.3 and THUMOS-14 have 0.6 to 0.7, with 24 and 16 bins
MIN_LENGTH = DataSpec.model_fields["min_length"].default  # a row whose every instance is shorter is not trained on
ANCHORS = 495  # 6 % of 8,256, the paper's a video
UNEQUAL = 0.02  # strides that differ by more between videos are fitted to each
STEPS, MOST_EPOCHS = 300, 60
SMALL = 2000  # rows; with fewer the laptop preset's narrower detector is trained


@dataclass(frozen=True)
class Layout:
    tscale: int
    windows: WindowSpec | None
    max_duration: float
    bins: int
    ratio: float
    max_detections: int
    batch: int
    epochs: int
    decay_epoch: int
    small: bool
    rows: int  # that are trained on
    reach: float  # share of the instances
    reasons: dict[str, str]  # section of the spec -> why


@dataclass(frozen=True)
class _Candidate:
    tscale: int
    windows: WindowSpec | None
    reach: float
    rows: int  # of training videos, that are trained on

    @property
    def text(self) -> str:
        return f"windows of {self.tscale}" if self.windows else f"whole videos in {self.tscale} columns"


def lay_out(
    videos: Sequence[Video],
    columns: Mapping[str, int] | None,
    *,
    train_subset: str,
    tscale: int | None = None,
    whole: bool = False,
    windows: WindowSpec | None = None,
) -> Layout:
    """The layout of these videos. `columns` is how many feature columns each has; None: frames, at any stride.

    `tscale`, `whole` and `windows` are what a user has settled already. Raises ValueError where no instance is trained on.
    """
    fewest = 0
    if columns is None:
        stride = windows or _snippets(videos)
        columns = {video.id: max(1, round(video.duration_s / stride.stride_s)) for video in videos}
    else:
        stride = _stride(videos, columns)
        fewest = int(np.quantile([columns[v.id] for v in videos], 0.9))
    candidates = []
    if windows is None:
        sizes: Sequence[int] = [tscale] if tscale else [t for t in WHOLE if t >= fewest or t == WHOLE[-1]]
        candidates += [_candidate(videos, columns, t, None, train_subset) for t in sizes]
    if not whole:
        sizes = [tscale] if tscale else WINDOWS
        candidates += [_candidate(videos, columns, t, windows or stride, train_subset) for t in sizes]
    best = max(candidate.reach for candidate in candidates)
    chosen = next(candidate for candidate in candidates if candidate.reach >= best - WORSE)
    if not chosen.rows:
        raise ValueError(f"no instance of the subset {train_subset!r} lies inside a row; there is nothing to train on")
    others = ", ".join(f"{c.text} {c.reach:.1%}" for c in candidates if c is not chosen)
    where = f"{chosen.text} have {chosen.reach:.1%} of the instances within reach"
    return _complete(videos, columns, chosen, where + (f" (tried: {others})" if others else ""))


def _snippets(videos: Sequence[Video]) -> WindowSpec:
    """A stride by which 19 of 20 instances take LEAST_COLUMNS snippets."""
    lengths = instances(videos, None).length_s
    return WindowSpec(stride_s=float(f"{np.quantile(lengths, 0.05) / LEAST_COLUMNS:.3g}") if len(lengths) else 1.0)


def _stride(videos: Sequence[Video], columns: Mapping[str, int]) -> WindowSpec:
    """Seconds a feature column, the median over the videos; fitted to each video where they differ."""
    strides = np.array([video.duration_s / columns[video.id] for video in videos])
    middle = float(f"{np.median(strides):.6g}")
    low, high = np.quantile(strides, (0.05, 0.95)) / middle
    return WindowSpec(stride_s=middle, fitted=bool(low < 1 - UNEQUAL or high > 1 + UNEQUAL))


def _candidate(
    videos: Sequence[Video],
    columns: Mapping[str, int],
    tscale: int,
    windows: WindowSpec | None,
    train_subset: str,
) -> _Candidate:
    reached = count = rows = 0
    for video in videos:
        lengths = video.segments_s[:, 1] - video.segments_s[:, 0]
        count += len(lengths)
        spans = row_spans(columns[video.id], video.duration_s, tscale, windows)
        kept = [segments_in_window(video.segments_s, span, windows.min_inside if windows else 0.0) for span in spans]
        inside = np.unique(np.concatenate([which for _, which in kept]))
        shown = columns[video.id] if windows else tscale  # columns of the whole video
        reached += int((lengths[inside] * shown >= LEAST_COLUMNS * video.duration_s * (1 - 1e-9)).sum())
        if video.subset == train_subset:
            rows += sum(bool((f[:, 1] - f[:, 0] >= MIN_LENGTH).any()) for f, _ in kept)
    return _Candidate(tscale, windows, reached / max(count, 1), rows)


def _complete(videos: Sequence[Video], columns: Mapping[str, int], chosen: _Candidate, where: str) -> Layout:
    of = instances(videos, columns)
    covered = of.columns if chosen.windows and of.columns is not None else of.share * chosen.tscale
    longest, median = float(np.quantile(covered, 0.99)), float(np.median(covered))
    max_duration = min(1.0, max(1, math.ceil(8 * longest / chosen.tscale - 1e-9)) / 8)
    bins = min(BINS, key=lambda r: abs(r - BINS_A_COLUMN * median))
    limit = max(1, round(max_duration * chosen.tscale))
    anchors = limit * chosen.tscale - limit * (limit - 1) // 2
    ratio = min(1.0, max(0.06, math.ceil(100 * ANCHORS / anchors) / 100))
    most = math.ceil(np.quantile([len(video.labels) for video in videos if len(video.labels)], 0.95))
    batch = next(b for b in (16, 8, 4, 2, 1) if b <= max(1, chosen.rows // 4))
    epochs = min(MOST_EPOCHS, max(6, math.ceil(STEPS / (chosen.rows // batch))))
    return Layout(
        tscale=chosen.tscale,
        windows=chosen.windows,
        max_duration=max_duration,
        bins=bins,
        ratio=ratio,
        max_detections=100 if most <= 20 else 100 * math.ceil(most / 20),
        batch=batch,
        epochs=epochs,
        decay_epoch=max(1, round(epochs * 5 / 6)),
        small=chosen.rows < SMALL,
        rows=chosen.rows,
        reach=chosen.reach,
        reasons={
            "data": where,
            "roi": f"the median instance takes {median:.1f} columns; three bins for four of them, of 8, 16 or 24",
            "proposals": f"99 of 100 instances take at most {longest:.1f} of {chosen.tscale} columns; "
            f"{ratio:.0%} of the {anchors:,} anchors are at least {min(ANCHORS, anchors)} a row",
            "inference": f"19 of 20 videos with instances have at most {most}; five times as many, in hundreds",
            "training": f"{chosen.rows:,} rows with instances; {epochs * (chosen.rows // batch):,} steps in all, "
            "the last sixth of them at a tenth of the rate",
            "model": f"fewer than {SMALL:,} rows are trained on: as narrow as the laptop preset",
        },
    )
