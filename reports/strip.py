"""One video's detections as a picture: a lane a class along the video's time."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from etad.record import replacing
from reports.plots import INK, PALETTE

Row = tuple[float, float, str, float]  # start_s, end_s, label, score


def lanes(rows: Sequence[Row]) -> list[tuple[str, list[list[Row]]]]:
    """Each label, in the order of its first row, with its rows in lines in which none overlap."""
    found: dict[str, list[list[Row]]] = {}
    for row in rows:
        lines = found.setdefault(row[2], [])
        free = (line for line in lines if all(row[1] <= other[0] or other[1] <= row[0] for other in line))
        line = next(free, None)
        if line is None:
            lines.append([row])
        else:
            line.append(row)
    return list(found.items())


def draw_strip(path: Path, rows: Sequence[Row], duration_s: float, title: str) -> None:
    """Writes a PNG of rows given best first: the higher a score beside the best one, the darker its bar."""
    found, best = lanes(rows), max((score for *_, score in rows), default=0.0) or 1.0
    lines = max(1, sum(len(own) for _, own in found))
    figure = Figure(figsize=(9, 1.0 + 0.24 * lines), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    y, ticks = 0, []
    for number, (_, own) in enumerate(found):
        ticks.append(y + (len(own) - 1) / 2)
        for line in own:
            for start_s, end_s, _, score in line:
                color, alpha = PALETTE[number % len(PALETTE)], 0.15 + 0.85 * max(0.0, score) / best
                axes.broken_barh([(start_s, end_s - start_s)], (y - 0.4, 0.8), facecolor=color, alpha=alpha)
            y += 1
        axes.axhline(y - 0.5, color=INK, alpha=0.3, linewidth=0.5)
    axes.set(xlim=(0, duration_s), ylim=(lines - 0.5, -0.5), xlabel="seconds")
    axes.set_yticks(ticks, [label for label, _ in found], parse_math=False)
    axes.set_title(title, fontsize=9, color=INK, loc="left", parse_math=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    with replacing(path, "wb") as file:
        figure.savefig(file, format="png")
