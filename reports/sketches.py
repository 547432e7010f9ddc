"""A run's charts without matplotlib, which takes a hundred times as long: for a report of many runs.

The same data as reports/plots.py draws (reports/charts.py), as SVG alone. Lengths are units of a box of 460 x 270.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from reports.charts import Chart, Line
from reports.page import TEMPLATES, write
from reports.plots import INK, PALETTE, Plot, clipped

LEFT, RIGHT, TOP, BOTTOM = 46.0, 446.0, 26.0, 232.0  # ends of the axes
LETTER = 5.8  # width of a letter of the legend, about


@dataclass(frozen=True)
class Shape:
    """A line as the template draws it: points of polylines, gaps apart."""

    line: Line
    colour: str
    parts: list[str]
    key: float  # where its entry of the legend begins


@dataclass(frozen=True)
class Scale:
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return float(self.all([value])[0])

    def all(self, values: Sequence[float]) -> NDArray[np.float64]:
        share = (np.asarray(values, dtype=np.float64) - self.low) / (self.high - self.low)
        places: NDArray[np.float64] = np.round(self.start + np.clip(share, 0, 1) * (self.end - self.start), 1)
        return places

    def ticks(self, most: int) -> list[tuple[float, str]]:
        values = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        inside = [float(v) for v in values if self.low - 1e-9 <= v <= self.high + 1e-9]
        return [(self(v), f"{v:,g}" if abs(v) < 1e5 else f"{v:.0e}") for v in inside]


def _spread(values: Sequence[float], *, low: float | None = None) -> tuple[float, float]:
    """Ends of an axis, a little apart even where all values are one."""
    known = [v for v in values if math.isfinite(v)] or [0.0]
    first, last = min(known) if low is None else low, max(known)
    return (first, last) if last > first else (first, first + 1.0)


def _parts(line: Line, x: Scale, y: Scale) -> list[str]:
    places = np.column_stack([x.all(line.x), y.all(line.y)])
    gaps = np.flatnonzero(~np.isfinite(places).all(axis=1))
    parts = np.split(places, gaps)
    whole = [part[np.isfinite(part).all(axis=1)].tolist() for part in parts]
    return [" ".join(f"{a},{b}" for a, b in part) for part in whole if part]


@cache
def _template() -> Template:
    loader = FileSystemLoader(TEMPLATES)
    made = Environment(loader=loader, undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return made.get_template("sketch.svg.j2")


def sketch(chart: Chart, folder: Path) -> Plot:
    """The chart as an SVG file and markup."""
    free = [line for line in chart.lines if line.style != "level"]
    x = Scale(*_spread([v for line in free for v in line.x]), LEFT, RIGHT)
    drawn = [v for line in chart.lines for v in line.y]
    y = Scale(*_spread([*drawn, 0.0] if chart.top is None else [chart.top], low=0.0), BOTTOM, TOP)
    shapes, key = [], LEFT + 4
    for line in chart.lines:
        shapes.append(Shape(line, PALETTE[line.colour % len(PALETTE)], _parts(line, x, y), key))
        if line.label and line.style != "bound":
            key += 22 + LETTER * len(clipped(line.label))
    values = {
        "chart": chart,
        "shapes": shapes,
        "x": x,
        "y": y,
        "clipped": clipped,
        "legend": sum(bool(shape.line.label) for shape in shapes if shape.line.style != "bound") > 1,
        "ink": INK,
    }
    box = {"left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM}
    svg = _template().render(values | box)
    write(folder / f"{chart.name}.svg", svg)
    return Plot(
        chart.name,
        chart.caption,
        chart.alt,
        svg.replace(INK, "currentColor").replace("<svg ", '<svg aria-hidden="true" ', 1),
        ("svg",),
    )
