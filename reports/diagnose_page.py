"""The page of a diagnosis: which errors a detector makes, what each costs, and which instances it misses.

It takes what `experiments.diagnose --json` prints, so that a page can be made again from a stored result.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from reports import diagnose_plots
from reports.page import named, write_page
from reports.run_tables import pairs
from reports.table import Cell, Column, Table, words

MEANING = {
    "true positive": "takes a ground truth of its class at the threshold",
    "double detection": "overlaps enough, but that ground truth is taken by a better scored one",
    "wrong label": "overlaps a ground truth of another class enough",
    "localisation": "right class, tIoU from 0.1 up to the threshold",
    "confusion": "another class, tIoU from 0.1 up to the threshold",
    "background": "tIoU under 0.1 with everything",
    "missed": "ground truth that no detection takes",
}
TITLES = {
    "coverage": "coverage: share of the video",
    "length_s": "length in seconds",
    "instances": "instances of the class in the video",
}


class Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    ground_truths: int
    missed: float | None


class Diagnosed(BaseModel):
    """What is shown; the fields are etad.diagnose.Diagnosis' and, beside it, whose detections they are."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str  # of the detections
    mark: str  # of the data
    sizes: dict[str, tuple[float, ...]]  # characteristic -> upper ends of all groups but the last
    protocol: dict[str, Any]
    tiou: list[float]
    detections: int
    mAP: list[float]
    shares: dict[str, list[float]]
    ranks: list[dict[str, float]]
    gain: dict[str, list[float]]
    missed: list[float]
    false_negatives: dict[str, dict[str, Group]]
    average_mAP_N: float
    sensitivity: dict[str, dict[str, float | None]]

    def cell(self, value: float | None) -> Cell:
        """A share as percent, measured on these detections."""
        return Cell(None if value is None else 100 * value, "%", "measured", data=self.mark)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def kinds(of: Diagnosed) -> Table:
    rows = []
    for kind, meaning in MEANING.items():
        share = of.missed if kind == "missed" else of.shares[kind]
        gain = mean(of.gain[kind]) if kind in of.gain else None
        rows.append((words(kind), of.cell(mean(share)), of.cell(gain), words(meaning)))
    return Table(
        "errors",
        "Kinds of error, means over the thresholds",
        (
            Column("kind", numeric=False),
            Column("share", "%"),
            Column("mAP gained without it", "%"),
            Column("what it is", numeric=False),
        ),
        tuple(rows),
        notes=(
            f"Shares are of the {of.detections:,} detections diagnosed, the best 10 G of each class with G ground truths; "
            "of missed ones, of the ground truth.",
        ),
    )


def profile(of: Diagnosed) -> Table:
    names = [*of.shares]
    return Table(
        "profile",
        "Detections by rank",
        (Column("rank", numeric=False), *(Column(name, "%") for name in names)),
        tuple(
            (words(f"{n} G" if n == 1 else f"{n - 1} to {n} G"), *(of.cell(rank[name]) for name in names))
            for n, rank in enumerate(of.ranks, 1)
        ),
        notes=("G: the ground truths of a class. A perfect detector has true positives alone up to 1 G.",),
    )


def bounds(ends: Sequence[float]) -> list[str]:
    """`up to 0.2`, `up to 0.4`, ..., `above 0.8`."""
    return [*(f"up to {end:g}" for end in ends), f"above {ends[-1]:g}"]


def by_size(of: Diagnosed, name: str) -> Table:
    groups, ranges = of.false_negatives[name], bounds(of.sizes[name])
    return Table(
        f"sizes-{name}",
        f"By {TITLES[name]}",
        (
            Column("size", numeric=False),
            Column("ground truths"),
            Column("missed", "%"),
            Column("average mAP_N", "%"),
        ),
        tuple(
            (
                words(f"{size}: {ranges[n]}"),
                Cell(float(group.ground_truths), data=of.mark),
                of.cell(group.missed),
                of.cell(of.sensitivity[name][size]),
            )
            for n, (size, group) in enumerate(groups.items())
        ),
    )


def headline(of: Diagnosed) -> list[str | Cell]:
    worst, gain = max(((kind, mean(values)) for kind, values in of.gain.items()), key=lambda pair: pair[1])
    what = {"missed": "ground truth that is missed", "background": "detections of background"}.get(
        worst, f"{worst} errors"
    )
    first: list[str | Cell] = ["The detections reach an average mAP of ", of.cell(mean(of.mAP)), f" on {of.mark}. "]
    more = Cell(100 * gain, evidence="measured", data=of.mark, label=f"{100 * gain:.2f} points")
    return [*first, f"Most is lost by {what}: without, it would be ", more, " higher."]


def render_diagnosis(result: Mapping[str, Any], out: Path) -> list[Path]:
    """index.html and index.md in `out`, with tables/ and figures/ beside them. Returns the written files, the pages first."""
    of = Diagnosed.model_validate(result)
    figures = out / "figures"
    plots = {
        "gain": diagnose_plots.gains({kind: mean(values) for kind, values in of.gain.items()}, figures),
        "profile": diagnose_plots.profile(of.ranks, figures),
        "sensitivity": diagnose_plots.sizes(
            of.sensitivity, figures, "sensitivity", "average mAP_N (%)", overall=of.average_mAP_N
        ),
        "missed": diagnose_plots.sizes(
            {
                name: {size: group.missed for size, group in groups.items()}
                for name, groups in of.false_negatives.items()
            },
            figures,
            "missed",
            "missed (%)",
            overall=mean(of.missed),
        ),
    }
    errors, ranks, protocol = named([kinds(of), profile(of), pairs("protocol", "Protocol", of.protocol)])
    by_sizes = named(by_size(of, name) for name in of.sizes)
    best = of.ranks[0]["true positive"] if of.ranks else None
    values = {
        "title": f"Diagnosis of {of.name}",
        "headline": headline(of),
        "tiles": [
            ("average mAP of those diagnosed", of.cell(mean(of.mAP))),
            ("true positives among the best G", of.cell(best)),
            ("ground truth missed", of.cell(mean(of.missed))),
            ("average mAP_N, all detections", of.cell(of.average_mAP_N)),
        ],
        "plots": plots,
        "tables": {"errors": errors, "profile": ranks, "sizes": by_sizes, "protocol": protocol},
        "tious": ", ".join(f"{t:.2f}" for t in of.tiou),
    }
    written = write_page(out, "diagnose", values, [errors, ranks, *by_sizes, protocol])
    return written + [figures / f"{plot.name}.{kind}" for plot in plots.values() for kind in plot.kinds]
