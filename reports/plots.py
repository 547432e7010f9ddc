"""Figures of a report: matplotlib without its global state, the same bytes from the same numbers.

The text colour is mid-grey in the files and takes the page's own colour where the SVG stands inside HTML.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from etad.record import replacing

INK = "#737373"
BLUE, ORANGE, GREEN, VIOLET, RED = "#3f7fbf", "#d9822b", "#2f9e6e", "#8a6fc9", "#c8553d"
PALETTE = (BLUE, ORANGE, GREEN, VIOLET, RED)
MAX_POINTS = 800
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "etad",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.18,
    "grid.linewidth": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.4,
}


@dataclass(frozen=True)
class Plot:
    """A drawn figure: its name for files, its caption, what it shows in words, and its markup for the page."""

    name: str
    caption: str
    alt: str
    svg: str


@dataclass(frozen=True)
class Series:
    """A line of points; `quiet` ones are drawn thin and dashed, as a frame of reference."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    quiet: bool = False
    points_only: bool = False


def _axes(height: float = 2.7) -> Axes:
    figure = Figure(figsize=(4.6, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def _inline(svg: str, name: str) -> str:
    """The <svg> element alone, coloured and set by the page; ids made unique to the figure."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = svg.replace(INK, "currentColor").replace("'DejaVu Sans'", "inherit")
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*" ?', r"<svg \1", svg, count=1)
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*" ?', r"<svg \1", svg, count=1)
    return svg.replace("<svg ", '<svg aria-hidden="true" ', 1).strip()


def _finish(axes: Axes, folder: Path, name: str, caption: str, alt: str) -> Plot:
    figure = axes.figure
    assert isinstance(figure, Figure)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Title": alt})
    with replacing(folder / f"{name}.svg") as file:
        file.write(buffer.getvalue())
    with replacing(folder / f"{name}.png", "wb") as file:
        figure.savefig(file, format="png", transparent=True, dpi=160, metadata={"Software": None})
    return Plot(name, caption, alt, _inline(buffer.getvalue(), name))


def _thin(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.iloc[:: max(1, len(frame) // MAX_POINTS)]


def _epoch_lines(axes: Axes, frame: pd.DataFrame) -> None:
    """A faint line wherever an epoch begins, as long as they are few."""
    if "epoch" not in frame:
        return
    begins = frame.loc[frame["epoch"].diff() > 0, "iteration"]
    for x in begins if len(begins) <= 40 else []:
        axes.axvline(x, color=INK, alpha=0.25, linewidth=0.5, linestyle=(0, (2, 3)))


def losses(frame: pd.DataFrame, folder: Path, name: str) -> Plot:
    """The total loss and its parts by iteration: rolling mean over the raw values."""
    with matplotlib.rc_context(_STYLE):
        axes = _axes()
        stages = sorted(str(c) for c in frame if str(c).startswith("stage"))
        parts = [*(c for c in ("total", "boundary") if c in frame), *stages]
        window = max(1, len(frame) // 40)
        for part, colour in zip(parts, PALETTE * 3, strict=False):
            smooth = _thin(frame[["iteration", part]].assign(mean=frame[part].rolling(window, 1, center=True).mean()))
            axes.plot(smooth["iteration"], smooth[part], color=colour, alpha=0.22, linewidth=0.6)
            label = re.sub(r"(\d+)$", r" \1", part)
            axes.plot(
                smooth["iteration"], smooth["mean"], color=colour, label=label, linewidth=2 if part == "total" else 1.3
            )
        _epoch_lines(axes, frame)
        axes.set(xlabel="iteration", ylabel="loss", ylim=(0, None))
        axes.margins(x=0.01)
        axes.legend(ncols=min(len(parts), 3), loc="upper right")
        total = frame["total"].dropna()
        first, last, steps = total.iloc[0], total.iloc[-1], frame["iteration"].iloc[-1]
        alt = f"Training loss by iteration: the total goes from {first:.3g} to {last:.3g} over {steps:.0f} iterations."
        return _finish(
            axes,
            folder,
            name,
            f"Training losses: means over {window} logged rows, raw values faint; dotted lines begin epochs.",
            alt,
        )


def step_times(frame: pd.DataFrame, folder: Path, name: str) -> Plot:
    """Milliseconds a step by iteration and, below, the part spent waiting for data."""
    with matplotlib.rc_context(_STYLE):
        axes = _axes()
        few, median = _thin(frame), float(frame["seconds"].median()) * 1e3
        axes.plot(few["iteration"], few["seconds"] * 1e3, color=BLUE, linewidth=1, label="step")
        if "data_seconds" in few:
            axes.fill_between(
                few["iteration"],
                few["data_seconds"] * 1e3,
                color=ORANGE,
                alpha=0.8,
                linewidth=0,
                label="of it waiting for data",
            )
        axes.axhline(median, color=INK, linewidth=0.8, linestyle="--", label=f"median {median:.3g} ms")
        top = float(frame["seconds"].quantile(0.98)) * 1e3
        axes.set(xlabel="iteration", ylabel="ms a step", ylim=(0, max(top, median) * 1.35))
        axes.margins(x=0.01)
        axes.legend(ncols=3, loc="upper center", columnspacing=1.0)
        return _finish(
            axes,
            folder,
            name,
            "Time of a training step, each point a mean since the last logged row.",
            f"Time of a training step by iteration: median {median:.3g} ms.",
        )


def accuracy(series: Sequence[Series], folder: Path, name: str, caption: str) -> Plot:
    """mAP by tIoU threshold: own lines, quiet bounds, other people's figures as points."""
    with matplotlib.rc_context(_STYLE):
        axes = _axes()
        colours = iter(PALETTE * 5)
        for one in series:
            if one.quiet:
                axes.plot(one.x, one.y, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), alpha=0.9)
                axes.annotate(
                    one.label, (one.x[0], one.y[0]), (2, 4), textcoords="offset points", color=INK, fontsize=8
                )
            elif one.points_only:
                axes.plot(one.x, one.y, "D", color=next(colours), markersize=4.5, label=one.label, alpha=0.9)
            else:
                axes.plot(one.x, one.y, color=next(colours), marker="o", markersize=3.5, linewidth=2, label=one.label)
        axes.set(xlabel="tIoU threshold", ylabel="mAP (%)", ylim=(0, None))
        if sum(not one.quiet for one in series) > 1:
            axes.legend(loc="lower left")
        main = next(one for one in series if not one.quiet)
        alt = f"mAP by tIoU: {main.label}, {main.y[0]:.1f} % at {main.x[0]:g}, {main.y[-1]:.1f} % at {main.x[-1]:g}."
        return _finish(axes, folder, name, caption, alt)
