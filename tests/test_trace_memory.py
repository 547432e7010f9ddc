"""The command that traces memory: its rows, and what it says beside a GPU's figures."""

import json
from typing import Any

import pytest
import torch

from etad.footprint import Measured
from experiments import trace_memory

SMALL = [
    "--spec",
    "experiments/specs/end_to_end_smoke.yaml",
    "--ratio",
    "0",
    "0.3",
    "--chunk",
    "2",
    "--batch",
    "1",
    "2",
]
PARTS = ("input", "parameters", "gradients", "optimizer", "detector", "activations")


@pytest.fixture
def rows(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert trace_memory.run([*SMALL, "--dtype", "float32", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["rows"]  # type: ignore[no-any-return]


def test_rows_hold_every_combination_and_their_parts(rows: list[dict[str, Any]]) -> None:
    seen = [(r["batch"], r["mode"], r["ratio"], r["chunk"], r["snippets"]) for r in rows]
    each = [("full", 1.0, None, 16), ("checkpoint", 1.0, 2, 16), ("sampled", 0.0, 2, 0), ("sampled", 0.3, 2, 5)]
    assert seen == [(batch, *cell) for batch in (1, 2) for cell in each]
    for r in rows:
        assert r["peak_bytes"] == sum(r[f"{part}_bytes"] for part in PARTS)
        full = next(f for f in rows if f["mode"] == "full" and f["batch"] == r["batch"])
        assert r["share_of_full"] == r["peak_bytes"] / full["peak_bytes"]
    flops = {(r["batch"], r["mode"], r["ratio"]): r["flops"] for r in rows}
    assert flops[1, "full", 1.0] < flops[1, "checkpoint", 1.0]
    assert flops[1, "sampled", 0.0] < flops[1, "sampled", 0.3] < flops[1, "checkpoint", 1.0]
    assert flops[2, "sampled", 0.3] == 2 * flops[1, "sampled", 0.3]


def test_the_table_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert trace_memory.run([*SMALL, "--dtype", "bfloat16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "GiB a video" in lines[0]
    assert len(lines) == 1 + 2 + 8
    assert len({line.count("|") for line in lines[1:]}) == 1


def test_a_spec_of_features_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert trace_memory.run(["--spec", "experiments/specs/smoke.yaml"]) == 1
    assert "needs encoder and data.video" in capsys.readouterr().err


class OnGpu:
    tscale = 16

    def __init__(self, found: Measured | None):
        self.found = found

    def measure(self, mode: str, *, chunk: int, count: int) -> Measured | None:
        return self.found


def test_measured_figures_stand_beside_the_traced(rows: list[dict[str, Any]]) -> None:
    found: Any = OnGpu(Measured(allocated=1200, tensors=1000))
    made = trace_memory.with_measured({**rows[0], "peak_bytes": 950}, found)
    assert (made["measured_bytes"], made["workspace_bytes"], made["ratio_of_measured"]) == (1200, 200, 0.95)
    nothing: Any = OnGpu(None)
    assert trace_memory.with_measured(rows[0], nothing)["measured_bytes"] is None


def test_a_table_with_measured_figures(capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]]) -> None:
    pairs = [Measured(1200, 1000), None]
    fakes: list[Any] = [OnGpu(found) for found in pairs]
    both = [trace_memory.with_measured(r, fake) for r, fake in zip(rows[:2], fakes, strict=True)]
    trace_memory.show({"encoder": "e", "video": "v", "evidence": "traced", "rows": both})
    lines = capsys.readouterr().out.splitlines()
    assert len({line.count("|") for line in lines[1:]}) == 1
    assert "does not fit" in lines[-1]
    assert torch.cuda.is_available() or "traced / measured" in lines[1]
