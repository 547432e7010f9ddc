"""Studies as data: their algebra, and that every cell of every study builds another system."""

import itertools

import pytest
from conftest import ROOT
from pydantic import ValidationError

from ablations.studies import STUDIES
from ablations.study import (
    FromBase,
    Scaled,
    Study,
    StudyError,
    above,
    axis,
    cell_spec,
    chain,
    changed,
    choices,
    chosen,
    grid,
    resolved,
    restricted,
    zip_,
)
from etad import build
from etad.spec import TESTED, Spec, read_spec

SPECS = ROOT / "experiments" / "specs"
WORDS = {"sentence": "s", "source": "t"}
BINS, EXTEND = axis("bins", "roi.bins", (8, 16)), axis("extend", "roi.extend", (0.0, 0.5))


def test_the_algebra_of_axes() -> None:
    assert [c.name for c in grid(BINS, EXTEND)] == [f"bins={b}, extend={e}" for b in (8, 16) for e in (0.0, 0.5)]
    assert [c.name for c in zip_(BINS, EXTEND)] == ["bins=8, extend=0.0", "bins=16, extend=0.5"]
    assert [c.name for c in chain(BINS, EXTEND, BINS)] == ["bins=8", "bins=16", "extend=0.0", "extend=0.5"]
    assert grid(BINS, EXTEND)[1].changes == {"roi.bins": 8, "roi.extend": 0.5}
    with pytest.raises(ValueError, match="shorter"):
        zip_(BINS, axis("extend", "roi.extend", (0.0,)))
    with pytest.raises(StudyError, match="two axes move the same"):
        grid(BINS, axis("again", "roi.bins", (8,)))


def test_a_cell_changes_its_knobs_alone() -> None:
    base = read_spec(SPECS / "laptop.yaml")
    for cell in grid(BINS, EXTEND):
        spec = cell_spec(base, cell)
        assert (spec.roi.bins, spec.roi.extend) == (cell.values["bins"], cell.values["extend"])
        assert spec.model_copy(update={"roi": base.roi}) == base
    assert changed(base, grid(BINS, EXTEND)[0]) == {"roi.bins": 8, "roi.extend": 0.0}
    twice = choices("schedule", {2: {"training.epochs": Scaled(by=2), "training.decay_epochs": Scaled(by=2)}})[0]
    assert cell_spec(base, twice).training.epochs == 2 * base.training.epochs
    assert cell_spec(base, twice).training.decay_epochs == tuple(2 * e for e in base.training.decay_epochs)
    assert cell_spec(base, BINS[0], {"training.seed": 4}).training.seed == 4


def test_values_of_the_base_are_shown_as_they_are() -> None:
    study = Study(name="s", question="q", cells=chain(BINS, choices("bins", {FromBase(knob="roi.bins"): {}})))
    assert [c.name for c in study.cells] == ["bins=8", "bins=16", "bins=default"]
    assert [c.name for c in resolved(study, read_spec(SPECS / "laptop.yaml")).cells] == ["bins=8", "bins=16"]
    assert [c.name for c in resolved(study, Spec()).cells] == ["bins=8", "bins=16", "bins=24"]


def test_a_claim_names_one_cell_a_side() -> None:
    cells = grid(BINS, EXTEND)
    with pytest.raises(ValidationError, match="2 cells have"):
        Study(name="s", question="q", cells=cells, claims=(above("c", {"bins": 8}, than={"bins": 16}, **WORDS),))
    left, right = {"bins": 8, "extend": 0.0}, {"bins": 16, "extend": 0.5}
    study = Study(name="s", question="q", cells=cells, claims=(above("c", left, than=right, **WORDS),))
    assert [study.claimed(cell) for cell in cells] == [True, False, False, True]
    assert restricted(study, ["bins=8"]).claims == ()
    assert [c.name for c in restricted(study, ["bins=8", "extend=0.0", "bins=16"]).cells] == [
        "bins=8, extend=0.0",
        "bins=16, extend=0.0",
    ]


@pytest.mark.parametrize(
    ("only", "words"),
    [
        (["aggregatr=lstm"], "no axis 'aggregatr'; did you mean aggregator?"),
        (["aggregator=ltsm"], "no value 'ltsm'; did you mean lstm"),
        (["aggregator"], "write axis=value"),
    ],
)
def test_nearest_names(only: list[str], words: str) -> None:
    with pytest.raises(StudyError, match=words):
        restricted(STUDIES["temporal_aggregation"], only)


def test_an_unknown_study() -> None:
    with pytest.raises(StudyError, match=r"did you mean .*proposal_count"):
        chosen("proposal", STUDIES)
    assert chosen("roi", STUDIES).name == "roi"


@pytest.mark.parametrize("preset", ["smoke", "laptop", "paper"])
@pytest.mark.parametrize("name", STUDIES)
def test_every_cell_is_a_system_of_its_own(name: str, preset: str) -> None:
    base = read_spec(SPECS / f"{STUDIES[name].presets}{preset}.yaml")
    study = resolved(STUDIES[name], base)
    tested = [cell_spec(base, cell).model_dump(include=set(TESTED), mode="json") for cell in study.cells]
    alike = [
        {a.name, b.name}
        for (a, s), (b, t) in itertools.combinations(zip(study.cells, tested, strict=True), 2)
        if s == t
    ]
    if name == "cascade_depth":
        assert alike == [{"stages=1, thresholds=rising", "stages=1, thresholds=one for all"}]
    elif name == "proposal_count" and preset == "smoke":
        pass  # half of two epochs decays where one does
    else:
        assert alike == []


@pytest.mark.parametrize("name", ["temporal_aggregation", "proposal_sampling"])
def test_every_cell_builds(name: str) -> None:
    base = read_spec(SPECS / "smoke.yaml")
    for cell in STUDIES[name].cells:
        spec = cell_spec(base, cell)
        build.build_detector(spec)
        build.build_sampler(spec)
