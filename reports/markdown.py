"""Tables and text as Markdown that reads in a narrow window."""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from reports.table import DASH, Cell, Table

_MARKDOWN = str.maketrans(
    {c: f"\\{c}" for c in "\\`*[]|"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " ", "\r": " "}
)


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, one line. An underscore inside a word needs no escape."""
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text.translate(_MARKDOWN))


def _linked(text: str, cell: Cell) -> str:
    """The text as a link where the cell is words that lead to a page."""
    page = cell.href.replace(".html", ".md")
    return f"[{text}]({page})" if cell.label and page.endswith(".md") else text


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

    def cut(self, width: int, keys: int = 1) -> list["_Grid"]:
        """Grids of as many columns as fit, each with the first `keys`; a single column may still be too wide."""
        out, start = [], keys
        while start < len(self.heads):
            stops = range(len(self.heads), start, -1)
            picks = (self.pick([*range(keys), *range(start, stop)]) for stop in stops)
            stop, grid = next(
                ((n, g) for n, g in zip(stops, picks, strict=True) if g.fits(width)),
                (start + 1, self.pick([*range(keys), start])),
            )
            out.append(grid)
            start = stop
        return out


def _listed(grid: _Grid, width: int, ordered: bool = False) -> list[str]:
    """Each row as an entry of a list, for cells too long for any grid; figures with their heads, texts without."""
    out: list[str] = []
    for n, (first, *cells) in enumerate(grid.rows, 1):
        named = zip(grid.heads[1:], cells, grid.right[1:], strict=True)
        rest = [
            f"{head} {text}" if right and head not in ("", "value") else text
            for head, text, right in named
            if text != DASH
        ]
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
    rows = [
        [_linked(markdown_text(text), cell) for text, cell in zip(texts, row, strict=True)]
        for texts, row in zip(table.texts(), table.rows, strict=True)
    ]
    grid = _Grid(heads, rows, [c.numeric for c in table.columns])
    figures = [i for i, c in enumerate(table.columns) if c.numeric and i > 0]
    if table.listed:
        named = [head if c.named else "" for head, c in zip(heads, table.columns, strict=True)]
        return "\n".join(_listed(_Grid(named, rows, [True] * len(heads)), width))
    if grid.fits(width):
        return "\n".join(grid.lines())
    if len(figures) < 2:
        return "\n".join(_listed(grid, width))
    parts = grid.cut(width, table.keys)
    if all(c.numeric for c in table.columns[table.keys :]) and all(part.fits(width) for part in parts):
        return "\n\n".join("\n".join(part.lines()) for part in parts)
    names = grid.pick([i for i in range(len(heads)) if i not in figures])
    numbered = _Grid(["#", *heads], [[str(n), *row] for n, row in enumerate(rows, 1)], [True, *grid.right])
    parts = numbered.pick([0, *(i + 1 for i in figures)]).cut(width)
    return "\n\n".join("\n".join(lines) for lines in [_listed(names, width, True), *(part.lines() for part in parts)])
