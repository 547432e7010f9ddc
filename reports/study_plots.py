"""Figures of a study beside its curves: mAP against cost with the Pareto front, mAP by tIoU, errors by kind."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from ablations.outcome import StudyOutcome
from reports import charts
from reports.curves import arms, legend_of, others, rest, scale, spans
from reports.plots import INK, PALETTE, Plot, clipped, draw, finish, styled
from reports.run_tables import plain
from reports.study_tables import ranked, short, tious

LINES = 5  # cells in the figure of mAP by tIoU
LABELLED = 6  # cells that all get their names in a figure of mAP against cost


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which of the points (cost, gain) no other beats: no cheaper one is as good, by falling gain from the cheapest on."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    out: list[int] = []
    for i in order:
        if not out or points[i][1] > points[out[-1]][1]:
            out.append(i)
    return out


def _paired(outcome: StudyOutcome, cost: str) -> pd.DataFrame:
    """The cells that have an average mAP and a cost: x the cost, y, low, high, group, label, best (on the front)."""
    first = next(iter(outcome.axes), "")
    rows = []
    for cell in outcome.cells:
        gain, price = cell.estimate("average_mAP"), cell.estimate(cost)
        if gain and price and gain.value is not None and price.value is not None:
            label = plain(cell.values[first]) if first in cell.values else cell.name
            rows.append((price.value, gain.value, gain.low, gain.high, rest(outcome, first, cell), label, short(cell)))
    frame = pd.DataFrame(rows, columns=["x", "y", "low", "high", "group", "label", "cell"])
    frame["best"] = frame.index.isin(front(list(zip(frame["x"], frame["y"], strict=True))))
    return frame.astype({"low": float, "high": float})


def thin(labels: Sequence[Annotation]) -> None:
    """Takes away labels that would lie on that of a better cell, which is higher; the table has them all."""
    if labels:
        labels[0].get_figure(root=True).draw_without_rendering()  # type: ignore[union-attr]
    kept: list[Bbox] = []
    for label in sorted(labels, key=lambda label: -label.xy[1]):
        box = label.get_window_extent().padded(1)
        if any(box.overlaps(other) for other in kept):
            label.remove()
        else:
            kept.append(box)


def tradeoff(outcome: StudyOutcome, cost: str, what: str, folder: Path, name: str, kinds: Sequence[str]) -> Plot | None:
    """Average mAP against a cost, the cells that no other beats joined; None where fewer than two cells have both."""
    frame = _paired(outcome, cost)
    if len(frame) < 2:
        return None
    known = next(e for cell in outcome.cells if (e := cell.estimate(cost)) and e.value is not None)
    size, unit = scale(known.unit, frame["x"].max())
    frame["x"] /= size
    best = frame[frame["best"]].sort_values("x")
    groups, first = list(dict.fromkeys(frame["group"])), next(iter(outcome.axes), "")
    labels: list[Annotation] = []
    with styled(2.9) as axes:
        axes.plot(best["x"], best["y"], color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.errorbar(frame["x"], frame["y"], arms(frame), fmt="none", color=INK, elinewidth=0.6, alpha=0.6)
        for one in frame.to_dict("records"):
            colour, on, place = PALETTE[groups.index(one["group"]) % len(PALETTE)], one["best"], (one["x"], one["y"])
            axes.plot(*place, "o", color=colour, markersize=5, markerfacecolor=colour if on else "none")
            if on or len(frame) <= LABELLED:
                left = one["x"] < frame["x"].mean()  # the label goes to the middle
                shift, side = (5 if left else -5, 5 if on else -9), "left" if left else "right"
                text: dict[str, Any] = {"ha": side, "fontsize": 7.5, "color": INK}
                labels.append(axes.annotate(clipped(one["label"]), place, shift, textcoords="offset points", **text))
        if len(groups) > 1:
            legend_of(axes, [_dot(n) for n in range(len(groups))], groups, ", ".join(others(outcome, first)))
        if spans(frame["x"]):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(
                LogLocator(subs=(1, 2, 5) if frame["x"].max() < 40 * frame["x"].min() else (1,))
            )
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}") if unit else EngFormatter())
            axes.xaxis.set_minor_locator(NullLocator())
        axes.margins(x=0.14)
        axes.set(xlabel=f"{what} ({unit})" if unit else what, ylabel="average mAP (%)")
        thin(labels)
        caption = f"Average mAP, measured on {outcome.data}, against {what}, {known.evidence}."
        caption += " Filled and joined: no other cell is cheaper and better (Pareto front)."
        alt = f"Pareto front: {'; '.join(best['cell'])}."
        return finish(axes, folder, f"{name}-{cost.replace('_', '-')}", caption, alt, kinds)


def _dot(colour: int) -> Line2D:
    return Line2D([], [], marker="o", linestyle="", color=PALETTE[colour % len(PALETTE)])


def accuracy(outcome: StudyOutcome, folder: Path, name: str, kinds: Sequence[str]) -> Plot | None:
    """mAP by tIoU of all cells where they are few, else of best and worst."""
    found, cells = tious(outcome), ranked(outcome)
    cells = cells if len(cells) <= LINES else [cells[0], cells[-1]]
    lines: list[charts.Line] = []
    for cell in cells:
        points = [(float(t), e.value) for t in found if (e := cell.estimate(f"mAP@{t}")) and e.value is not None]
        if len(points) > 1:
            lines.append(charts.Line(short(cell), [a for a, _ in points], [b for _, b in points], colour=len(lines)))
    if not lines:
        return None
    which = "best and worst cell" if len(ranked(outcome)) > LINES else "each cell"
    return draw(charts.accuracy(lines, name, f"mAP by tIoU of {which}, measured on {outcome.data}."), folder, kinds)


def errors(outcome: StudyOutcome, folder: Path, name: str, kinds: Sequence[str]) -> Plot | None:
    """What each kind of error costs in the cells diagnosed."""
    import seaborn

    rows = [(cell, kind, value) for cell, costs in outcome.diagnosis.items() for kind, value in costs.items()]
    if not rows:
        return None
    frame = pd.DataFrame(rows, columns=["cell", "kind", "points"])
    names = {cell.name: short(cell) for cell in outcome.cells}
    frame["cell"] = [clipped(names.get(name, name)) for name in frame["cell"]]
    frame["kind"] = [clipped(kind) for kind in frame["kind"]]
    with styled(0.9 + 0.32 * frame["kind"].nunique()) as axes:
        colours = [PALETTE[n % len(PALETTE)] for n in range(frame["cell"].nunique())]
        seaborn.barplot(frame, x="points", y="kind", hue="cell", ax=axes, palette=colours, errorbar=None, saturation=1)
        if axes.get_legend():
            axes.legend(title=None, loc="best")
        axes.set(xlabel="average mAP gained without them (points)", ylabel="")
        most, kind, where = max(zip(frame["points"], frame["kind"], frame["cell"], strict=True))
        alt = f"Cost of errors by kind: the most is {most:.2f} points for {kind} in {where}."
        caption = f"What each kind of error costs, measured on {outcome.data}."
        return finish(axes, folder, f"{name}-errors", caption, alt, kinds)
