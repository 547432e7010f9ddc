"""Study folders: read whole, named and left out where they are broken or contradict themselves; curves and fronts."""

import json
import shutil
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Annotation

from ablations.outcome import CellOutcome, Estimate, StudyOutcome
from reports.curves import panels
from reports.load import load_run
from reports.plots import styled
from reports.render import render_studies
from reports.studies import Study, load_study
from reports.study_plots import front, thin
from reports.study_tables import main

STUDIES = Path(__file__).parent / "fixtures" / "studies"


def read(name: str) -> Study:
    return load_study(STUDIES / name, load_run)


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], None]], Study]:
    """The whole fixture with its study.json changed, beside its runs."""

    def make(change: Callable[[dict[str, Any]], None]) -> Study:
        shutil.copytree(STUDIES / "runs", tmp_path / "runs")
        tree = json.loads((STUDIES / "whole" / "study.json").read_text())
        change(tree)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "study.json").write_text(json.dumps(tree))
        return load_study(tmp_path / "mine", load_run)

    return make


def test_a_whole_study_is_read_with_its_runs() -> None:
    study = read("whole")
    assert study.problems == ()
    assert study.outcome is not None
    assert len(study.outcome.cells) == 7
    assert len(study.runs) == 15
    assert all(run.record for run in study.runs.values())


@pytest.mark.parametrize(
    ("folder", "problem"),
    [
        ("truncated", "study.json: not a study (Unterminated string"),
        ("other_version", "study.json: version 99, this suite reads 1; run the study again"),
        ("edited", "study.json: not a study (data: Input should be a valid string); run the study again"),
        ("nowhere", "study.json: missing; the study has not finished"),
    ],
)
def test_a_broken_study_is_named(folder: str, problem: str) -> None:
    study = read(folder)
    assert study.outcome is None
    assert len(study.problems) == 1
    assert study.problems[0].startswith(problem)


def test_figures_of_unreadable_runs_are_left_out_and_named() -> None:
    study = read("partly")
    assert study.outcome is not None
    shown = {cell.name: cell.estimate("average_mAP") is not None for cell in study.outcome.cells}
    assert [name for name, there in shown.items() if there] == ["aggregator=lstm"]
    assert list(study.problems) == [
        f"aggregator={n}: average_mAP and 10 more left out: the record of fixture-{n}-0 cannot be read"
        for n in ("none", "gru")
    ]


def test_an_estimate_that_its_runs_contradict_is_left_out(changed: Any) -> None:
    def edit(tree: dict[str, Any]) -> None:
        assert tree["cells"][0]["estimates"][0]["name"] == "average_mAP"
        tree["cells"][0]["estimates"][0]["value"] += 1

    study = changed(edit)
    assert study.outcome is not None
    assert study.outcome.cells[0].estimate("average_mAP") is None
    assert study.outcome.cells[0].estimate("mAP@0.50") is not None
    assert study.problems == (
        "ratio=0.01, sampler=random: average_mAP left out: study.json says 34.2, the records of its runs 33.2",
    )


def test_an_estimate_of_other_data_is_left_out(changed: Any) -> None:
    study = changed(lambda tree: tree["cells"][1]["estimates"][0].update(data="anet"))
    assert study.outcome is not None
    assert study.outcome.cells[1].estimate("average_mAP") is None
    assert "stated on anet, the study on synthetic-1" in study.problems[0]


def test_a_verdict_without_numbers_or_on_unreadable_runs_is_left_out(changed: Any) -> None:
    def edit(tree: dict[str, Any]) -> None:
        tree["verdicts"][0]["low"] = None
        tree["verdicts"][1]["runs"] = ["fixture-gru-0"]
        tree["cells"][0]["runs"].append("fixture-gru-0")

    study = changed(edit)
    assert study.outcome is not None
    assert study.outcome.verdicts == ()
    assert study.problems == (
        "claim saturation: left out, for it says 'holds' without its numbers",
        "claim saturation, low end: left out, for the record of fixture-gru-0 cannot be read",
    )


def test_runs_outside_the_runs_folder_are_refused_and_absent_ones_counted(changed: Any) -> None:
    def edit(tree: dict[str, Any]) -> None:
        tree["cells"][0]["runs"] += ["../mine", "..", "gone"]

    study = changed(edit)
    assert study.problems == (
        "run ../mine: not the name of a folder",
        "run ..: not the name of a folder",
        "1 of 18 runs are not here, and so have no page",
    )


def test_a_claim_that_compares_no_points_stands_by_the_number_in_its_reason(changed: Any) -> None:
    def edit(tree: dict[str, Any]) -> None:
        bare = {"difference": None, "low": None, "high": None, "word": "reproduced"}
        tree["verdicts"][0].update(bare, reason="27.1 % of full backpropagation's peak")
        tree["verdicts"][1].update(bare, reason="less")

    study = changed(edit)
    assert study.outcome is not None
    assert [v.claim for v in study.outcome.verdicts] == ["saturation"]


def test_an_axis_with_one_value_becomes_a_note(changed: Any) -> None:
    def edit(tree: dict[str, Any]) -> None:
        tree["axes"]["sampler"] = ["random"]
        tree["cells"] = tree["cells"][:4]

    study = changed(edit)
    assert study.outcome is not None
    assert list(study.outcome.axes) == ["ratio"]
    assert [cell.values for cell in study.outcome.cells] == [{"ratio": r} for r in (0.01, 0.06, 0.2, 1.0)]
    assert study.outcome.notes[-1] == "sampler is random in every cell."
    assert shape(study.outcome) == [("ratio", {"": [0.01, 0.06, 0.2, 1.0]})]


def test_a_study_without_runs_shows_what_its_claim_compares(changed: Any, tmp_path: Path) -> None:
    def edit(tree: dict[str, Any]) -> None:
        for cell in tree["cells"]:
            cell.update(runs=[], seeds=[], estimates=[e for e in cell["estimates"] if e["name"] == "peak_memory"])
        tree["verdicts"][0].update(metric="peak_memory", runs=[], variants=[])
        tree.update(verdicts=tree["verdicts"][:1], diagnosis={}, data="paper size")

    study = changed(edit)
    assert study.outcome is not None
    page = next(p for p in render_studies([study.folder], tmp_path / "out") if p.parent.name == "mine").read_text()
    assert [column.title for column in main(study.outcome, {}).columns] == ["ratio", "sampler", "peak memory"]
    assert "Peak memory by ratio, traced on paper size." in page
    assert "holds on synthetic-1" in page


points = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12)


@given(points)
def test_the_front_holds_what_no_other_point_beats(given: list[tuple[float, float]]) -> None:
    def beaten(one: tuple[float, float]) -> bool:
        return any(o != one and o[0] <= one[0] and o[1] >= one[1] for o in given)

    found = front(given)
    assert {given[i] for i in found} == {one for one in given if not beaten(one)}
    assert len({given[i] for i in found}) == len(found)


def test_no_label_lies_on_another() -> None:
    """Of five cells at nearly one place the best keeps its label, and those far enough away."""
    with styled() as axes:
        axes.plot([0, 10], [0, 10])
        places = [(1.0, 5.0), (1.1, 5.1), (1.2, 5.05), (8.0, 5.0), (8.0, 1.0)]
        thin([axes.annotate("0.01", place, (5, 5), textcoords="offset points") for place in places])
        assert {text.xy for text in axes.texts if isinstance(text, Annotation)} == {places[1], *places[3:]}
        boxes = [text.get_window_extent() for text in axes.texts]
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    thin([])


def outcome(axes: dict[str, tuple[Any, ...]], *values: dict[str, Any]) -> StudyOutcome:
    tree = json.loads((STUDIES / "whole" / "study.json").read_text())
    whole = StudyOutcome.model_validate_json(json.dumps(tree))
    mAP = Estimate(name="average_mAP", value=1.0, unit="%", evidence="measured")
    cells = tuple(
        CellOutcome(name=str(v), values=v, differences={}, seeds=(), runs=(), estimates=(mAP,)) for v in values
    )
    return whole.model_copy(update={"axes": axes, "cells": cells})


def shape(found: StudyOutcome) -> list[tuple[str, dict[str, list[Any]]]]:
    return [(p.axis, {k: [c.values[p.axis] for c in cells] for k, cells in p.groups.items()}) for p in panels(found)]


def test_a_grid_is_one_panel_with_a_line_for_each_other_value() -> None:
    cells = [{"ratio": r, "sampler": s} for s in ("random", "grid") for r in (0.2, 0.1)]
    made = outcome({"ratio": (0.1, 0.2), "sampler": ("random", "grid")}, *cells)
    assert shape(made) == [("ratio", {"random": [0.1, 0.2], "grid": [0.1, 0.2]})]


def test_a_cross_of_two_axes_is_a_panel_each() -> None:
    cells = [{"bins": b, "extend": 0.5} for b in (8, 16, 24)] + [{"bins": 24, "extend": e} for e in (0.0, 1.0)]
    made = outcome({"bins": (8, 16, 24), "extend": (0.0, 0.5, 1.0)}, *cells)
    assert shape(made) == [
        ("bins", {"0.5": [8, 16, 24]}),
        ("extend", {"24": [0.0, 0.5, 1.0]}),
    ]


def test_a_grid_of_too_many_lines_is_drawn_at_the_last_axes_first_value() -> None:
    axes: dict[str, tuple[Any, ...]] = {"a": (1, 2), "b": tuple(range(5)), "c": ("x", "y")}
    cells = [{"a": a, "b": b, "c": c} for a in axes["a"] for b in axes["b"] for c in axes["c"]]
    (panel,) = panels(outcome(axes, *cells))
    assert (panel.axis, panel.held, list(panel.groups)) == ("a", "c x", ["0", "1", "2", "3", "4"])
    assert {cell.values["c"] for group in panel.groups.values() for cell in group} == {"x"}


def test_a_cell_apart_stands_alone_in_the_first_panel() -> None:
    cells = [{"ratio": 0.1, "sampler": "random"}, {"ratio": 0.2, "sampler": "random"}, {"ratio": 1.0}]
    made = outcome({"ratio": (0.1, 0.2, 1.0), "sampler": ("random",)}, *cells)
    assert shape(made) == [("ratio", {"random": [0.1, 0.2], "alone": [1.0]})]
