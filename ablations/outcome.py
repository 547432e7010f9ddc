"""What a study found: `study.json`, the contract between what runs studies and what reports them. No torch, no I/O.

A study's folder (studies/NAME) holds study.json and nothing else that a report needs but the run folders it names, which
stand in the runs' folder beside it (`runs`, relative to the study's folder).
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from etad.record import Evidence

VERSION = 1
Word = Literal[
    "holds", "does not hold", "undecided", "reproduced", "not reproduced", "not run", "not applicable", "as published"
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Estimate(_Frozen):
    """A figure of a cell, over its runs: a mean with its 95 % interval where several runs or videos give one."""

    name: str  # average_mAP, mAP@0.50, training_time, step_time, peak_memory, parameters, flops, anchors ...
    value: float | None
    unit: str
    evidence: Evidence
    low: float | None = None
    high: float | None = None
    data: str | None = None  # evidence mark of the data; None where it depends on none
    device: str | None = None
    note: str = ""
    runs: tuple[str, ...] = ()  # run folders behind it


class CellOutcome(_Frozen):
    """One combination of the axes' values: its runs, one a seed, and what they gave."""

    name: str  # unique in the study: "ratio=0.06, strategy=grid"
    values: dict[str, Any]  # axis -> value, as shown
    differences: dict[str, Any]  # knob -> value, from the study's base
    seeds: tuple[int, ...]
    runs: tuple[str, ...]  # folder of each seed's run; the same run may serve several cells
    missing: tuple[str, ...] = ()  # folders of runs not finished
    failed: dict[str, str] = {}  # folder -> error, in one line
    estimates: tuple[Estimate, ...] = ()

    def estimate(self, name: str) -> Estimate | None:
        return next((e for e in self.estimates if e.name == name), None)


class Verdict(_Frozen):
    """A claim judged: the criterion as it stood before the runs, the numbers, and the word that follows from them."""

    claim: str  # short name: saturation, cascade ...
    sentence: str  # the paper's, or what is compared
    source: str
    criterion: str  # what is compared, on which metric, with which margin, at which confidence
    word: Word
    data: str  # evidence mark of the data it was judged on
    reason: str  # one sentence: why this word
    metric: str = "average_mAP"
    difference: float | None = None  # points, left minus right
    low: float | None = None
    high: float | None = None
    margin: float | None = None  # points
    confidence: float = 0.95
    power: float | None = None  # stated before the runs
    seeds: int = 0
    videos: int = 0
    looks: int = 1  # repeated looks that the interval was widened for
    runs: tuple[str, ...] = ()
    variants: tuple["Verdict", ...] = ()  # the same claim on variants of a made-up set


class StudyOutcome(_Frozen):
    version: int = VERSION
    name: str
    question: str
    answer: str  # a sentence with its numbers
    preset: str
    data: str  # evidence mark
    base: dict[str, Any]  # the base spec's differences from the defaults
    axes: dict[str, tuple[Any, ...]]  # axis -> values in order; the first one is the curve's horizontal axis
    cells: tuple[CellOutcome, ...]
    verdicts: tuple[Verdict, ...] = ()
    diagnosis: dict[str, dict[str, float]] = {}  # cell -> kind of error -> share of AP lost, in points
    notes: tuple[str, ...] = ()
    runs: str  # the runs' folder, relative to the study's
    command: str  # runs it again
    started: str  # ISO 8601, UTC
    finished: str
    environment: dict[str, str] = {}
