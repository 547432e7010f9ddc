"""Study folders as far as they can be believed: what contradicts itself or cannot be read is named and left out."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ablations.outcome import VERSION, CellOutcome, Estimate, StudyOutcome, Verdict
from reports.load import Run

FILE = "study.json"
JUDGED = ("holds", "does not hold", "undecided", "reproduced", "not reproduced")
TOLERANCE = 0.005  # relative, between an estimate and the mean of its runs' own figures


@dataclass(frozen=True)
class Study:
    """A study's folder; `problems` names what was left out. No outcome: nothing of it could be read."""

    folder: Path
    outcome: StudyOutcome | None = None
    runs: dict[str, Run] = field(default_factory=dict)  # folder's name -> those of its runs that are there
    problems: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its folder's: one study may stand there at several presets or on several sets."""
        return self.folder.name


def made_up(mark: str | None) -> bool:
    """Whether an evidence mark names made-up data."""
    return "synthetic" in (mark or "")


def _read(path: Path) -> StudyOutcome | str:
    """The outcome, or what is wrong with the file."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(tree, dict) and tree.get("version") != VERSION:
            return f"{FILE}: version {tree.get('version')}, this suite reads {VERSION}; run the study again"
        return StudyOutcome.model_validate_json(json.dumps(tree))
    except FileNotFoundError:
        return f"{FILE}: missing; the study has not finished"
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (OSError, ValueError, RecursionError) as error:
        what = str(error).splitlines()[0]
    return f"{FILE}: not a study ({what}); run the study again"


def _runs(outcome: StudyOutcome, folder: Path, load: Callable[[Path], Run], problems: list[str]) -> dict[str, Run]:
    """Those of the study's runs that have a folder, by name."""
    judged = [v for verdict in outcome.verdicts for v in (verdict, *verdict.variants)]
    of_cells = [name for cell in outcome.cells for name in (*cell.runs, *cell.failed)]
    names = dict.fromkeys([*of_cells, *(name for verdict in judged for name in verdict.runs)])
    unfinished = {name for cell in outcome.cells for name in (*cell.missing, *cell.failed)}
    found: dict[str, Run] = {}
    absent = 0
    for name in names:
        if Path(name).name != name or name in (".", ".."):
            problems.append(f"run {name}: not the name of a folder")
        elif (path := folder / outcome.runs / name).is_dir():
            found[name] = load(path)
        else:
            absent += name not in unfinished
    if absent:
        problems.append(f"{absent} of {len(names)} runs are not here, and so have no page")
    return found


def _doubt(estimate: Estimate, outcome: StudyOutcome, runs: dict[str, Run]) -> str:
    """Why an estimate cannot be shown; empty where it can."""
    if estimate.data not in (None, outcome.data):
        return f"stated on {estimate.data}, the study on {outcome.data}"
    unread = [name for name in estimate.runs if name in runs and runs[name].record is None]
    if unread:
        return f"the record of {unread[0]} cannot be read"
    figures = [runs[name].figure(estimate.name) for name in estimate.runs if name in runs]
    values = [f.value for f in figures if f and f.value is not None]
    if estimate.unit == "%" and estimate.value is not None and values and len(values) == len(estimate.runs):
        mean = sum(values) / len(values)
        if abs(mean - estimate.value) > TOLERANCE * max(abs(mean), abs(estimate.value)):
            return f"{FILE} says {estimate.value:.4g}, the records of its runs {mean:.4g}"
    return ""


def _believed(cell: CellOutcome, outcome: StudyOutcome, runs: dict[str, Run], problems: list[str]) -> CellOutcome:
    doubts = {e.name: why for e in cell.estimates if (why := _doubt(e, outcome, runs))}
    for why in dict.fromkeys(doubts.values()):
        names = [name for name, reason in doubts.items() if reason == why]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        problems.append(f"{cell.name}: {names[0]}{more} left out: {why}")
    return cell.model_copy(update={"estimates": tuple(e for e in cell.estimates if e.name not in doubts)})


def _stands(verdict: Verdict, runs: dict[str, Run], problems: list[str]) -> bool:
    """Whether a verdict has its numbers and all the records that it rests on can be read."""
    numbers = (verdict.difference, verdict.low, verdict.high)
    told = numbers == (None, None, None) and any(c.isdigit() for c in verdict.reason)  # a claim that compares no points
    bare = verdict.word in JUDGED and None in numbers and not told
    unread = [name for name in verdict.runs if name in runs and runs[name].record is None]
    if bare:
        problems.append(f"claim {verdict.claim}: left out, for it says {verdict.word!r} without its numbers")
    elif unread:
        problems.append(f"claim {verdict.claim}: left out, for the record of {unread[0]} cannot be read")
    return not bare and not unread


def load_study(folder: Path, load: Callable[[Path], Run]) -> Study:
    """Reads what can be read, runs by `load`; never raises for what a folder holds."""
    outcome = _read(folder / FILE)
    if isinstance(outcome, str):
        return Study(folder, problems=(outcome,))
    problems: list[str] = []
    runs = _runs(outcome, folder, load, problems)
    cells = tuple(_believed(cell, outcome, runs, problems) for cell in outcome.cells)
    verdicts = tuple(v for v in outcome.verdicts if _stands(v, runs, problems))
    whole = outcome.model_copy(update={"cells": cells, "verdicts": verdicts})
    return Study(folder, _moving(whole), runs, tuple(problems))


def _moving(outcome: StudyOutcome) -> StudyOutcome:
    """The outcome without axes that have one value, which becomes a note."""
    still = {name: values[0] for name, values in outcome.axes.items() if len(values) == 1}
    if not still or len(still) == len(outcome.axes):
        return outcome

    def values(cell: CellOutcome) -> dict[str, Any]:
        return {name: value for name, value in cell.values.items() if name not in still}

    return outcome.model_copy(
        update={
            "axes": {name: given for name, given in outcome.axes.items() if name not in still},
            "cells": tuple(cell.model_copy(update={"values": values(cell)}) for cell in outcome.cells),
            "notes": (*outcome.notes, *(f"{name} is {value} in every cell." for name, value in still.items())),
        }
    )
