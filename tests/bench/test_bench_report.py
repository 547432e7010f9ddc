"""Rendering a report of 200 runs and seven studies. The bound of 10 s is for two quiet cores, start-up included.

Run as a command of its own, so that imports count. The runs are copies of the tests' fixture, with 146 logged rows and
three videos each; the studies are copies of the whole one.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
RUNS, STUDIES = 185, 7  # the studies bring 15 runs more


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many")
    shutil.copytree(FIXTURES / "studies" / "runs", root / "runs")
    for broken in ("none", "lstm", "gru"):
        shutil.rmtree(root / "runs" / f"fixture-{broken}-0")
    for n in range(RUNS):
        shutil.copytree(FIXTURES / "records" / "finished", root / "runs" / f"run-{n:03}")
    for n in range(STUDIES):
        tree = json.loads((FIXTURES / "studies" / "whole" / "study.json").read_text())
        (root / "studies" / f"study-{n}").mkdir(parents=True)
        (root / "studies" / f"study-{n}" / "study.json").write_text(
            json.dumps({**tree, "name": f"study-{n}", "runs": "../../runs"})
        )
    return root


def test_everything_from_200_runs(benchmark, many: Path) -> None:  # type: ignore[no-untyped-def]
    def render() -> None:
        shutil.rmtree(many / "site", ignore_errors=True)
        code = "import sys; from experiments.report import run; sys.exit(run([]))"
        path = str(FIXTURES.parent.parent)
        subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r}); {code}"], cwd=many, check=True
        )

    benchmark.pedantic(render, rounds=3, warmup_rounds=1)
    assert len(list((many / "site").rglob("index.html"))) == 1 + RUNS + 15 + STUDIES
    benchmark.extra_info["seconds"] = benchmark.stats["min"]
