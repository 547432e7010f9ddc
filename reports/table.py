"""Cells and tables: numbers kept apart from their text, and written as Markdown, CSV and LaTeX.

HTML is written from the same tables by the templates.
"""

import csv
import io
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

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
_BYTES = ((1024**3 * 0.1, "GiB"), (1024**2 * 0.1, "MiB"), (1024, "KiB"), (1, "B"))
_BYTE_SIZES = {"GiB": 1024.0**3, "MiB": 1024.0**2}
_FLOP = ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1, "FLOP"))


def format_value(value: float | None, unit: str = "", show_unit: bool = True) -> str:
    """A number for people: seconds as ms, min, h; bytes as GiB (1024^3); percent with two decimals; None as a dash."""
    if value is None or not math.isfinite(value):
        return DASH
    if unit == "%":
        return f"{value:.2f} %" if show_unit else f"{value:.2f}"
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

    @property
    def missing(self) -> bool:
        return self.value is None and not self.label

    def text(self, show_unit: bool = True) -> str:
        if self.label:
            return self.label
        shown = format_value(self.value, self.unit, show_unit)
        if self.low is None or self.high is None or self.value is None:
            return shown
        return f"{shown} [{format_value(self.low, self.unit, False)}, {format_value(self.high, self.unit, False)}]"

    @property
    def mark(self) -> Mark | None:
        return MARKS[self.evidence] if self.evidence and not self.missing else None

    def suffixed(self, show_unit: bool = True) -> str:
        """The text with its evidence mark, for Markdown."""
        return self.text(show_unit) + (self.mark.suffix if self.mark else "")


def words(text: object, note: str = "") -> Cell:
    """A cell of plain text."""
    return Cell(label=str(text), note=note)


@dataclass(frozen=True)
class Column:
    title: str
    unit: str = ""  # the base unit of its cells; percent stands in the head instead of in each cell
    numeric: bool = True

    @property
    def head(self) -> str:
        return f"{self.title} (%)" if self.unit == "%" and not self.title.startswith("@") else self.title


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

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"table {self.name}: a row is not as long as the head")
        marks = {cell.data for row in self.rows for cell in row if cell.data is not None and not cell.missing}
        if len(marks) > 1:
            raise ValueError(f"table {self.name}: figures of {', '.join(sorted(marks))} must not share a table")

    def texts(self) -> list[list[str]]:
        """The rows as text, percent without its sign, evidence as a suffix."""
        return [[cell.suffixed(c.unit != "%") for cell, c in zip(row, self.columns, strict=True)] for row in self.rows]


def to_csv(table: Table) -> str:
    """Plain values in base units (s, B, %, FLOP); a column of evidence marks beside each column that has some."""
    marked = [any(row[i].mark for row in table.rows) for i in range(len(table.columns))]
    head: list[str] = []
    for column, has in zip(table.columns, marked, strict=True):
        head.append(f"{column.title} [{column.unit}]" if column.unit else column.title)
        head += [f"{column.title} evidence"] if has else []
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for row in table.rows:
        line: list[str] = []
        for cell, has in zip(row, marked, strict=True):
            plain = cell.label if cell.label else "" if cell.value is None else repr(cell.value)
            line += [plain, *([cell.evidence or ""] if has and not cell.missing else [""] if has else [])]
        writer.writerow(line)
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
        return latex_text(cell.text(column.unit != "%")) + mark

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


_MARKDOWN = str.maketrans(
    {c: f"\\{c}" for c in "\\`*[]|"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " ", "\r": " "}
)


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, one line. An underscore inside a word needs no escape."""
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text.translate(_MARKDOWN))


@dataclass(frozen=True)
class _Grid:
    """Columns of Markdown text; `right` says which stand flush right."""

    heads: list[str]
    rows: list[list[str]]
    right: list[bool]

    def pick(self, columns: Sequence[int]) -> "_Grid":
        rows = [[row[i] for i in columns] for row in self.rows]
        return _Grid([self.heads[i] for i in columns], rows, [self.right[i] for i in columns])

    def lines(self) -> list[str]:
        widths = [max(3, *(len(line[i]) for line in [self.heads, *self.rows])) for i in range(len(self.heads))]
        shape = list(zip(widths, self.right, strict=True))

        def line(cells: list[str]) -> str:
            padded = (c.rjust(w) if r else c.ljust(w) for c, (w, r) in zip(cells, shape, strict=True))
            return f"| {' | '.join(padded)} |"

        rule = "|".join("-" * (w + 1) + ":" if r else "-" * (w + 2) for w, r in shape)
        return [line(self.heads), f"|{rule}|", *map(line, self.rows)]

    def fits(self, width: int) -> bool:
        return len(self.lines()[0]) <= width

    def cut(self, width: int) -> list["_Grid"]:
        """Grids of as many columns as fit, each with the first one; a single column may still be too wide."""
        out, start = [], 1
        while start < len(self.heads):
            stops = range(len(self.heads), start, -1)
            picks = (self.pick([0, *range(start, stop)]) for stop in stops)
            stop, grid = next(
                ((n, g) for n, g in zip(stops, picks, strict=True) if g.fits(width)),
                (start + 1, self.pick([0, start])),
            )
            out.append(grid)
            start = stop
        return out


def _listed(grid: _Grid, width: int, ordered: bool = False) -> list[str]:
    """Each row as an entry of a list, for cells too long for any grid; figures with their heads, texts without."""
    out: list[str] = []
    for n, (first, *cells) in enumerate(grid.rows, 1):
        named = zip(grid.heads[1:], cells, grid.right[1:], strict=True)
        rest = [f"{head} {text}" if right and head != "value" else text for head, text, right in named if text != DASH]
        bullet = f"{n}. " if ordered else "- "
        out += textwrap.wrap(
            f"**{first}**: {'; '.join(rest) or DASH}",
            width,
            initial_indent=bullet,
            subsequent_indent=" " * len(bullet),
            break_on_hyphens=False,
            break_long_words=False,
        )
    return out


def to_markdown(table: Table, width: int = 76) -> str:
    """The table within `width`: as it is; or the texts as a numbered list and the figures by number; or a list."""
    heads = [markdown_text(c.head) for c in table.columns]
    rows = [[markdown_text(text) for text in row] for row in table.texts()]
    grid = _Grid(heads, rows, [c.numeric for c in table.columns])
    figures = [i for i, c in enumerate(table.columns) if c.numeric]
    if grid.fits(width):
        return "\n".join(grid.lines())
    if len(figures) < 2:
        return "\n".join(_listed(grid, width))
    if len(figures) == len(table.columns) - 1 and all(part.fits(width) for part in grid.cut(width)):
        return "\n\n".join("\n".join(part.lines()) for part in grid.cut(width))
    names = grid.pick([i for i in range(len(heads)) if i not in figures])
    numbered = _Grid(["#", *heads], [[str(n), *row] for n, row in enumerate(rows, 1)], [True, *grid.right])
    parts = numbered.pick([0, *(i + 1 for i in figures)]).cut(width)
    return "\n\n".join("\n".join(lines) for lines in [_listed(names, width, True), *(part.lines() for part in parts)])
