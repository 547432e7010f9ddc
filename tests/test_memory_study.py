"""The traced study: its cells hold the rows, its verdict the paper's criterion."""

from typing import Any

import pytest

from ablations.memory import encoder_memory

GiB = 2**30


def row(mode: str, peak: float, **more: Any) -> dict[str, Any]:
    parts = {f"{name}_bytes": 0 for name in ("input", "parameters", "gradients", "optimizer", "detector")}
    base = {"mode": mode, "ratio": 1.0, "chunk": None, "batch": 4, "dtype": "float32", "snippets": 128, "flops": 4e12}
    return {**base, **parts, "peak_bytes": peak, "activations_bytes": peak, "share_of_full": peak / (40 * GiB), **more}


def study(*rows: dict[str, Any]) -> Any:
    about: dict[str, Any] = {
        "size": "128 x 3 x 16 x 112 x 112",
        "base": {},
        "command": "c",
        "environment": {"device": "d"},
    }
    return encoder_memory(rows, **about, started="", finished="")


@pytest.mark.parametrize(("peak", "word"), [(11.9, "reproduced"), (12.1, "not reproduced")])
def test_thirty_percent_decides(peak: float, word: str) -> None:
    sampled = row("sampled", peak * GiB, ratio=0.3, chunk=4, snippets=38)
    other = row("sampled", 1.0 * GiB, ratio=0.3, chunk=1, snippets=38)  # another chunk decides nothing
    made = study(row("full", 40 * GiB), other, sampled)
    (verdict,) = made.verdicts
    assert verdict.word == word
    assert f"{peak / 40:.1%}" in verdict.reason
    assert f"{peak / 4:.2f} GiB a video" in verdict.reason
    assert verdict.reason in made.answer


def test_what_was_not_traced_is_not_judged() -> None:
    (verdict,) = study(row("full", 40 * GiB)).verdicts
    assert verdict.word == "not run"


def test_cells_hold_the_rows() -> None:
    measured = row("sampled", 2 * GiB, ratio=0.3, chunk=4, measured_bytes=3 * GiB, workspace_bytes=GiB)
    made = study(row("full", 40 * GiB), measured)
    full, sampled = made.cells
    assert full.values["chunk"] == "all"
    assert made.axes["mode"] == ("full", "sampled")
    assert sampled.estimate("peak_memory").value == 2 * GiB
    assert sampled.estimate("flops").value == 1e12
    assert sampled.estimate("share_of_full").value == 5.0
    assert sampled.estimate("run_peak_memory").evidence == "measured"
    assert sampled.estimate("run_peak_memory").device == "d"
    assert full.estimate("run_peak_memory") is None
    assert len({cell.name for cell in made.cells}) == 2
