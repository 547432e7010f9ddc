"""Charts of a run as data: which lines, on which axes, said in which words. reports/plots.py draws them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

MAX_POINTS = 800
Style = Literal["line", "strong", "faint", "bound", "points", "area", "level"]


@dataclass(frozen=True)
class Line:
    """One series. bound: a frame of reference, labelled where it begins; level: its y everywhere; area: filled from 0."""

    label: str  # empty: not in the legend
    x: Sequence[float]
    y: Sequence[float]  # NaN: a gap
    style: Style = "line"
    colour: int = 0  # of the palette


@dataclass(frozen=True)
class Chart:
    name: str
    caption: str
    alt: str  # what it shows, in words
    x_label: str
    y_label: str
    lines: Sequence[Line]
    top: float | None = None  # end of the vertical axis, which begins at 0; None: as far as the lines go
    rules: Sequence[float] = ()  # x of faint vertical lines
    legend: Literal["upper right", "upper center", "lower left"] = "upper right"


def _thin(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.iloc[:: max(1, len(frame) // MAX_POINTS)]


def _epochs(frame: pd.DataFrame) -> list[float]:
    """Where epochs begin, as long as they are few."""
    begins = frame.loc[frame["epoch"].diff() > 0, "iteration"].tolist() if "epoch" in frame else []
    return begins if len(begins) <= 40 else []


def losses(frame: pd.DataFrame, name: str) -> Chart:
    """The total loss and its parts by iteration: rolling mean over the raw values."""
    stages = sorted(str(c) for c in frame if str(c).startswith("stage"))
    parts = [*(c for c in ("total", "boundary") if c in frame), *stages, *(["classes"] if "classes" in frame else [])]
    window = max(1, len(frame) // 40)
    lines: list[Line] = []
    for colour, part in enumerate(parts):
        few = _thin(frame[["iteration", part]].assign(mean=frame[part].rolling(window, 1, center=True).mean()))
        x = few["iteration"].tolist()
        label = re.sub(r"(\d+)$", r" \1", part)
        lines.append(Line("", x, few[part].tolist(), "faint", colour))
        lines.append(Line(label, x, few["mean"].tolist(), "strong" if part == "total" else "line", colour))
    total = frame["total"].dropna()
    ends = f"goes from {total.iloc[0]:.3g} to {total.iloc[-1]:.3g}" if len(total) else "is not known"
    return Chart(
        f"{name}-losses",
        f"Training losses: means over {window} logged rows, raw values faint; dotted lines begin epochs.",
        f"Training loss by iteration: the total {ends} over {frame['iteration'].iloc[-1]:.0f} iterations.",
        "iteration",
        "loss",
        lines,
        rules=_epochs(frame),
    )


def step_times(frame: pd.DataFrame, name: str) -> Chart:
    """Milliseconds a step by iteration and, below, the part spent waiting for data."""
    few, median = _thin(frame), float(frame["seconds"].median()) * 1e3
    x = few["iteration"].tolist()
    lines = [Line("step", x, (few["seconds"] * 1e3).tolist(), colour=0)]
    if "data_seconds" in few:
        lines.insert(0, Line("of it waiting for data", x, (few["data_seconds"] * 1e3).tolist(), "area", 1))
    lines.append(Line(f"median {median:.3g} ms", x[:1], [median], "level"))
    return Chart(
        f"{name}-steps",
        "Time of a training step, each point a mean since the last logged row.",
        f"Time of a training step by iteration: median {median:.3g} ms.",
        "iteration",
        "ms a step",
        lines,
        top=max(float(frame["seconds"].quantile(0.98)) * 1e3, median) * 1.35,
        legend="upper center",
    )


def accuracy(lines: Sequence[Line], name: str, caption: str) -> Chart:
    """mAP by tIoU threshold: own lines, bounds, other people's figures as points."""
    main = next(line for line in lines if line.style != "bound")
    ends = f"{main.y[0]:.1f} % at {main.x[0]:g}, {main.y[-1]:.1f} % at {main.x[-1]:g}"
    alt = f"mAP by tIoU: {main.label}, {ends}."
    return Chart(f"{name}-accuracy", caption, alt, "tIoU threshold", "mAP (%)", lines, legend="lower left")
