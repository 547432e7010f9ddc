"""A page: HTML and Markdown from one set of values, each table of numbers as CSV and LaTeX beside them.

The HTML asks for nothing outside itself: style and script stand in it, and its content security policy allows no more.
"""

import base64
import hashlib
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from etad.record import replacing
from reports.markdown import markdown_text, to_markdown
from reports.table import MARKS, Cell, Table, to_csv, to_latex
from reports.timelines import drawn

TEMPLATES = Path(__file__).parent / "templates"
WIDTH = 76  # characters of a Markdown line
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def slug(text: str) -> str:
    """A name safe in paths and ids."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "unnamed"


def slugs(texts: Sequence[str]) -> list[str]:
    """Names safe in paths and ids, each once."""
    made: dict[str, None] = {}
    for text in texts:
        plain, n = slug(text), 1
        while (name := plain if n == 1 else f"{plain}-{n}") in made:
            n += 1
        made[name] = None
    return list(made)


def named(tables: Iterable[Table], prefix: str = "") -> list[Table]:
    """The tables under names that are safe as files' names and as ids on the page."""
    return [replace(t, name=slug(f"{prefix}{t.name}")) for t in tables]


def _clean(text: object) -> str:
    """Without control characters, which a terminal would obey."""
    return _CONTROL.sub("", str(text))


def _code(text: str) -> Markup:
    """An indented block: nothing inside it can end it."""
    return Markup("\n".join(f"    {line}" for line in _clean(text).splitlines()))


def _wrap(parts: Sequence[str | Cell], first: str = "", rest: str = "") -> Markup:
    text = markdown_text(_clean("".join(p if isinstance(p, str) else p.suffixed() for p in parts)))
    return Markup(
        textwrap.fill(
            text, WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
        )
    )


def _environment(**options: Any) -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **options
    )


@cache
def _markdown_environment() -> Environment:
    def finalize(value: object) -> object:
        return value if isinstance(value, Markup) else markdown_text(_clean(value))

    made = _environment(finalize=finalize, autoescape=False)  # finalize escapes every expression for Markdown instead
    made.filters["verbatim"] = Markup
    made.globals.update(
        wrap=_wrap,
        code=_code,
        drawn=drawn,
        item=lambda parts: _wrap(parts, "- ", "  "),
        grid=lambda table: Markup(_clean(to_markdown(table, WIDTH))),
    )
    return made


@cache
def _html_environment() -> Environment:
    made = _environment(autoescape=True)
    script = (TEMPLATES / "tables.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    made.globals.update(style=style, script=script, script_hash=f"sha256-{digest}")
    return made


def write(path: Path, text: str) -> Path:
    """A file of a report: whole or absent, but not forced to disk, for it can be made again; left alone where it stands."""
    if path.exists() and path.read_bytes() == text.encode():
        return path
    with replacing(path, durable=False) as file:
        file.write(text)
    return path


def write_markdown(path: Path, template: str, values: Mapping[str, Any]) -> Path:
    """`path` from TEMPLATE.md.j2."""
    text = _markdown_environment().get_template(f"{template}.md.j2").render(marks=MARKS, **values)
    return write(path, re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")


def write_page(out: Path, template: str, values: Mapping[str, Any], tables: Sequence[Table]) -> list[Path]:
    """index.html and index.md in `out` from TEMPLATE.html.j2 and TEMPLATE.md.j2, and tables/ beside them.

    `values` are the templates' variables, `title` among them. Returns the written files, the two pages first.
    """
    html = _html_environment().get_template(f"{template}.html.j2").render(marks=MARKS, **values)
    written = [write(out / "index.html", html), write_markdown(out / "index.md", template, values)]
    for table in (table for table in tables if table.has_files):
        written.append(write(out / "tables" / f"{table.name}.csv", to_csv(table)))
        written.append(write(out / "tables" / f"{table.name}.tex", to_latex(table)))
    return written
