"""Bars of a diagnosis: what each kind of error costs, detections by rank, and quality by the size of instances."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from reports.plots import BLUE, GREEN, INK, ORANGE, RED, VIOLET, Plot, finish, styled

COLOURS = {
    "true positive": GREEN,
    "double detection": "#c9b458",
    "wrong label": VIOLET,
    "localisation": ORANGE,
    "confusion": RED,
    "background": "#9aa0a6",
    "missed": BLUE,
}


def gains(gain: Mapping[str, float], folder: Path) -> Plot:
    """mAP gained without each kind of error, in points."""
    with styled(height=2.4) as axes:
        names, values = [*gain], [100 * value for value in gain.values()]
        bars = axes.barh(names, values, color=[COLOURS[name] for name in names], height=0.65)
        axes.bar_label(bars, fmt="%.1f", padding=3, color=INK, fontsize=8)
        axes.invert_yaxis()
        axes.set(xlabel="average mAP gained without it (points)", xlim=(0, max([*values, 1e-6]) * 1.15))
        axes.grid(visible=False, axis="y")
        alt = "; ".join(f"{name} {value:.1f}" for name, value in zip(names, values, strict=True))
        return finish(axes, folder, "gains", "What each kind of error costs.", f"mAP gained without: {alt}.")


def profile(ranks: Sequence[Mapping[str, float]], folder: Path) -> Plot:
    """Shares of the kinds among the best G detections of each class, the next G, and so on."""
    with styled(height=2.8) as axes:
        places, bottom = np.arange(1, len(ranks) + 1), np.zeros(len(ranks))
        for kind in ranks[0] if ranks else ():
            height = np.array([100 * rank[kind] for rank in ranks])
            axes.bar(places, height, bottom=bottom, color=COLOURS[kind], width=0.8, label=kind)
            bottom += height
        axes.set(xlabel="detections by rank, in G (ground truths of the class)", ylabel="share (%)", ylim=(0, 100))
        axes.set_xticks(places, [f"{n} G" for n in places])
        axes.grid(visible=False)
        if ranks:
            axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=7.5)
        best = 100 * ranks[0]["true positive"] if ranks else 0.0
        return finish(
            axes, folder, "profile", "Kinds of detections by rank.", f"Of the best G, {best:.1f} % are true positives."
        )


def sizes(
    groups: Mapping[str, Mapping[str, float | None]], folder: Path, name: str, label: str, *, overall: float
) -> Plot:
    """Bars by the size of instances, a block for each characteristic; a dashed line for all of them."""
    with styled(height=2.6, width=6.4) as axes:
        places, ticks, place = [], [], 0
        for (what, of), colour in zip(groups.items(), (BLUE, ORANGE, GREEN), strict=False):
            first = place
            for size, value in of.items():
                if value is not None:
                    bars = axes.bar([place], [100 * value], color=colour, width=0.75)
                    axes.bar_label(bars, fmt="%.0f", padding=2, color=INK, fontsize=7.5)
                places.append(place)
                ticks.append(size)
                place += 1
            middle = (first + place - 1) / 2
            axes.text(
                middle, 1.0, what.replace("_s", " (s)"), transform=axes.get_xaxis_transform(), ha="center", color=colour
            )
            place += 1
        axes.axhline(100 * overall, color=INK, linewidth=0.8, linestyle="--")
        axes.set(ylabel=label, ylim=(0, 108))
        axes.set_xticks(places, ticks)
        axes.grid(visible=False, axis="x")
        alt = "; ".join(
            f"{what}: " + ", ".join(f"{size} {100 * v:.0f}" for size, v in of.items() if v is not None)
            for what, of in groups.items()
        )
        caption = f"{label[0].upper()}{label[1:]} by the size of instances; dashed: all of them, {100 * overall:.1f}."
        return finish(axes, folder, name, caption, f"{label}: {alt}.")
