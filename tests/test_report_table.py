"""Cells, their text, and tables as Markdown, CSV and LaTeX."""

import csv
import io
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.markdown import markdown_text, to_markdown
from reports.table import DASH, Cell, Column, Table, format_value, to_csv, to_latex, words


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "s", DASH),
        (math.nan, "%", DASH),
        (0.0, "%", "0.00 %"),
        (37.784, "%", "37.78 %"),
        (0.1376, "s", "138 ms"),
        (41.34, "s", "41.3 s"),
        (360.0, "s", "6.00 min"),
        (64800.0, "s", "18.0 h"),
        (1.23 * 1024**3, "B", "1.23 GiB"),
        (118 * 1024**2, "B", "0.115 GiB"),
        (512.0, "B", "512 B"),
        (3 * 1024**2, "B", "3.00 MiB"),
        (28.6e9, "FLOP", "28.6 GFLOP"),
        (10_343_450.0, "", "10,343,450"),
        (2.5, "apples", "2.50 apples"),
    ],
)
def test_numbers_are_written_for_people(value: float | None, unit: str, text: str) -> None:
    assert format_value(value, unit) == text


def test_cell_keeps_interval_evidence_and_text_apart() -> None:
    cell = Cell(37.8, "%", "measured", low=37.1, high=38.4, runs=("a", "b"))
    assert cell.text() == "37.80 % [37.10, 38.40]"
    assert cell.suffixed(show_unit=False) == "37.80 [37.10, 38.40]ᵐ"
    assert Cell(None, "%", "measured").suffixed() == DASH  # nothing measured, nothing marked


def test_figures_of_different_data_refuse_to_share_a_table() -> None:
    columns = (Column("run", numeric=False), Column("mAP", "%"))
    made_up = (words("ours"), Cell(40.0, "%", "measured", data="synthetic-1"))
    published = (words("paper"), Cell(37.78, "%", "published", data="anet"))
    with pytest.raises(ValueError, match=r"anet, synthetic-1 must not share"):
        Table("mixed", "mixed", columns, (made_up, published))


def _table(rows: list[tuple[str, float | None]], columns: int = 1) -> Table:
    heads = (Column("name", numeric=False), *(Column(f"figure {i}", "%") for i in range(columns)))
    return Table("t", "t", heads, tuple((words(n), *[Cell(v, "%", "measured")] * columns) for n, v in rows))


def test_csv_holds_plain_values_with_their_evidence_and_leaves_the_missing_empty() -> None:
    lines = list(csv.reader(io.StringIO(to_csv(_table([("a, b", 1 / 3), ("c", None)])))))
    assert lines == [["name", "figure 0 [%]", "figure 0 evidence"], ["a, b", repr(1 / 3), "measured"], ["c", "", ""]]


def test_csv_holds_both_ends_of_intervals() -> None:
    columns = (Column("name", numeric=False), Column("mAP", "%"), Column("time", "s"))
    rows = ((words("a"), Cell(2.0, "%", "measured", 1.5, 2.25), Cell(3.0, "s")), (words("b"), Cell(4.0, "%"), Cell()))
    assert to_csv(Table("t", "t", columns, rows)).splitlines() == [
        "name,mAP [%],mAP low [%],mAP high [%],mAP evidence,time [s]",
        "a,2.0,1.5,2.25,measured,3.0",
        "b,4.0,,,,",
    ]


def test_latex_is_a_booktabs_tabular_with_escaped_text() -> None:
    text = to_latex(_table([(r"50% & \input{x}_$1$", 1.5)]))
    assert text.splitlines()[-3] == (
        r"50\% \& \textbackslash{}input\{x\}\_\$1\$ & 1.50\textsuperscript{m} \\"
    )  # the head's (%) is escaped too
    assert r"figure 0 (\%)" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]


@given(st.integers(1, 25), st.integers(1, 14), st.integers(40, 90))
def test_markdown_keeps_to_its_width_and_loses_no_value(rows: int, columns: int, width: int) -> None:
    values = [round(10 + i + 0.01 * i, 2) for i in range(rows)]
    text = to_markdown(_table([(f"row {i}", v) for i, v in enumerate(values)], columns), width)
    assert max(map(len, text.splitlines())) <= width
    assert all(len(re.findall(rf"(?<!\d){v:.2f}ᵐ", text)) == columns for v in values)


def test_markdown_repeats_all_columns_that_name_a_row() -> None:
    heads = (Column("bins"), Column("by", numeric=False), *(Column(f"figure {i}", "%") for i in range(9)))
    rows = tuple((Cell(8.0), words(by), *[Cell(1.5, "%")] * 9) for by in ("stride", "score"))
    parts = to_markdown(Table("t", "t", heads, rows, keys=2), 76).split("\n\n")
    assert len(parts) > 1
    assert all(re.match(r"\| +bins \| by +\|", part) for part in parts)
    whole = to_markdown(Table("t", "t", heads[:1] + heads[2:], tuple(r[:1] + r[2:] for r in rows)), 40)
    assert whole.count("1.50") == 18


def test_markdown_of_long_texts_is_a_list() -> None:
    table = Table(
        "t", "t", (Column("what", numeric=False), Column("value", numeric=False)), ((words("hash"), words("f" * 90)),)
    )
    assert to_markdown(table) == "- **hash**:\n  " + "f" * 90


def test_markdown_text_is_inert() -> None:
    assert markdown_text("<b>|`*[x](y)\n_z_ a_b") == r"&lt;b&gt;\|\`\*\[x\](y) \_z\_ a_b"
