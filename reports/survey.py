"""A picture of a data set: how long its videos and instances are, and of which classes."""

from pathlib import Path

import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from reports.plots import BLUE, PALETTE, Plot, finish, styled

CLASSES = 15  # shown, those with the most instances


def draw_survey(videos: pd.DataFrame, instances: pd.DataFrame, folder: Path) -> Plot:
    """survey.svg and survey.png in `folder`.

    A row of `videos` has duration_s, count (of instances) and subset; one of `instances` length_s, share (of its video),
    label and subset.
    """
    with styled(height=5.6, width=9.2) as axes:
        whole = axes.figure
        assert isinstance(whole, Figure)
        axes.remove()
        (first, second), (third, fourth) = whole.subplots(2, 2)
        _histogram(videos, "duration_s", first, "videos by duration (s)")
        _histogram(instances, "length_s", second, "instances by length (s)")
        _histogram(instances, "share", third, "instances by share of their video")
        common = instances["label"].value_counts().index[:CLASSES].tolist()
        some = instances[instances["label"].isin(common)]
        seaborn.boxplot(
            some, x="length_s", y="label", order=common, color=BLUE, ax=fourth, fliersize=1.5, linewidth=0.7, width=0.6
        )
        fourth.set(xlabel="instances by class: length (s)", ylabel="")
        _logarithmic(fourth)
        fourth.set_yticks(range(len(common)), [_short(name) for name in common])
        caption = f"{len(videos):,} videos and {len(instances):,} instances of {instances['label'].nunique()} classes."
        alt = (
            f"Median video {videos['duration_s'].median():.3g} s, median instance {instances['length_s'].median():.3g} s, "
            f"{instances['share'].median():.1%} of its video."
        )
        return finish(first, folder, "survey", caption, alt)


def _histogram(frame: pd.DataFrame, column: str, axes: Axes, title: str) -> None:
    subsets, spread = frame["subset"].unique().tolist(), frame[column].nunique() > 1
    colours = dict(zip(subsets, PALETTE, strict=False))
    seaborn.histplot(
        frame, x=column, hue="subset", palette=colours, element="step", bins=30, log_scale=spread, ax=axes, alpha=0.3
    )
    axes.set(xlabel=title, ylabel="")
    if spread:
        _logarithmic(axes)
    if legend := axes.get_legend():
        legend.set_title("")


def _logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _short(name: str) -> str:
    """A label as matplotlib writes it: short, and a dollar sign is no mathematics."""
    return (name if len(name) < 24 else f"{name[:22]}…").replace("$", r"\$")
