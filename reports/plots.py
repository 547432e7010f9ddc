"""Figures as files: matplotlib without its global state, the same bytes from the same numbers.

The text colour is mid-grey in the files and takes the page's own colour where the SVG stands inside HTML.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from etad.record import replacing
from reports.charts import Chart

INK = "#737373"
BLUE, ORANGE, GREEN, VIOLET, RED = "#3f7fbf", "#d9822b", "#2f9e6e", "#8a6fc9", "#c8553d"
PALETTE = (BLUE, ORANGE, GREEN, VIOLET, RED, "#2a9aa8", "#a8588f", "#8a7a2e")
KINDS = ("svg", "png")
PNG_DPI = 160
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "etad",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a label is a dollar sign
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
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
    kinds: Sequence[str] = KINDS  # of its files


def clipped(text: object, most: int = 36) -> str:
    """A label that leaves room for what it labels, without characters that XML forbids."""
    plain = "".join(c for c in str(text) if c.isprintable())
    return plain if len(plain) <= most else f"{plain[: most - 1]}…"


@contextmanager
def styled(height: float = 2.7, width: float = 4.6) -> Iterator[Axes]:
    """Empty axes, drawn upon in the house's style."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure.add_subplot()


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


def finish(axes: Axes, folder: Path, name: str, caption: str, alt: str, kinds: Sequence[str] = KINDS) -> Plot:
    """The drawn axes as NAME.svg and, where among `kinds`, NAME.png in `folder`, and as markup."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    buffer = io.StringIO()
    # savefig lays out and draws twice for each file; here all is laid out once, and each file drawn once
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None, "Title": alt})
    with replacing(folder / f"{name}.svg", durable=False) as file:
        file.write(buffer.getvalue())
    if "png" in kinds:
        with replacing(folder / f"{name}.png", "wb", durable=False) as file:
            figure.set_dpi(PNG_DPI)  # the SVG's is 72
            FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return Plot(name, caption, alt, _inline(buffer.getvalue(), name), kinds)


def draw(chart: Chart, folder: Path, kinds: Sequence[str] = KINDS) -> Plot:
    """A run's chart as files and markup."""
    with styled() as axes:
        for line in chart.lines:
            colour, label = PALETTE[line.colour % len(PALETTE)], clipped(line.label) or None
            if line.style == "bound":
                axes.plot(line.x, line.y, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), alpha=0.9)
                place = (line.x[0], line.y[0])
                axes.annotate(clipped(line.label), place, (2, 4), textcoords="offset points", color=INK, fontsize=8)
            elif line.style == "level":
                axes.axhline(line.y[0], color=INK, linewidth=0.8, linestyle="--", label=label)
            elif line.style == "area":
                axes.fill_between(line.x, line.y, color=colour, alpha=0.8, linewidth=0, label=label)
            elif line.style == "points":
                axes.plot(line.x, line.y, "D", color=colour, markersize=4.5, label=label, alpha=0.9)
            elif line.style == "faint":
                axes.plot(line.x, line.y, color=colour, alpha=0.22, linewidth=0.6)
            else:
                width = 2 if line.style == "strong" else 1.3
                marker = "o" if len(line.x) <= 12 else None
                axes.plot(line.x, line.y, color=colour, label=label, linewidth=width, marker=marker, markersize=3.5)
        for x in chart.rules:
            axes.axvline(x, color=INK, alpha=0.25, linewidth=0.5, linestyle=(0, (2, 3)))
        axes.set(xlabel=chart.x_label, ylabel=chart.y_label, ylim=(0, chart.top))
        axes.margins(x=0.01)
        labelled = [line for line in chart.lines if line.label and line.style != "bound"]
        if len(labelled) > 1:
            columns = 1 if chart.legend == "lower left" else min(len(labelled), 3)
            axes.legend(ncols=columns, loc=chart.legend, columnspacing=1.0)
        return finish(axes, folder, chart.name, chart.caption, chart.alt, kinds)
