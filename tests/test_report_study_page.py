"""Pages of studies from committed records: an index, a page a study, a page a run; sorted and filtered in Chromium."""

import json
import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest
from browser import look
from test_report_page import Tables

from experiments import report
from reports.render import render_published, render_studies

STUDIES = Path(__file__).parent / "fixtures" / "studies"
EVERY = [STUDIES / n for n in ("whole", "partly", "truncated", "other_version", "edited", "hostile")]
WHOLE, PARTLY = "studies/whole/index.html", "studies/partly/index.html"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    render_studies(EVERY, out)
    return out


def text(path: Path) -> str:
    """A page's text as a reader sees it, tags and line breaks apart."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", path.read_text())).split())


def test_the_index_begins_with_the_claims_and_their_numbers(site: Path) -> None:
    tables = Tables((site / "index.html").read_text()).tables
    assert tables[0][0][:3] == ["claim", "verdict", "difference (points)"]
    rows = {row[0]: row[1:] for row in tables[0][1:]}
    assert rows["saturation"] == [
        "holds on synthetic-1", "-0.20[measured]M [-0.90, 0.50]", "1.00", "83 %", "6", "1,000",
        "alike on 1 of 2 variants", "whole",
    ]  # fmt: skip
    assert rows["LSTM"][0] == "undecided on synthetic-1"
    assert "A verdict on made-up data is a property of its generator too." in text(site / "index.html")
    assert tables[1][0][0] == "study"
    assert "a made-up set" in text(site / "index.html")


def test_what_could_not_be_read_is_named_and_counted(site: Path) -> None:
    for page in ("index.html", "index.md"):
        said = text(site / page)
        assert "Studies: 3 finished, 3 unreadable, 2 of them in part. Runs: 16 finished, 2 unreadable." in said
        for problem in (
            "truncated: study.json: not a study",
            "version 99, this suite reads 1",
            "data: Input should be a valid string",
            "fixture-none-0: record.json: edited since it was written",
            "fixture-gru-0: record.json: not a record",
        ):
            assert problem in said
    assert "the record of fixture-gru-0 cannot be read" in text(site / PARTLY)


def test_a_cell_has_its_interval_costs_and_realised_counts_and_leads_to_its_runs(site: Path) -> None:
    page = (site / WHOLE).read_text()
    table = Tables(page).with_head("ratio")
    row = dict(zip(table[0], table[1], strict=True))
    assert row == {
        "ratio": "0.01",
        "sampler": "random",
        "average mAP (%)": "33.20[measured]M [32.10, 34.30]",
        "training": "13.3 s[measured]M",
        "step": "53.0 ms[measured]M",
        "peak memory": "0.0918 GiB[traced]T",
        "parameters": "2,843,210[traced]T",
        "FLOP a video": "11.1 GFLOP[traced]T",
        "proposals": "20[traced]T",
        "runs": "2",
    }
    assert '<a href="#runs-ratio-0.01-sampler-random">' in page
    assert '<tr id="runs-ratio-0.01-sampler-random">' in page
    assert '<a href="../../runs/fixture-0.01-random-0/index.html">' in page


def test_a_claim_leads_to_runs_that_no_cell_has(site: Path) -> None:
    page = (site / WHOLE).read_text()
    assert '<a href="#runs-saturation-synthetic-1-without-noise">' in page
    assert '<tr id="runs-saturation-synthetic-1-without-noise">' in page
    assert [
        ["run", "cell", "state", "average mAP (%)"],
        ["fixture-noiseless-0", "saturation, synthetic-1 without noise", "done", "45.00[measured]M"],
    ] in Tables(page).tables


def test_missing_and_failed_cells_are_dashes_with_their_error(site: Path) -> None:
    cells = {row[0]: row[1:] for row in Tables((site / PARTLY).read_text()).with_head("aggregator")}
    assert cells["attention"] == ["–"] * 5 + ["0 of 1"]
    assert cells["dilated"] == ["–"] * 5 + ["0 of 1"]
    assert cells["gru"][0] == "–"  # its run's record is cut off
    runs = {row[0]: row[3:] for row in Tables((site / PARTLY).read_text()).with_head("state")}
    assert runs["fixture-attention-0"] == ["failed", "–", "loss is not finite at iteration 61: videos v_fixture01"]
    assert runs["fixture-dilated-0"] == ["missing", "–", "–"]
    assert runs["fixture-gru-0"][0] == "unreadable"


def test_a_page_says_what_was_published_and_how_to_run_it_again(site: Path) -> None:
    said = text(site / WHOLE)
    assert "Not available: the paper's own ablation tables" in said
    assert "python -m experiments.ablate --study fixture_count --preset fixture" in said
    assert "Criterion, as it stood before the runs: average mAP at 6 % of the proposals" in said
    for table in Tables((site / WHOLE).read_text()).tables:
        assert not ("[published]" in str(table) and "[measured]" in str(table))


def test_markdown_and_html_have_the_same_figures(site: Path) -> None:
    for name in (WHOLE, PARTLY):
        page, markdown = text(site / name), (site / name).with_suffix(".md").read_text()
        figures = set(
            re.findall(r"\d+\.\d\d", " ".join(" ".join(map(str, t)) for t in Tables((site / name).read_text()).tables))
        )
        assert figures
        assert all(figure in markdown for figure in figures)
        assert all(figure in page for figure in re.findall(r"(\d+\.\d+)ᵐ", markdown))
        long = [
            line for line in markdown.splitlines() if len(line) > 78 and not line.startswith(("![", "[All", "    "))
        ]
        assert long == []


def test_every_link_of_the_site_leads_to_a_file_or_a_place_on_the_page(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) == 1 + 3 + 16
    for page in pages:
        html = page.read_text()
        for lead in re.findall(r'href="([^"]+)"', html):
            path, _, place = lead.partition("#")
            assert (page.parent / path).is_file() if path else f'id="{place}"' in html, (page, lead)
    for page in site.rglob("*.md"):
        for lead in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            if not lead.startswith("javascript:"):  # a hostile text, escaped
                assert (page.parent / lead).is_file(), (page, lead)


def test_hostile_texts_are_shown_not_run(site: Path, tmp_path: Path) -> None:
    pages = [*site.rglob("*.html")]
    for page in pages:
        html = page.read_text()
        assert html.count("<script>") == 1
        assert "<img" not in html
    for page in site.rglob("*.md"):
        outside_code = "\n".join(line for line in page.read_text().splitlines() if not line.startswith("    "))
        assert "<script" not in outside_code
        assert "<img" not in outside_code
        assert not re.search(r"(?<!\\)\]\(javascript", outside_code)
    for figure in site.rglob("*.svg"):
        assert not any(
            "script" in element.tag or "image" in element.tag for element in ElementTree.parse(figure).iter()
        )
    hostile = next(page for page in pages if page.parent.name == "hostile")
    seen = look(hostile, 400, tmp_path)
    assert seen["title"] != "run"
    assert seen["width"] == 400
    assert seen["out"] == seen["requests"] == []


def test_rendering_twice_gives_the_same_bytes(site: Path, tmp_path: Path) -> None:
    written = render_studies(EVERY, tmp_path)
    assert len(written) == len(set(written))
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(written)
    for path in written:
        assert path.read_bytes() == (site / path.relative_to(tmp_path)).read_bytes(), path.name


SORT_AND_FILTER = """
  const table = [...doc.querySelectorAll("table")].find(t => t.tHead.textContent.includes("state"));
  const shown = () => [...table.tBodies[0].rows].filter(r => !r.hidden).map(r => r.cells[0].textContent);
  const field = table.closest("section").querySelector("input"), count = table.closest("section").querySelector("output");
  const type = text => { field.value = text; field.dispatchEvent(new win.Event("input")); return shown(); };
  const head = [...table.querySelectorAll("th button")].find(b => b.textContent.startsWith("average"));
  const before = shown(); head.click(); const rising = shown(); head.click(); const falling = shown();
  const grid = type("GRID 0.06"), said = count.textContent, none = type("nothing like it"), all = type("");
  const reach = [field, head].map(e => { e.focus(); return doc.activeElement === e; });
  return {before, rising, falling, grid, said, none, all, reach};
"""


@pytest.mark.parametrize("width", [400, 1400])
def test_a_study_in_chromium_fits_sorts_and_filters(width: int, site: Path, tmp_path: Path) -> None:
    seen = look(site / WHOLE, width, tmp_path, SORT_AND_FILTER)
    assert seen["width"] == width
    assert seen["out"] == seen["requests"] == []
    assert len(seen["before"]) == 14
    assert seen["rising"][0] == "fixture-0.01-grid-0"
    assert seen["falling"][0] == "fixture-0.2-random-1"
    assert sorted(seen["rising"]) == sorted(seen["before"]) == sorted(seen["all"])
    assert sorted(seen["grid"]) == ["fixture-0.06-grid-0", "fixture-0.06-grid-1"]
    assert seen["said"] == "2 of 14 rows"
    assert seen["none"] == []
    assert seen["reach"] == [True, True]


@pytest.mark.parametrize("width", [400, 1400])
def test_the_index_in_chromium_fits(width: int, site: Path, tmp_path: Path) -> None:
    seen = look(site / "index.html", width, tmp_path)
    assert seen["width"] == width
    assert seen["out"] == seen["requests"] == []


def test_published_markdown_is_whole_small_and_drops_what_is_stale(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    for stale in ("gone.md", "figures/gone-curve.svg"):
        (tmp_path / stale).write_text("")
    written = render_published([STUDIES / "whole", STUDIES / "truncated"], tmp_path)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(written)
    assert [path.name for path in written if path.suffix == ".md"] == ["README.md", "whole.md"]
    assert max(path.stat().st_size for path in written) < 150_000
    for page in (path for path in written if path.suffix == ".md"):
        leads = re.findall(r"(?<!\\)\]\(([^)]+)\)", page.read_text())
        assert leads
        assert all((tmp_path / lead).is_file() for lead in leads)
    assert "holds on synthetic-1" in (tmp_path / "README.md").read_text()


def test_command_takes_studies_and_runs_by_default_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert report.run([]) == 1
    assert "nothing in studies/ or runs/" in capsys.readouterr().err
    (tmp_path / "studies").symlink_to(STUDIES)
    (tmp_path / "runs").symlink_to(STUDIES / "runs")
    monkeypatch.setattr(report, "PUBLISHED", tmp_path / "published")
    assert report.run(["--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["page"] == "site/index.html"
    assert len([folder for folder in result["folders"] if folder.startswith("runs/")]) == 18
    assert report.run(["--published", "studies/whole"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "published" / "README.md")
    for none in ([], ["studies/truncated"]):  # by default those at the laptop preset, of which there is none
        assert report.run(["--published", *none]) == 1
        assert "no study to publish" in capsys.readouterr().err


def test_rendering_studies_does_not_import_torch() -> None:
    code = "import sys; from pathlib import Path; from reports.render import render_published, find;"
    code += f"find([Path({str(STUDIES / 'whole')!r})]); import reports.study_page; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
