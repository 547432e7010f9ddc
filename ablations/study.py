"""A study as data: a question, the cells that answer it, and the claims that they judge. No torch, no I/O."""

import difflib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from etad.spec import Spec, differences, merge, parse_spec

METRIC = "average_mAP"


class StudyError(ValueError):
    """A study, axis or value that does not exist; the message gives the nearest names."""

    misused = True  # by whoever typed it


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Scaled(_Frozen):
    """A knob's value as so many times the base's, whole and at least 1: schedules of any preset."""

    by: float

    def of(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [self.of(v) for v in value]
        return max(1, round(value * self.by))


class FromBase(_Frozen):
    """A shown value that is whatever the base has for this knob."""

    knob: str

    def __str__(self) -> str:
        return "default"


class Cell(_Frozen):
    """One combination of values: what is shown of it, and the knobs that it changes."""

    values: dict[str, Any]  # axis -> value, as shown
    changes: dict[str, Any]  # dotted knob -> value, or Scaled

    @property
    def name(self) -> str:
        return ", ".join(f"{axis}={value}" for axis, value in self.values.items())

    def matches(self, values: Mapping[str, Any]) -> bool:
        return all(axis in self.values and self.values[axis] == value for axis, value in values.items())


Cells = tuple[Cell, ...]


def axis(name: str, knob: str, values: Sequence[Any]) -> Cells:
    """A knob's values."""
    return tuple(Cell(values={name: value}, changes={knob: value}) for value in values)


def choices(name: str, values: Mapping[Any, Mapping[str, Any]]) -> Cells:
    """Named values that each change knobs of their own."""
    return tuple(Cell(values={name: value}, changes=dict(changes)) for value, changes in values.items())


def _join(cells: Sequence[Cell]) -> Cell:
    values = {axis: value for cell in cells for axis, value in cell.values.items()}
    changes = {knob: value for cell in cells for knob, value in cell.changes.items()}
    if len(values) < sum(len(cell.values) for cell in cells) or len(changes) < sum(len(cell.changes) for cell in cells):
        raise StudyError(f"two axes move the same thing: {', '.join(cell.name for cell in cells)}")
    return Cell(values=values, changes=changes)


def grid(*axes: Cells) -> Cells:
    """Every combination, the first axis outermost."""
    return tuple(_join(cells) for cells in itertools.product(*axes))


def zip_(*axes: Cells) -> Cells:
    """Values side by side. Raises ValueError where the axes differ in length."""
    return tuple(_join(cells) for cells in zip(*axes, strict=True))


def chain(*parts: Cells) -> Cells:
    """One part after the other; a cell named twice stands once."""
    return tuple({cell.name: cell for part in parts for cell in part}.values())


class Claim(_Frozen):
    """A sentence of the paper as a criterion, fixed before the runs. See `above` and `not_worse`."""

    name: str
    sentence: str
    source: str
    kind: Literal["above", "not worse"]
    left: dict[str, Any]  # values that select one cell
    right: dict[str, Any]
    settled: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = ()  # (cell, the same trained longer)
    metric: str = METRIC
    confidence: float = 0.95

    def criterion(self, margin: float) -> str:
        left, right = (", ".join(f"{a}={v}" for a, v in side.items()) for side in (self.left, self.right))
        level = f"{100 * self.confidence:g} %"
        text = (
            f"{self.metric} of ({left}) above that of ({right}): holds when the {level} interval of the difference lies "
            f"above 0, does not hold when it lies below {margin:g} points"
            if self.kind == "above"
            else f"{self.metric} of ({left}) not worse than that of ({right}): holds when the one-sided {level} bound of the "
            f"difference lies above -{margin:g} points, does not hold when the {level} interval lies below that"
        )
        if self.settled:
            text += f"; both are at their plateau: twice the schedule gains no more than {margin:g} points"
        return text


def above(
    name: str, left: Mapping[str, Any], *, than: Mapping[str, Any], sentence: str, source: str, **more: Any
) -> Claim:
    """Left above right."""
    return Claim(name=name, kind="above", left=dict(left), right=dict(than), sentence=sentence, source=source, **more)


def not_worse(
    name: str, left: Mapping[str, Any], *, than: Mapping[str, Any], sentence: str, source: str, **more: Any
) -> Claim:
    """Left not worse than right by the margin."""
    return Claim(
        name=name, kind="not worse", left=dict(left), right=dict(than), sentence=sentence, source=source, **more
    )


class Study(_Frozen):
    name: str
    question: str
    cells: Cells = Field(min_length=1)
    claims: tuple[Claim, ...] = ()
    seeds: int = 3  # of a cell
    claim_seeds: int = 6  # of a cell that a claim compares
    notes: tuple[str, ...] = ()
    presets: str = ""  # what the names of its presets begin with: end_to_end_ for those that train an encoder

    @model_validator(mode="after")
    def _claims_name_cells(self) -> "Study":
        for claim in self.claims:
            for values in (claim.left, claim.right, *(v for pair in claim.settled for v in pair)):
                self.find(values)
        return self

    @property
    def axes(self) -> dict[str, tuple[Any, ...]]:
        """Axis -> its values, numbers rising, others as they stand."""
        found: dict[str, dict[Any, None]] = {}
        for cell in self.cells:
            for name, value in cell.values.items():
                found.setdefault(name, {})[value] = None
        return {
            name: tuple(sorted(values) if all(isinstance(v, int | float) for v in values) else values)
            for name, values in found.items()
        }

    def find(self, values: Mapping[str, Any]) -> Cell:
        """The one cell with these values. Raises StudyError naming the nearest."""
        for name, value in values.items():
            if name not in self.axes:
                raise StudyError(f"study {self.name} has no axis {name!r}{_near(name, list(self.axes))}")
            if value not in self.axes[name]:
                known = [str(v) for v in self.axes[name]]
                raise StudyError(f"axis {name} of study {self.name} has no value {value!r}{_near(str(value), known)}")
        found = [cell for cell in self.cells if cell.matches(values)]
        if len(found) != 1:
            raise StudyError(f"study {self.name}: {len(found)} cells have {dict(values)}; name one")
        return found[0]

    def claimed(self, cell: Cell) -> bool:
        """Whether a claim compares this cell."""
        return any(cell in (self.find(claim.left), self.find(claim.right)) for claim in self.claims)


def _near(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 3, 0.4)
    return f"; did you mean {' or '.join(close)}?" if close else f"; known: {', '.join(known)}"


def resolved(study: Study, base: Spec) -> Study:
    """The study with the base's own values in the place of FromBase; cells that are then named alike stand once."""
    tree = base.model_dump(mode="json")

    def value(shown: Any) -> Any:
        return _at(tree, shown.knob) if isinstance(shown, FromBase) else shown

    cells = (c.model_copy(update={"values": {n: value(v) for n, v in c.values.items()}}) for c in study.cells)
    return study.model_copy(update={"cells": chain(tuple(cells))})


def chosen(name: str, studies: Mapping[str, Study]) -> Study:
    """A study by its name. Raises StudyError naming the nearest."""
    if name not in studies:
        raise StudyError(f"no study named {name!r}{_near(name, [*studies, 'all'])}")
    return studies[name]


def restricted(study: Study, only: Sequence[str]) -> Study:
    """The study at the cells with these `axis=value`; claims that lose a cell go. Raises StudyError naming the nearest."""
    wanted: dict[str, set[str]] = {}
    for pair in only:
        name, equals, value = pair.partition("=")
        if not equals:
            raise StudyError(f"{pair!r}: write axis=value, for example {next(iter(study.axes))}=...")
        shown = {str(v): v for v in study.axes.get(name, ())}
        if value not in shown:
            study.find({name: value})  # says what is wrong
        wanted.setdefault(name, set()).add(value)
    cells = tuple(c for c in study.cells if all(str(c.values.get(n)) in values for n, values in wanted.items()))
    if not cells:
        raise StudyError(f"study {study.name} has no cell with {', '.join(only)}")
    names = {cell.name for cell in cells}
    kept = tuple(
        claim
        for claim in study.claims
        if {study.find(v).name for v in (claim.left, claim.right, *itertools.chain(*claim.settled))} <= names
    )
    return study.model_copy(update={"cells": cells, "claims": kept})


def cell_spec(base: Spec, cell: Cell, more: Mapping[str, Any] | None = None) -> Spec:
    """The base with the cell's changes, and more of them. Raises SpecError."""
    tree = base.model_dump(mode="json")
    for knob, value in {**cell.changes, **(more or {})}.items():
        if isinstance(value, Scaled):
            value = value.of(_at(tree, knob))
        tree = merge(tree, _nested(knob, value))
    return parse_spec(tree, cell.name)


def changed(base: Spec, cell: Cell) -> dict[str, Any]:
    """Dotted knob -> value wherever the cell's spec differs from its base."""
    return differences(cell_spec(base, cell), base)


def _at(tree: Any, knob: str) -> Any:
    for part in knob.split("."):
        tree = tree[part]
    return tree


def _nested(knob: str, value: Any) -> dict[str, Any]:
    for part in reversed(knob.split(".")):
        value = {part: value}
    return dict(value)
