"""Charts of runs: the same data drawn by matplotlib and as bare SVG."""

import math
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from reports import charts
from reports.plots import draw
from reports.sketches import BOTTOM, LEFT, RIGHT, TOP, sketch

SVG = "{http://www.w3.org/2000/svg}"
NAN = math.nan


def chart(*lines: charts.Line, **more: float) -> charts.Chart:
    return charts.Chart("made", "caption", "alt", "x", "y", lines, **more)  # type: ignore[arg-type]


def polylines(found: str) -> list[list[tuple[float, float]]]:
    lines = ElementTree.fromstring(found).iter(f"{SVG}polyline")
    return [[(float(a), float(b)) for a, b in (p.split(",") for p in line.attrib["points"].split())] for line in lines]


def test_a_sketch_spans_its_axes_from_zero_and_leaves_gaps(tmp_path: Path) -> None:
    line = charts.Line("a", [0, 1, 2, 3, 4], [0.0, 10.0, NAN, 5.0, 10.0])
    drawn = sketch(chart(line), tmp_path)
    middle = (TOP + BOTTOM) / 2
    quarter = (RIGHT - LEFT) / 4
    assert polylines((tmp_path / "made.svg").read_text()) == [
        [(LEFT, BOTTOM), (pytest.approx(LEFT + quarter, abs=0.1), TOP)],
        [(pytest.approx(LEFT + 3 * quarter, abs=0.1), middle), (RIGHT, TOP)],
    ]
    assert drawn.kinds == ("svg",)
    assert drawn.svg.startswith("<svg aria-hidden")


def test_a_sketch_cuts_at_its_top(tmp_path: Path) -> None:
    sketch(chart(charts.Line("a", [0, 1], [50.0, 5.0]), top=10.0), tmp_path)
    assert polylines((tmp_path / "made.svg").read_text())[0] == [(LEFT, TOP), (RIGHT, (TOP + BOTTOM) / 2)]


@pytest.mark.parametrize("y", [[1.0], [0.0, 0.0], [NAN, NAN], [NAN, 3.0], [1e9, 1e-9]])
def test_odd_series_are_drawn_by_both(y: list[float], tmp_path: Path) -> None:
    styles = ("line", "strong", "faint", "bound", "points", "area", "level")
    made = chart(*(charts.Line(f"<{style}> & $x", list(range(len(y))), y, style) for style in styles))
    for drawn in (sketch(made, tmp_path / "sketch"), draw(made, tmp_path / "draw")):
        assert "$x" in drawn.svg
    for folder in ("sketch", "draw"):
        ElementTree.parse(tmp_path / folder / "made.svg")


def test_losses_of_one_row_or_without_a_total_are_charts() -> None:
    frame = pd.DataFrame({"iteration": [10.0], "total": [NAN], "stage1": [2.0]})
    made = charts.losses(frame, "one")
    assert "the total is not known" in made.alt
    assert [line.label for line in made.lines if line.label] == ["total", "stage 1"]
