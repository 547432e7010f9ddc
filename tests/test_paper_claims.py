"""The paper's headline claims, judged from a record of the main job."""

from typing import Any

import pytest

from ablations.paper_claims import GiB, paper_claims
from etad.record import DataSummary, Figure, Record

CPU, GPU = "Some CPU, 1 thread", "NVIDIA H100"


def words(
    mark: str = "anet", mAP: float = 37.6, device: str = GPU, end_to_end: bool = False, **more: float
) -> dict[str, Any]:
    data = DataSummary(mark=mark, videos={}, segments={}, classes=200, flaws={}, policies={}, sources={})
    made: list[tuple[str, float, str, Any]] = [
        ("average_mAP", mAP, "%", "measured"),
        ("paper_schedule_projected_float32", more.get("seconds", 300.0), "s", "projected"),
        ("paper_peak_memory_float32", more.get("gib", 0.51) * GiB, "B", "traced"),
    ]
    figures = tuple(Figure(name=n, value=v, unit=u, evidence=e, device=device) for n, v, u, e in made)
    record = Record(
        name="r",
        status="done",
        started="",
        finished="",
        command="c",
        data=data,
        figures=figures,
        protocol={"videos": 4728},
    )
    outcome = paper_claims(record, end_to_end=end_to_end, preset="paper", base={}, runs="../../runs")
    return {verdict.claim: verdict for verdict in outcome.verdicts}


def test_what_was_not_run_says_so() -> None:
    found = words(mark="synthetic-1", device=CPU)
    assert {claim: verdict.word for claim, verdict in found.items()} == {
        "headline, features": "not run",
        "headline, end to end": "not run",
        "cheap training": "not applicable",
        "small memory": "reproduced",
        "state of the art": "as published",
    }
    assert "5.0 min projected" in found["cheap training"].reason
    assert found["headline, features"].runs == ()


@pytest.mark.parametrize(
    ("more", "claim", "word"),
    [
        ({"mAP": 37.48}, "headline, features", "reproduced"),
        ({"mAP": 37.47}, "headline, features", "not reproduced"),
        ({"mAP": 39.0, "end_to_end": True}, "headline, features", "not run"),
        ({"mAP": 38.0, "end_to_end": True}, "headline, end to end", "reproduced"),
        ({"mAP": 37.9, "end_to_end": True}, "headline, end to end", "not reproduced"),
        ({"seconds": 360.0}, "cheap training", "reproduced"),
        ({"seconds": 361.0}, "cheap training", "not reproduced"),
        ({"gib": 1.24}, "small memory", "not reproduced"),
    ],
)
def test_words(more: dict[str, Any], claim: str, word: str) -> None:
    verdict = words(**more)[claim]
    assert verdict.word == word
    assert any(c.isdigit() for c in verdict.reason) or word == "not run"
