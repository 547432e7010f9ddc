"""Cells and tables: numbers kept apart from their text, and written as CSV and LaTeX.

reports/markdown.py writes them as Markdown, the templates as HTML.
"""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from etad.record import Evidence

DASH = "–"


@dataclass(frozen=True)
class Mark:
    """How an evidence mark looks: letters in HTML, a suffix in Markdown, and what it means."""

    letters: str
    suffix: str
    meaning: str


MARKS: dict[Evidence, Mark] = {
    "measured": Mark("M", "ᵐ", "by the run itself, on the device named"),
    "traced": Mark("T", "ᵗ", "counted on the real model at the stated size, without allocating"),
    "projected": Mark("Pj", "ᵖʲ", "measured step time x the steps of the full schedule"),
    "published": Mark("Pb", "ᵖᵇ", "someone else's figure, with its source"),
}


def _scaled(value: float, steps: Sequence[tuple[float, str]]) -> str:
    """`value` in the largest unit of `steps` (falling) that it reaches, with three digits."""
    size, unit = next(((s, u) for s, u in steps if abs(value) >= s), steps[-1])
    return f"{_digits(value / size)} {unit}"


def _digits(value: float) -> str:
    """Three significant digits without an exponent, all of them before the point where there are more."""
    if value == 0 or abs(value) < 1e-4:
        return f"{value:.3g}"
    places = max(0, 2 - math.floor(math.log10(abs(value)) + 1e-12))
    return f"{value:,.{places}f}"


_SECONDS = ((172800, "d"), (7200, "h"), (120, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs"))
_SECOND_SIZES = {"d": 86400.0, "h": 3600.0, "min": 60.0}
_BYTES = ((1024**3 * 0.01, "GiB"), (1024**2 * 0.01, "MiB"), (1024, "KiB"), (1, "B"))
_BYTE_SIZES = {"GiB": 1024.0**3, "MiB": 1024.0**2}
_FLOP = ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1, "FLOP"))


def format_value(value: float | None, unit: str = "", show_unit: bool = True) -> str:
    """A number for people: seconds as ms, min, h; bytes as GiB (1024^3); percent, points: two decimals; None: a dash."""
    if value is None or not math.isfinite(value):
        return DASH
    if unit in ("%", "points"):
        return f"{value:.2f} {unit}" if show_unit else f"{value:.2f}"
    if unit == "s":
        start, name = next(((s, u) for s, u in _SECONDS if abs(value) >= s), _SECONDS[-1])
        return f"{_digits(value / _SECOND_SIZES.get(name, start))} {name}"
    if unit == "B":
        start, name = next(((s, u) for s, u in _BYTES if abs(value) >= s), _BYTES[-1])
        return f"{_digits(value / _BYTE_SIZES.get(name, start))} {name}"
    if unit == "FLOP":
        return _scaled(value, _FLOP)
    text = f"{value:,.0f}" if float(value).is_integer() else _digits(value)
    return f"{text} {unit}" if unit and show_unit else text


@dataclass(frozen=True)
class Cell:
    """One entry of a table. A cell without value and label is missing and shows as a dash, never 0."""

    value: float | None = None
    unit: str = ""
    evidence: Evidence | None = None
    low: float | None = None  # of an interval
    high: float | None = None
    runs: tuple[str, ...] = ()  # names of the runs behind it
    data: str | None = None  # evidence mark of the data
    label: str | None = None  # shown instead of the formatted value
    note: str = ""  # shown on hovering
    href: str = ""  # where it leads: a page's index.html, from the page that it stands on, or #id
    id: str = ""  # of its row, for links
    tone: str = ""  # yes, no, open: how a verdict is coloured

    @property
    def missing(self) -> bool:
        return self.value is None and not self.label

    def text(self, show_unit: bool = True) -> str:
        return f"{self.shown(show_unit)} {self.interval}".strip()

    def shown(self, show_unit: bool = True) -> str:
        """Its text without the interval."""
        return self.label or format_value(self.value, self.unit, show_unit)

    @property
    def interval(self) -> str:
        """Its bounds in brackets; empty where it has none."""
        if self.label or None in (self.value, self.low, self.high):
            return ""
        return f"[{format_value(self.low, self.unit, False)}, {format_value(self.high, self.unit, False)}]"

    @property
    def mark(self) -> Mark | None:
        return MARKS[self.evidence] if self.evidence and not self.missing else None

    def suffixed(self, show_unit: bool = True) -> str:
        """The text with its evidence mark, for Markdown."""
        return self.text(show_unit) + (self.mark.suffix if self.mark else "")


def words(text: object, note: str = "", href: str = "") -> Cell:
    """A cell of plain text."""
    return Cell(label=str(text), note=note, href=href)


@dataclass(frozen=True)
class Column:
    title: str
    unit: str = ""  # the base unit of its cells; percent stands in the head instead of in each cell
    numeric: bool = True
    named: bool = True  # in a list, beside its cells

    @property
    def unit_in_head(self) -> bool:
        return self.unit in ("%", "points")

    @property
    def head(self) -> str:
        named = self.unit_in_head and not self.title.startswith("@")
        return f"{self.title} ({self.unit})" if named else self.title


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first column names the row.

    Raises ValueError where figures of different data would share the table: a synthetic mAP never stands beside a
    published one. Source: EVIDENCE.
    """

    name: str  # of its files
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()  # sentences below it
    strong: tuple[int, ...] = ()  # rows to be seen first
    keys: int = 1  # leading columns that together name a row
    listed: bool = False  # a list in Markdown, its words and figures together

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"table {self.name}: a row is not as long as the head")
        marks = {cell.data for row in self.rows for cell in row if cell.data is not None and not cell.missing}
        if len(marks) > 1:
            raise ValueError(f"table {self.name}: figures of {', '.join(sorted(marks))} must not share a table")

    @property
    def has_files(self) -> bool:
        """Whether it is worth pasting elsewhere: a list of words is not."""
        return any(column.numeric for column in self.columns)

    def without(self, column: int) -> "Table":
        columns = self.columns[:column] + self.columns[column + 1 :]
        return replace(self, columns=columns, rows=tuple(row[:column] + row[column + 1 :] for row in self.rows))

    def dense(self) -> "Table":
        """Without the columns of figures that no row has."""
        empty = [i for i, c in enumerate(self.columns) if c.numeric and all(row[i].missing for row in self.rows)]
        table = self
        for column in reversed(empty):
            table = table.without(column)
        return table

    def texts(self) -> list[list[str]]:
        """The rows as text, percent and points without their unit, evidence as a suffix."""
        return [
            [cell.suffixed(not c.unit_in_head) for cell, c in zip(row, self.columns, strict=True)] for row in self.rows
        ]


def to_csv(table: Table) -> str:
    """Plain values in base units (s, B, %, FLOP), beside them what some row has: both ends of the interval, evidence."""
    cells = [[row[i] for row in table.rows] for i in range(len(table.columns))]
    bounded = [any(cell.interval for cell in column) for column in cells]
    marked = [any(cell.mark for cell in column) for column in cells]
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")

    def line(parts: Iterable[tuple[str, str, str, str]]) -> None:
        picked = zip(parts, bounded, marked, strict=True)
        writer.writerow([x for four, b, m in picked for x, on in zip(four, (True, b, b, m), strict=True) if on])

    def head(column: Column) -> tuple[str, str, str, str]:
        unit = f" [{column.unit}]" if column.unit else ""
        title = column.title
        return f"{title}{unit}", f"{title} low{unit}", f"{title} high{unit}", f"{title} evidence"

    def entry(cell: Cell) -> tuple[str, str, str, str]:
        value, low, high = ("" if x is None else repr(x) for x in (cell.value, cell.low, cell.high))
        return cell.label or value, low, high, (cell.evidence or "") if cell.mark else ""

    line(map(head, table.columns))
    for row in table.rows:
        line(map(entry, row))
    return out.getvalue()


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "µ": r"$\mu$",
    "<": "$<$", ">": "$>$", "·": r"$\cdot$",
}  # fmt: skip


def latex_text(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in " ".join(text.split()))


def to_latex(table: Table) -> str:
    """A booktabs tabular; evidence marks as superscripts."""

    def show(cell: Cell, column: Column) -> str:
        mark = rf"\textsuperscript{{{cell.mark.letters.lower()}}}" if cell.mark else ""
        return latex_text(cell.text(not column.unit_in_head)) + mark

    lines = [
        f"% {' '.join(table.title.split())}",
        rf"\begin{{tabular}}{{{''.join('r' if c.numeric else 'l' for c in table.columns)}}}",
        r"\toprule",
        " & ".join(latex_text(c.head) for c in table.columns) + r" \\",
        r"\midrule",
        *(" & ".join(show(cell, c) for cell, c in zip(row, table.columns, strict=True)) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"
