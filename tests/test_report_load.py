"""Reading run folders, whole and broken, and the published figures."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from etad.spec import SpecError
from reports.load import Run, load_run, read_published
from reports.run_tables import counted, overview

RECORDS = Path(__file__).parent / "fixtures" / "records"


def test_a_finished_run_is_read_whole() -> None:
    run = load_run(RECORDS / "finished")
    assert run.problems == []
    assert run.record is not None
    assert run.mark == "synthetic-1"
    assert run.changed is not None
    assert run.changed["roi.bins"] == (16, 24)
    assert run.losses is not None
    assert list(run.losses.columns) == ["iteration", "epoch", "lr", "total", "boundary", "stage1", "stage2", "stage3"]
    assert [video.id for video in run.examples] == ["v_fixture01", "v_fixture02", "v_fixture03"]


@pytest.mark.parametrize(
    ("folder", "problem"),
    [
        ("truncated", "record.json: not a record ("),
        ("not_a_number", "record.json: not a record (figures.38.value: Input should be a finite number)"),
        ("other_version", "record.json: version 99, this suite reads 1; run it again"),
        ("nowhere", "no such folder"),
    ],
)
def test_a_broken_record_is_named(folder: str, problem: str) -> None:
    run = load_run(RECORDS / folder)
    assert run.record is None
    assert len(run.problems) == 1
    assert run.problems[0].startswith(problem)


def test_missing_files_of_a_finished_run_are_named_and_the_rest_is_read() -> None:
    assert load_run(RECORDS / "no_spec").problems == ["spec.yaml: missing"]
    run = load_run(RECORDS / "no_losses")
    assert run.problems == [f"{name}: missing" for name in ("losses.csv", "timings.csv", "examples.json")]
    assert run.record is not None


def test_a_failed_run_need_not_have_everything() -> None:
    run = load_run(RECORDS / "failed")
    assert run.problems == []
    assert run.record is not None
    assert run.record.status == "failed"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("losses.csv", b"", "losses.csv: cannot be read"),
        ("losses.csv", b"iteration,loss\n1,2\n", "losses.csv: no total"),
        ("losses.csv", b"iteration,total\n", "losses.csv: no rows"),
        ("losses.csv", b"\xff\xfe\x00\x80", "losses.csv: "),
        ("spec.yaml", b"roi: {binz: 3}", "spec.yaml: unknown key roi.binz"),
        ("spec.yaml", b"!!python/object/apply:os.system [true]", "spec.yaml: not a plain YAML file"),
        ("examples.json", b"[1, 2", "examples.json: "),
        ("examples.json", b'{"videos": [{"id": "a", "duration_s": NaN}]}', "examples.json: videos.0.duration_s"),
        ("examples.json", b'{"videos": [{"id": "a", "duration_s": 0}]}', "examples.json: videos.0.duration_s"),
    ],
)
def test_broken_files_are_named_and_left_out(name: str, content: bytes, problem: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(RECORDS / "finished", tmp_path / "run"))
    (folder / name).write_bytes(content)
    run = load_run(folder)
    assert run.record is not None
    assert len(run.problems) == 1
    assert run.problems[0].startswith(problem)
    assert str(tmp_path) not in run.problems[0]


def test_a_half_written_last_row_does_not_spoil_the_losses(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(RECORDS / "finished", tmp_path / "run"))
    with (folder / "losses.csv").open("a") as file:
        file.write("302,13,1e-")
    run = load_run(folder)
    assert run.problems == []
    assert run.losses is not None
    assert run.losses["total"].isna().sum() == 1


def test_a_figure_on_other_data_than_the_records_is_left_out(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(RECORDS / "finished", tmp_path / "run"))
    text = (folder / "record.json").read_text()
    old = '"name": "average_mAP",'
    at = text.index('"data": "synthetic-1"', text.index(old))
    (folder / "record.json").write_text(text[:at] + '"data": "anet"' + text[at + len('"data": "synthetic-1"') :])
    run = load_run(folder)
    assert run.problems == ["record.json: average_mAP states data anet, the record synthetic-1; left out"]
    assert run.figure("average_mAP") is None


def test_published_figures_are_those_that_were_verified() -> None:
    found = {(r.method, r.source, r.data, r.setting): r.mAP for r in read_published().figures}
    assert len(found) == len(read_published().figures)  # no row stands twice
    assert found["ETAD", "paper, arXiv v1 abstract", "anet", "features"] == {"average": 37.78}
    assert found["ETAD", "paper, CVPRW abstract", "anet", "end to end"] == {"average": 38.25}
    assert found["ETAD", "authors' repository", "anet", "features (TSP)"] == {
        "0.50": 54.96,
        "0.75": 39.06,
        "0.95": 9.21,
        "average": 37.80,
    }
    etad = found["ETAD", "OpenTAD", "thumos", "features (I3D)"]
    five = [etad[t] for t in ("0.30", "0.40", "0.50", "0.60", "0.70")]
    assert sum(five) / 5 == pytest.approx(etad["average"], abs=0.01)


@pytest.mark.parametrize(
    "text",
    ["figures: !!python/object/apply:os.getcwd []", "figures: [{method: A}]", "figures: []\nfigures: []", "guessed: 1"],
)
def test_a_published_file_of_another_layout_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "published.yaml").write_text(text)
    with pytest.raises(SpecError, match=r"published\.yaml"):
        read_published(tmp_path / "published.yaml")


def test_runs_judged_on_other_ground_truth_are_not_compared_silently() -> None:
    """One note where a protocol names the version of the test set, another where two differ."""
    run = load_run(RECORDS / "finished")
    assert run.record is not None

    def judged(name: str, **changed: object) -> Run:
        protocol = {**run.record.protocol, **changed}
        return replace(run, record=run.record.model_copy(update={"name": name, "protocol": protocol}))

    assert counted([run, judged("again")]) == ()
    known = "thumos14 test, 3,358 instances in 213 videos: all as annotated"
    assert counted([judged("one", version=known)]) == (f"Judged on {known}.",)
    (note,) = counted([judged("one", version=known), judged("two", ground_truths=3332)])
    assert note.startswith("Not judged on the same ground truth")
    assert f"one: {known}" in note
    assert "two: 3332 instances" in note
    assert overview([judged("one"), judged("two", ground_truths=1)], ["", ""]).notes
