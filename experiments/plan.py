"""Which runs a study needs: one a cell and seed, and one a claimed cell and seed on more videos. No torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ablations.study import Cell, Claim, Study, cell_spec
from etad.record import Record, RecordError, read_record
from etad.spec import Spec
from experiments.keys import run_folder, trained_folder

MADE_UP = "synthetic"  # the data set whose size is ours to choose
VARIANTS = ("no-phases", "no-correlation", "no-cutaways", "no-distractors")
MORE_VIDEOS = 5  # times the preset's test videos, for a claim: 1,000 at the laptop preset
TEST_VIDEOS = 200  # the data set's default
MARGIN, OWN_MARGIN = 1.0, 0.5  # points: elsewhere, and at the paper's size. Source: EVIDENCE, Claims


@dataclass(frozen=True)
class Run:
    """One run of a study: its spec, and where it and what it trains lie."""

    spec: Spec
    folder: Path
    trained: Path
    what: str  # cell and seed, for people

    def record(self) -> Record | None:
        """Its record, be it of a failure; None where it has not ended, or where its record cannot be read."""
        try:
            return read_record(self.folder)
        except RecordError:
            return None


@dataclass(frozen=True)
class Sides:
    """The runs of both sides of a claim, one a seed."""

    claim: Claim
    left: tuple[Run, ...]
    right: tuple[Run, ...]


@dataclass(frozen=True)
class Plan:
    study: Study
    base: Spec
    preset: str
    root: Path  # of the runs
    seeds: int  # of a cell
    claim_seeds: int
    variants: bool = False

    @property
    def margin(self) -> float:
        """Of claims, in points."""
        return OWN_MARGIN if self.preset == "paper" else MARGIN

    def _run(self, cell: Cell, seed: int, more: Mapping[str, Any], note: str = "") -> Run:
        spec = cell_spec(self.base, cell, {**more, "training.seed": seed})
        what = f"{cell.name}, seed {seed}{note}"
        return Run(spec, run_folder(spec, self.root), trained_folder(spec, self.root), what)

    @cached_property
    def cells(self) -> dict[str, tuple[Run, ...]]:
        """Cell -> its runs, one a seed: the same videos and seeds for all."""
        return {c.name: tuple(self._run(c, seed, {}) for seed in range(self.seeds)) for c in self.study.cells}

    @cached_property
    def claims(self) -> tuple[Sides, ...]:
        return tuple(self._sides(claim) for claim in self.study.claims)

    @cached_property
    def variant_claims(self) -> dict[str, tuple[Sides, ...]]:
        """Claim -> the same on each variant of the made-up set, where they are asked for."""
        if not (self.variants and self.base.data.source.name == MADE_UP):
            return {}
        return {claim.name: tuple(self._sides(claim, variant) for variant in VARIANTS) for claim in self.study.claims}

    def _sides(self, claim: Claim, variant: str = "") -> Sides:
        more: dict[str, Any] = {}
        source, note = self.base.data.source, ""
        if source.name == MADE_UP:
            videos = MORE_VIDEOS * source.args.get("test_videos", TEST_VIDEOS)
            more["data.source.args.test_videos"] = videos
            note = f", {videos} videos"
        if variant:
            more["data.source.args.variant"] = variant
            note += f", {variant}"

        def runs(values: Mapping[str, Any]) -> tuple[Run, ...]:
            cell = self.study.find(values)
            return tuple(self._run(cell, seed, more, note) for seed in range(self.claim_seeds))

        return Sides(claim, runs(claim.left), runs(claim.right))

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Every run once, by folder: cells first, seed by seed, so that a study that is stopped says something of all."""
        sides = [*self.claims, *(s for variants in self.variant_claims.values() for s in variants)]
        cells = sorted(
            ((seed, run) for runs in self.cells.values() for seed, run in enumerate(runs)), key=lambda pair: pair[0]
        )
        judged = (run for side in sides for pair in zip(side.left, side.right, strict=True) for run in pair)
        return distinct([*(run for _, run in cells), *judged])


def distinct(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Values that mean the same run are one run."""
    found: dict[Path, Run] = {}
    for run in runs:
        found.setdefault(run.folder, run)
    return tuple(found.values())


def shard(runs: Iterable[Run], index: int, count: int) -> tuple[Run, ...]:
    """The index-th of `count` parts, 1 the first; runs that train the same stay together."""
    runs = tuple(runs)
    places = {trained: n for n, trained in enumerate(dict.fromkeys(run.trained for run in runs))}
    return tuple(run for run in runs if places[run.trained] % count == index - 1)


@dataclass
class State:
    """How far a set of runs is."""

    done: list[Run] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)  # folder -> error
    to_come: list[Run] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # what is wrong with records that cannot be read; these come again


def state_of(runs: Iterable[Run], *, retry_failed: bool = False) -> State:
    state = State()
    for run in runs:
        record = None
        if (run.folder / "record.json").exists():
            try:
                record = read_record(run.folder)
            except RecordError as error:
                state.broken.append(str(error))
        if record is not None and record.status == "done":
            state.done.append(run)
        elif record is not None and not retry_failed:
            state.failed[run.folder] = record.error
        else:
            state.to_come.append(run)
    return state
