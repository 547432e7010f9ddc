"""A run's page from committed records: whole, failed, broken and hostile; looked at in headless Chromium."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import look

from experiments import report
from reports import published_tables
from reports.load import load_run, read_published
from reports.render import render_run, render_studies

RECORDS = Path(__file__).parent / "fixtures" / "records"
EVERY = [
    RECORDS / n for n in ("finished", "failed", "no_spec", "no_losses", "truncated", "not_a_number", "other_version")
]


def altered(folder: Path, **changes: Any) -> Path:
    """A copy of the finished fixture with keys of its record replaced."""
    shutil.copytree(RECORDS / "finished", folder)
    tree = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps({**tree, **changes}))
    return folder


def on_anet(folder: Path) -> Path:
    """The finished fixture as if measured on the paper's data; made here so that no such record is ever committed."""
    tree = json.loads((RECORDS / "finished" / "record.json").read_text())
    figures = [f for f in tree["figures"] if not f["name"].endswith(("_floor", "_ceiling"))]
    figures = [{**f, "data": "anet" if f["data"] else None} for f in figures]
    return altered(folder, data={**tree["data"], "mark": "anet"}, figures=figures)


class Tables(HTMLParser):
    """Each <table> of a page as rows of texts, badges included as [evidence]."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.inside = True
        elif tag == "abbr" and self.inside:
            self.tables[-1][-1][-1] += f"[{(dict(attrs)['class'] or '').split()[-1]}]"

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.tables[-1][-1][-1] += data

    def with_head(self, head: str) -> list[list[str]]:
        return next(t for t in self.tables if head in t[0])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    render_run(RECORDS / "finished", out)
    return out


@pytest.fixture(scope="module")
def whole_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    render_studies(EVERY, out)
    return out


def test_made_up_accuracy_stands_between_floor_and_ceiling(site: Path) -> None:
    table = Tables((site / "index.html").read_text()).with_head("floor (%)")
    assert table[0] == ["tIoU", "mAP (%)", "floor (%)", "ceiling (%)"]
    assert table[1] == ["0.50", "61.20[measured]M", "38.40[measured]M", "87.90[measured]M"]
    assert table[-1] == ["average", "39.14[measured]M", "19.47[measured]M", "67.66[measured]M"]


def test_made_up_figures_never_share_a_table_with_published_ones(site: Path, whole_site: Path) -> None:
    for page in (site, whole_site):
        tables = Tables((page / "index.html").read_text()).tables
        published = [t for t in tables if "[published]" in str(t)]
        assert len(published) == 2  # anet and thumos
        assert not any("[measured]" in str(t) or "[traced]" in str(t) for t in published)


def test_on_the_papers_data_one_table_holds_both(tmp_path: Path) -> None:
    render_run(on_anet(tmp_path / "run"), tmp_path / "out")
    table = Tables((tmp_path / "out" / "index.html").read_text()).with_head("method")
    rows = [dict(zip(table[0], row, strict=True)) for row in table[1:]]
    assert rows[0]["method"] == "fixture"
    assert rows[0]["average (%)"] == "39.14[measured]M"
    assert rows[0]["@0.55"] == "57.90[measured]M"
    paper = next(row for row in rows if row["source"] == "paper, arXiv v1 abstract")
    assert paper["average (%)"] == "37.78[published]Pb"
    assert (paper["training"], paper["memory"]) == ("6 min[published]Pb", "1.23 GB[published]Pb")
    assert paper["@0.50"] == "–"  # not available, never 0
    assert "1.36 points above the published 37.78 %ᵖᵇ" in " ".join((tmp_path / "out" / "index.md").read_text().split())


def test_a_record_with_bounds_is_not_comparable_even_under_the_papers_mark(tmp_path: Path) -> None:
    tree = json.loads((RECORDS / "finished" / "record.json").read_text())
    figures = [{**f, "data": None} for f in tree["figures"]]
    run = load_run(altered(tmp_path / "run", data={**tree["data"], "mark": "anet"}, figures=figures))
    assert not published_tables.comparable(run, read_published())


def test_markdown_has_the_same_figures_and_short_lines(site: Path) -> None:
    text = (site / "index.md").read_text()
    assert re.search(r"^\| average +\| +39.14ᵐ \| +19.47ᵐ \| +67.66ᵐ \|$", text, re.M)
    assert "- **paper's full schedule, bfloat16**: 54.0 minᵖʲ;" in text
    assert "**not_known_to_the_report**: 3 applesᵐ" in text
    long = [line for line in text.splitlines() if len(line) > 78 and not line.startswith("![")]
    assert long == []


def test_every_table_is_written_as_csv_and_latex(site: Path) -> None:
    names = set(re.findall(r'href="tables/([^"]+)"', (site / "index.html").read_text()))
    assert names == {path.name for path in (site / "tables").iterdir()}
    assert (site / "tables" / "finished-accuracy.csv").read_text().splitlines()[
        1
    ] == "0.50,61.2,measured,38.4,measured,87.9,measured"
    assert {p.name for p in (site / "figures").iterdir()} == {
        f"finished-{n}.{kind}" for n in ("accuracy", "losses", "steps") for kind in ("svg", "png")
    }


def test_failed_and_broken_runs_are_shown_as_such(whole_site: Path) -> None:
    for name in ("index.html", "index.md"):
        text = " ".join((whole_site / name).read_text().split())
        assert "Runs: 3 finished, 1 failed, 3 unreadable." in text
        assert "version 99, this suite reads 1" in text
        failed, empty = (
            " ".join((whole_site / "runs" / n / name).read_text().split()) for n in ("failed", "no_losses")
        )
        assert "loss is not finite at iteration 61: videos v_fixture01, v_fixture02" in failed
        assert "losses.csv: missing" in empty
    overview = Tables((whole_site / "index.html").read_text()).with_head("state")
    assert overview[2] == ["fixture-failed", "failed", *["–"] * 5]
    assert [row[0] for row in overview[1:]] == ["fixture", "fixture-failed", "fixture-no-spec", "fixture-no-losses"]


def test_nothing_but_broken_folders_still_renders(tmp_path: Path) -> None:
    pages = render_studies([RECORDS / "truncated", RECORDS / "nowhere"], tmp_path)
    assert "Runs: 2 unreadable." in pages[0].read_text()
    assert "no such folder" in pages[1].read_text()


def test_an_almost_empty_record_renders(tmp_path: Path) -> None:
    empty: dict[str, Any] = {"data": None, "figures": [], "protocol": {}, "environment": {}, "keys": {}, "details": {}}
    page = render_run(altered(tmp_path / "run", **empty), tmp_path / "out")[0].read_text()
    assert "the detector reaches an average mAP of" in page
    assert ">0.00" not in page


def test_hostile_names_labels_and_errors_are_shown_not_run(tmp_path: Path) -> None:
    evil = "</style></script><script>alert(1)</script><img src=x onerror=alert(2)> \"'`|\x1b[2J"
    folder = altered(
        tmp_path / "run",
        name=evil,
        status="done",
        error=evil,
        command=evil,
        environment={evil: evil},
        protocol={evil: [evil]},
    )
    examples = json.loads((folder / "examples.json").read_text())
    video = examples["videos"][0]
    video["id"] = video["truth"][0]["label"] = video["detections"][0]["label"] = evil
    (folder / "examples.json").write_text(json.dumps(examples))
    (folder / "log.txt").write_text(evil)
    failed = altered(tmp_path / "failed", status="failed", error=evil)
    pages = render_studies([folder, failed], tmp_path / "out")
    for html in (path.read_text() for path in pages if path.suffix == ".html"):
        assert html.count("<script>") == 1  # our own
        assert "<img" not in html
    for markdown in (path.read_text() for path in pages if path.suffix == ".md"):
        assert "\x1b" not in markdown
        outside_code = "\n".join(line for line in markdown.splitlines() if not line.startswith("    "))
        assert "<script" not in outside_code
        assert "<img" not in outside_code


def test_rendering_twice_gives_the_same_bytes(site: Path, tmp_path: Path) -> None:
    written = render_run(RECORDS / "finished", tmp_path)
    assert len(written) == len({path.relative_to(tmp_path) for path in written})
    for path in written:
        assert path.read_bytes() == (site / path.relative_to(tmp_path)).read_bytes(), path.name


def test_the_page_asks_for_nothing_outside_itself(whole_site: Path) -> None:
    for page in whole_site.rglob("*.html"):
        html = page.read_text()
        assert "default-src 'none'" in html
        assert re.findall(r"<(?:link|img|iframe|object|embed|base|form)\b", html) == []
        assert re.findall(r"@import|url\((?!#)", html) == []
        leads = re.findall(r'(?:src|href)="([^"#]+)', html)
        assert leads
        assert all((page.parent / lead).is_file() for lead in leads)


def test_rendering_does_not_import_torch() -> None:
    code = "import sys, reports.render, experiments.report; print('torch' in sys.modules, 'mmengine' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_command_prints_the_page_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [str(RECORDS / "finished"), "--out", str(tmp_path / "out")]
    assert report.run(given) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "index.html")
    assert report.run([*given, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["page"] == str(tmp_path / "out" / "index.html")
    assert report.run([str(tmp_path / "absent"), "--out", str(tmp_path / "out")]) == 1
    assert "absent: no such folder of a run or a study" in capsys.readouterr().err


@pytest.mark.parametrize("width", [400, 1400])
def test_page_in_chromium_fits_sorts_and_asks_for_nothing(width: int, site: Path, tmp_path: Path) -> None:
    act = """const table = doc.querySelector("table");
      const firsts = () => [...table.tBodies[0].rows].map(r => r.cells[0].textContent);
      const before = firsts(); [...table.querySelectorAll("th button")].find(b => b.textContent.startsWith("mAP")).click();
      return {before, after: firsts()};"""
    seen = look(site / "index.html", width, tmp_path, act)
    assert seen["width"] == width
    assert seen["out"] == seen["requests"] == []
    assert seen["before"] == [*(f"{0.5 + 0.05 * i:.2f}" for i in range(10)), "average"]
    assert seen["after"] == ["0.95", "0.90", "0.85", "0.80", "average", "0.75", "0.70", "0.65", "0.60", "0.55", "0.50"]


@pytest.mark.parametrize("width", [400, 1400])
def test_wide_tables_and_boxes_fit_in_chromium(width: int, tmp_path: Path) -> None:
    pages = render_studies([on_anet(tmp_path / "run"), *EVERY[1:]], tmp_path / "out")
    seen = look(pages[0], width, tmp_path)
    assert seen["width"] == width
    assert seen["out"] == seen["requests"] == []
