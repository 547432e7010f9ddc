"""The paper's claims that one run of the main job can judge, or name as not run. No torch, no I/O."""

from collections.abc import Mapping
from typing import Any

from ablations.outcome import StudyOutcome, Verdict
from etad.record import Record

FEATURES, END_TO_END, TOLERANCE = 37.78, 38.25, 0.3  # average mAP on ActivityNet-1.3, and how far below still counts
SECONDS, GIGABYTES = 360.0, 1.23  # of training on features
GiB = 2**30
ABSTRACT = "paper, abstract"
MARK = "anet"


def _verdict(claim: str, sentence: str, criterion: str, word: Any, reason: str, record: Record, **more: Any) -> Verdict:
    return Verdict(
        claim=claim,
        sentence=sentence,
        source=ABSTRACT,
        criterion=criterion,
        word=word,
        reason=reason,
        data=more.pop("data", MARK),
        runs=(record.name,) if word in ("reproduced", "not reproduced") else (),
        **more,
    )


def _headline(record: Record, end_to_end: bool, *, there: bool, videos: int) -> Verdict:
    """`there`: the record is of this kind and at the paper's size."""
    wanted = END_TO_END if end_to_end else FEATURES
    kind = "end to end" if end_to_end else "features"
    criterion = f"average mAP on ActivityNet-1.3 at least {wanted} - {TOLERANCE}"
    mark = record.data.mark if record.data else ""
    found = record.figure("average_mAP")
    if mark != MARK or not there or found is None or found.value is None:
        needed = "end to end, on its videos" if end_to_end else "on its features"
        reason = f"ActivityNet-1.3 was not run {needed} at the paper's size"
        return _verdict(f"headline, {kind}", f"{wanted} average mAP", criterion, "not run", reason, record)
    word = "reproduced" if found.value >= round(wanted - TOLERANCE, 2) else "not reproduced"
    reason = f"{found.value:.2f} on {videos:,} videos, one seed"
    return _verdict(
        f"headline, {kind}", f"{wanted} average mAP", criterion, word, reason, record, videos=videos, seeds=1
    )


def _cheap(record: Record) -> Verdict:
    figure = record.figure("paper_schedule_projected_float32")
    criterion = "the schedule of ActivityNet-1.3 (10,024 videos x 6 epochs, batch 16, float32) within 6 min on a GPU"
    fields = ("cheap training", "6 minutes of training", criterion)
    if figure is None or figure.value is None:
        return _verdict(*fields, "not run", "no step was timed", record, data="paper size")
    projected = f"{figure.value / 60:.1f} min projected from steps on {figure.device}"
    if "thread" in (figure.device or "thread"):
        return _verdict(*fields, "not applicable", f"no GPU here: {projected}", record, data="paper size")
    word = "reproduced" if figure.value <= SECONDS else "not reproduced"
    return _verdict(*fields, word, projected, record, data="paper size")


def _small(record: Record) -> Verdict:
    criterion = f"peak memory of that training (batch 16, float32) at most {GIGABYTES} GiB"
    fields = ("small memory", f"{GIGABYTES} GB of memory", criterion)
    figure = record.figure("paper_peak_memory_float32")
    if figure is None or figure.value is None:
        return _verdict(*fields, "not run", "no step was traced", record, data="paper size")
    word = "reproduced" if figure.value <= GIGABYTES * GiB else "not reproduced"
    return _verdict(*fields, word, f"{figure.value / GiB:.2f} GiB {figure.evidence}", record, data="paper size")


def paper_claims(record: Record, *, end_to_end: bool, preset: str, base: Mapping[str, Any], runs: str) -> StudyOutcome:
    """The outcome of one record of the main job; `runs` is the runs' folder, relative to the study's."""
    videos = int(record.protocol.get("videos", 0))
    headlines = [
        _headline(record, kind, there=preset == "paper" and kind == end_to_end, videos=videos) for kind in (False, True)
    ]
    published = _verdict(
        "state of the art",
        "state of the art as of 2023",
        "the published table",
        "as published",
        "nothing to run: the table of published figures stands beside",
        record,
    )
    verdicts = (*headlines, _cheap(record), _small(record), published)
    told = "; ".join(f"{v.claim}: {v.word}" for v in verdicts)
    return StudyOutcome(
        name="paper_claims",
        question="Do the paper's headline figures hold?",
        answer=f"{told}.",
        preset=preset,
        data=record.data.mark if record.data else MARK,
        base=dict(base),
        axes={},
        cells=(),
        verdicts=verdicts,
        notes=("Claims about values of a design choice are judged by their studies.",),
        runs=runs,
        command=record.command,
        started=record.started,
        finished=record.finished,
        environment=record.environment,
    )
