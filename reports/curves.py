"""The curves of a study: mAP over each axis with the others held, its intervals, and where it saturates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from ablations.outcome import CellOutcome, StudyOutcome
from reports.page import slug
from reports.plots import INK, KINDS, PALETTE, Plot, clipped, finish, styled
from reports.run_tables import plain
from reports.study_tables import column, measure, numeric
from reports.table import format_value

BANDS = 2  # groups whose intervals are shaded; more would hide each other
INSIDE = 3  # groups whose legend stands inside the axes
MOST = 8  # groups of a panel
LOG_FROM = 8.0  # an axis whose values span this factor is drawn in logarithms


@dataclass(frozen=True)
class Panel:
    """One axis of a study with the others held: groups of cells, each a line over the axis."""

    measure: str  # the estimate that it shows
    axis: str
    numeric: bool
    by: str  # names of the other axes
    groups: dict[str, list[CellOutcome]]  # the other axes' values, as shown -> cells in the axis' order
    held: str = ""  # axes held at one value

    def frame(self) -> pd.DataFrame:
        """Columns x, y, low, high, group; low and high may be missing."""
        rows = []
        for group, cells in self.groups.items():
            for cell in cells:
                found = cell.estimate(self.measure)
                assert found is not None
                value = cell.values.get(self.axis)
                rows.append((value if self.numeric else plain(value), found.value, found.low, found.high, group))
        columns = ["x", "y", "low", "high", "group"]
        return pd.DataFrame(rows, columns=columns).astype({"y": float, "low": float, "high": float})


def rest(outcome: StudyOutcome, axis: str, cell: CellOutcome) -> str:
    """A cell's values on the other axes, as shown; their names stand in `others`."""
    return ", ".join(plain(cell.values[name]) for name in others(outcome, axis) if cell.values.get(name) is not None)


def others(outcome: StudyOutcome, axis: str) -> list[str]:
    return [name for name in outcome.axes if name != axis]


def _grouped(outcome: StudyOutcome, axis: str, cells: Sequence[CellOutcome]) -> dict[str, list[CellOutcome]]:
    values = outcome.axes[axis]
    order = sorted(values) if numeric(values) else list(values)
    groups: dict[str, list[CellOutcome]] = {}
    for cell in cells:
        groups.setdefault(rest(outcome, axis, cell), []).append(cell)
    for found in groups.values():
        found.sort(key=lambda c: order.index(c.values[axis]) if c.values.get(axis) in order else len(order))
    return groups


def panels(outcome: StudyOutcome) -> list[Panel]:
    """A panel for the first axis, and one for each other that shows cells which no panel before has as a line.

    Where a panel would have more than MOST lines, the last axes are held at their first values.
    """
    shown = measure(outcome)
    cells = [cell for cell in outcome.cells if (e := cell.estimate(shown)) and e.value is not None]
    axes, held = list(outcome.axes), dict[str, Any]()
    while True:
        out = _panels(outcome.model_copy(update={"axes": {a: outcome.axes[a] for a in axes}}), shown, cells)
        if len(axes) <= 2 or all(len(panel.groups) <= MOST for panel in out):
            said = ", ".join(f"{name} {plain(value)}" for name, value in held.items())
            return [replace(panel, held=said) for panel in out]
        last = axes.pop()
        held[last] = outcome.axes[last][0]
        cells = [cell for cell in cells if cell.values.get(last) == held[last]]


def _panels(outcome: StudyOutcome, shown: str, cells: Sequence[CellOutcome]) -> list[Panel]:
    out: list[Panel] = []
    seen: list[CellOutcome] = []
    for axis, values in outcome.axes.items():
        lines = {key: group for key, group in _grouped(outcome, axis, cells).items() if len(group) > 1}
        if any(cell not in seen for group in lines.values() for cell in group):
            out.append(Panel(shown, axis, numeric(values), ", ".join(others(outcome, axis)), lines))
            seen += [cell for group in lines.values() for cell in group]
    alone = [cell for cell in cells if cell not in seen]
    if out and alone:
        for key, group in _grouped(outcome, out[0].axis, [c for c in alone if out[0].axis in c.values]).items():
            out[0].groups.setdefault(key or "alone", []).extend(group)
    return out


_SCALES = {  # unit -> from which value on, size, name
    "s": ((7200.0, 3600.0, "h"), (120.0, 60.0, "min"), (1.0, 1.0, "s"), (0.0, 1e-3, "ms")),
    "B": ((0.01 * 1024**3, 1024.0**3, "GiB"), (0.01 * 1024**2, 1024.0**2, "MiB"), (0.0, 1.0, "B")),
}


def scale(unit: str, top: float) -> tuple[float, str]:
    """Size and name of the unit of an axis that goes up to `top`."""
    return next(((size, name) for least, size, name in _SCALES.get(unit, ()) if top >= least), (1.0, unit))


def spans(values: pd.Series) -> bool:
    """Whether an axis of these values is better drawn in logarithms."""
    return bool(values.min() > 0 and values.max() / values.min() >= LOG_FROM)


def _realised(panel: Panel) -> dict[object, str]:
    """Realised proposals of each value of the axis, where they differ along it and between no groups."""
    counts: dict[object, set[str]] = {}
    for cell in (cell for group in panel.groups.values() for cell in group):
        if (found := cell.estimate("anchors")) and found.value is not None:
            counts.setdefault(cell.values.get(panel.axis), set()).add(format_value(found.value))
    clear = all(len(found) == 1 for found in counts.values()) and len(set().union(*counts.values())) > 1
    return {x: min(found) for x, found in counts.items()} if clear else {}


def _line_curve(axes: Axes, panel: Panel, frame: pd.DataFrame, label: str) -> None:
    import seaborn  # takes half a second: only where a curve is drawn

    many = len(panel.groups) > 1
    colours = {group: PALETTE[n % len(PALETTE)] for n, group in enumerate(panel.groups)}
    kind = {"hue": "group", "style": "group", "dashes": False, "palette": colours, "markeredgewidth": 0}
    ticks, counts = sorted(frame["x"].unique()), _realised(panel)
    frame = frame.assign(x=_apart(frame, list(panel.groups)))
    seaborn.lineplot(frame, x="x", y="y", ax=axes, errorbar=None, markers=True, **kind, legend=many)
    for group, part in frame.groupby("group", sort=False):
        colour = colours[str(group)]
        if len(panel.groups) <= BANDS:
            axes.fill_between(part["x"], part["low"], part["high"], color=colour, alpha=0.13, linewidth=0)
        axes.errorbar(part["x"], part["y"], arms(part), color=colour, fmt="none", elinewidth=0.8, capsize=2)
    if many:
        legend_of(axes, *axes.get_legend_handles_labels(), panel.by)
    if spans(frame["x"]):
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(ticks, [f"{t:g}" + (f"\n{counts[t]}" if t in counts else "") for t in ticks])
    axes.set(xlabel=clipped(panel.axis) + (", realised proposals below" if counts else ""), ylabel=label)


def _apart(frame: pd.DataFrame, groups: Sequence[str]) -> pd.Series:
    """x with the groups a little beside each other, so that none hides another's interval."""
    x, shift = frame["x"], frame["group"].map(groups.index) - (len(groups) - 1) / 2
    return x * 1.03**shift if spans(x) else x + 0.012 * shift * (x.max() - x.min())


def legend_of(axes: Axes, handles: Sequence[Any], labels: Sequence[str], title: str) -> None:
    """A legend inside where it is short, else below a figure that grows by it."""
    names, figure = [clipped(label) for label in labels], axes.figure
    assert isinstance(figure, Figure)
    if drawn := axes.get_legend():
        drawn.remove()
    if len(names) <= INSIDE:
        axes.legend(handles, names, title=clipped(title), loc="best", alignment="left")
    else:
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height + 0.25 + 0.17 * math.ceil(len(names) / 3))
        figure.legend(handles, names, title=clipped(title), loc="outside lower center", ncols=3)


def arms(part: pd.DataFrame) -> list[list[float]]:
    """Lengths of the error bars, 0 where there is no interval."""
    return [
        (part["y"] - part["low"]).clip(lower=0).fillna(0).tolist(),
        (part["high"] - part["y"]).clip(lower=0).fillna(0).tolist(),
    ]


def _dot_curve(axes: Axes, panel: Panel, frame: pd.DataFrame, label: str) -> None:
    """Values that are no numbers: one line of text each, the measure to the right of it."""
    names = list(dict.fromkeys(frame["x"]))
    for n, (group, part) in enumerate(frame.groupby("group", sort=False)):
        shift = min(0.18, 0.8 / len(panel.groups)) * (n - (len(panel.groups) - 1) / 2)
        places = [names.index(x) + shift for x in part["x"]]
        name = clipped(group) if len(panel.groups) > 1 else None
        colour = PALETTE[n % len(PALETTE)]
        axes.errorbar(
            part["y"], places, xerr=arms(part), color=colour, fmt="o", elinewidth=1.2, capsize=2.5, label=name
        )
    axes.set_yticks(range(len(names)), [clipped(name) for name in names])
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel=label, ylabel=clipped(panel.axis))
    if len(panel.groups) > 1:
        legend_of(axes, *axes.get_legend_handles_labels(), panel.by)


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

    def kept(column: str) -> str:
        """From which value on the column stays inside."""
        inside = (line[column].fillna(line["y"]) >= bound)[::-1].cummin()
        return f"from {line['x'][inside[inside].index[-1]]:g} on" if inside.any() else "nowhere"

    known = line["low"].notna().any()
    ends = f"; upper ends of the intervals {kept('high')}, lower ends {kept('low')}" if known else ""
    of = f" ({panel.by} {group})" if len(panel.groups) > 1 else ""
    where = f"{panel.axis} {last['x']:g}{of}"
    return f" Shaded: within {margin:.2f} points of {where}, which the mean keeps to {kept('y')}{ends}."


def curve(outcome: StudyOutcome, panel: Panel, folder: Path, name: str, kinds: Sequence[str] = KINDS) -> Plot:
    """Average mAP, or what the study measures instead, over one axis with its intervals."""
    frame = panel.frame()
    found = next(e for cell in outcome.cells if (e := cell.estimate(panel.measure)) and e.value is not None)
    what = column(outcome, panel.measure).title
    size, unit = scale(found.unit, frame["y"].max())
    frame[["y", "low", "high"]] /= size
    height = 2.9 if panel.numeric else 0.9 + 0.34 * frame["x"].nunique()
    with styled(height) as axes:
        (_line_curve if panel.numeric else _dot_curve)(axes, panel, frame, f"{what} ({unit})" if unit else what)
        shade = _saturation(outcome, panel, frame, axes) if panel.measure == "average_mAP" else ""
        best = frame.sort_values("y", kind="stable").iloc[-1]
        has = frame["low"].notna().any()
        caption = (
            f"{what[:1].upper()}{what[1:]} by {panel.axis}{f' at {panel.held}' if panel.held else ''}, "
            f"{found.evidence} on {outcome.data}"
            f"{', with 95 % intervals' if has else ''}.{shade}"
        )
        where = f"{panel.by} {best['group']}, " if len(panel.groups) > 1 else ""
        alt = f"{what} by {panel.axis}: {len(frame)} cells, highest {best['y']:.2f} {unit} at {where}{best['x']}."
        return finish(axes, folder, f"{name}-curve-{slug(panel.axis)}", caption, alt, kinds)
