"""The curves of a study: mAP over each axis with the others held, its intervals, and where it saturates."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, NullLocator

from ablations.outcome import CellOutcome, StudyOutcome
from reports.page import slug
from reports.plots import INK, KINDS, PALETTE, Plot, clipped, finish, styled
from reports.run_tables import plain
from reports.study_tables import numeric, ranked
from reports.table import format_value

LOG_FROM = 8.0  # an axis whose values span this factor is drawn in logarithms


@dataclass(frozen=True)
class Panel:
    """One axis of a study with the others held: groups of cells, each a line over the axis."""

    axis: str
    numeric: bool
    groups: dict[str, list[CellOutcome]]  # the other axes' values, as shown -> cells in the axis' order

    def frame(self) -> pd.DataFrame:
        """Columns x, y, low, high, group; low and high may be missing."""
        rows = []
        for group, cells in self.groups.items():
            for cell in cells:
                found = cell.estimate("average_mAP")
                assert found is not None
                value = cell.values.get(self.axis)
                rows.append((value if self.numeric else plain(value), found.value, found.low, found.high, group))
        columns = ["x", "y", "low", "high", "group"]
        return pd.DataFrame(rows, columns=columns).astype({"y": float, "low": float, "high": float})


def rest(outcome: StudyOutcome, axis: str, cell: CellOutcome) -> str:
    """A cell's values on the other axes, as shown."""
    found = [(name, cell.values[name]) for name in outcome.axes if name != axis and cell.values.get(name) is not None]
    return ", ".join(f"{name} {plain(value)}" for name, value in found)


def _grouped(outcome: StudyOutcome, axis: str, cells: Sequence[CellOutcome]) -> dict[str, list[CellOutcome]]:
    order = list(outcome.axes[axis])
    groups: dict[str, list[CellOutcome]] = {}
    for cell in cells:
        groups.setdefault(rest(outcome, axis, cell), []).append(cell)
    for found in groups.values():
        found.sort(key=lambda c: order.index(c.values[axis]) if c.values.get(axis) in order else len(order))
    return groups


def panels(outcome: StudyOutcome) -> list[Panel]:
    """A panel for the first axis, and one for each other that shows cells which no panel before has as a line."""
    cells = [cell for cell in outcome.cells if cell in ranked(outcome)]
    out: list[Panel] = []
    seen: list[CellOutcome] = []
    for axis, values in outcome.axes.items():
        lines = {key: group for key, group in _grouped(outcome, axis, cells).items() if len(group) > 1}
        if any(cell not in seen for group in lines.values() for cell in group):
            out.append(Panel(axis, numeric(values), lines))
            seen += [cell for group in lines.values() for cell in group]
    alone = [cell for cell in cells if cell not in seen]
    if out and alone:
        for key, group in _grouped(outcome, out[0].axis, [c for c in alone if out[0].axis in c.values]).items():
            out[0].groups.setdefault(key or "alone", []).extend(group)
    return out


def spans(values: pd.Series) -> bool:
    """Whether an axis of these values is better drawn in logarithms."""
    return bool(values.min() > 0 and values.max() / values.min() >= LOG_FROM)


def _realised(panel: Panel) -> dict[object, str]:
    """Realised proposals of each value of the axis, where they differ along it."""
    counts: dict[object, str] = {}
    for cell in (cell for group in panel.groups.values() for cell in group):
        if (found := cell.estimate("anchors")) and found.value is not None:
            counts.setdefault(cell.values.get(panel.axis), format_value(found.value))
    return counts if len(set(counts.values())) > 1 else {}


def _line_curve(axes: Axes, panel: Panel, frame: pd.DataFrame) -> None:
    import seaborn  # takes half a second: only where a curve is drawn

    many = len(panel.groups) > 1
    colours = {group: PALETTE[n % len(PALETTE)] for n, group in enumerate(panel.groups)}
    kind = {"hue": "group", "style": "group", "dashes": False, "palette": colours, "markeredgewidth": 0}
    seaborn.lineplot(frame, x="x", y="y", ax=axes, errorbar=None, markers=True, **kind, legend=many)
    for group, part in frame.groupby("group", sort=False):
        colour = colours[str(group)]
        axes.fill_between(part["x"], part["low"], part["high"], color=colour, alpha=0.13, linewidth=0)
        axes.errorbar(part["x"], part["y"], arms(part), color=colour, fmt="none", elinewidth=0.8, capsize=2)
    if many:
        axes.legend(title=None)
    ticks, counts = sorted(frame["x"].unique()), _realised(panel)
    if spans(frame["x"]):
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(ticks, [f"{t:g}" + (f"\n{counts[t]}" if t in counts else "") for t in ticks])
    axes.set(xlabel=clipped(panel.axis) + (", realised proposals below" if counts else ""), ylabel="average mAP (%)")


def arms(part: pd.DataFrame) -> list[list[float]]:
    """Lengths of the error bars, 0 where there is no interval."""
    return [
        (part["y"] - part["low"]).clip(lower=0).fillna(0).tolist(),
        (part["high"] - part["y"]).clip(lower=0).fillna(0).tolist(),
    ]


def _dot_curve(axes: Axes, panel: Panel, frame: pd.DataFrame) -> None:
    """Values that are no numbers: one line of text each, the mAP to the right of it."""
    names = list(dict.fromkeys(frame["x"]))
    for n, (group, part) in enumerate(frame.groupby("group", sort=False)):
        shift = 0.18 * (n - (len(panel.groups) - 1) / 2)
        places = [names.index(x) + shift for x in part["x"]]
        label = clipped(group) if len(panel.groups) > 1 else None
        colour = PALETTE[n % len(PALETTE)]
        axes.errorbar(
            part["y"], places, xerr=arms(part), color=colour, fmt="o", elinewidth=1.2, capsize=2.5, label=label
        )
    axes.set_yticks(range(len(names)), [clipped(name) for name in names])
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel="average mAP (%)", ylabel=clipped(panel.axis))
    if len(panel.groups) > 1:
        axes.legend()


def _saturation(outcome: StudyOutcome, panel: Panel, frame: pd.DataFrame, axes: Axes) -> str:
    """Shades what lies within the claimed margin of the last value, and says from where on the first line stays there."""
    margin = next((v.margin for v in outcome.verdicts if v.claim == "saturation" and v.margin is not None), None)
    group = next(iter(panel.groups))
    line = frame[frame["group"] == group].sort_values("x")
    if margin is None or not panel.numeric or len(line) < 3:
        return ""
    last = line.iloc[-1]
    bound = last["y"] - margin
    axes.axhspan(bound, last["y"], color=INK, alpha=0.12, linewidth=0)

    def first(column: str) -> str:
        inside = line[line[column].fillna(line["y"]) >= bound]
        return f"{inside['x'].iloc[0]:g}" if len(inside) else "none"

    by = (
        f"; by the ends of the intervals from {first('high')} and from {first('low')}"
        if line["low"].notna().any()
        else ""
    )
    of = f" ({group})" if len(panel.groups) > 1 else ""
    return f" Shaded: within {margin:.2f} points of {panel.axis} {last['x']:g}{of}, reached from {first('y')} on{by}."


def curve(outcome: StudyOutcome, panel: Panel, folder: Path, name: str, kinds: Sequence[str] = KINDS) -> Plot:
    """Average mAP over one axis with its intervals."""
    frame = panel.frame()
    height = 2.9 if panel.numeric else 0.9 + 0.34 * frame["x"].nunique()
    with styled(height) as axes:
        (_line_curve if panel.numeric else _dot_curve)(axes, panel, frame)
        shade = _saturation(outcome, panel, frame, axes)
        best = frame.sort_values("y", kind="stable").iloc[-1]
        has = frame["low"].notna().any()
        caption = (
            f"Average mAP by {panel.axis}, measured on {outcome.data}{', with 95 % intervals' if has else ''}.{shade}"
        )
        where = f"{best['group']}, " if len(panel.groups) > 1 else ""
        alt = f"Average mAP by {panel.axis}: {len(frame)} cells, highest {best['y']:.2f} % at {where}{best['x']}."
        return finish(axes, folder, f"{name}-curve-{slug(panel.axis)}", caption, alt, kinds)
