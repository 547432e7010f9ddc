"""The study encoder_memory: what an end-to-end step keeps, judged on traced rows; no run is behind it. No torch, no I/O.

A row is one of `experiments.trace_memory --json`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ablations.outcome import CellOutcome, Estimate, StudyOutcome, Verdict

QUESTION = "What does gradient sampling save, against full backpropagation and activation checkpoints?"
SENTENCE = "memory more than 70 % below traditional end-to-end training"
MOST = 0.3  # of the full backward's peak
CONFIGURATION = {"batch": 4, "mode": "sampled", "ratio": 0.3, "chunk": 4}  # the paper's
DATA = "paper size"  # memory depends on no data
PARTS = ("input", "parameters", "gradients", "optimizer", "detector", "activations")
AXES = ("chunk", "mode", "ratio", "dtype", "batch")
GiB = 2**30

Row = Mapping[str, Any]


def _values(row: Row) -> dict[str, Any]:
    """As shown: full backpropagation takes all snippets at once."""
    return {axis: row[axis] if row[axis] is not None else "all" for axis in AXES}


def _cell(row: Row, size: str, device: str) -> CellOutcome:
    values = _values(row)
    size = f"a step of {row['batch']} videos of {size}, {row['dtype']}"
    traced = {"peak_memory": row["peak_bytes"], **{f"{part}_memory": row[f"{part}_bytes"] for part in PARTS}}
    estimates = [Estimate(name=n, value=v, unit="B", evidence="traced", note=size) for n, v in traced.items()]
    share = {"name": "share_of_full", "value": 100 * row["share_of_full"], "unit": "%"}
    estimates.append(Estimate(**share, evidence="traced", note="of full backpropagation's peak, same configuration"))
    a_video = row["flops"] / row["batch"]
    estimates.append(
        Estimate(name="flops", value=a_video, unit="FLOP", evidence="traced", note=f"of one video: {size}")
    )
    if row.get("measured_bytes") is not None:
        measured = {"run_peak_memory": row["measured_bytes"], "workspace_memory": row["workspace_bytes"]}
        estimates += [
            Estimate(name=n, value=v, unit="B", evidence="measured", device=device, note=size)
            for n, v in measured.items()
        ]
    return CellOutcome(
        name=", ".join(f"{axis}={value}" for axis, value in values.items()),
        values=values,
        differences={},
        seeds=(),
        runs=(),
        estimates=tuple(estimates),
    )


def _verdict(rows: Sequence[Row], dtype: str) -> Verdict:
    """The paper's claim in its own configuration."""
    fields = {
        "claim": f"gradient sampling memory, {dtype}",
        "sentence": SENTENCE,
        "source": "paper, arXiv v1 abstract",
        "criterion": (
            f"traced peak of a step (batch 4, chunk 4, 30 % of the snippets, {dtype}) at most {MOST:.0%} of full "
            "backpropagation's in the same configuration"
        ),
        "data": DATA,
        "metric": "peak_memory",
    }
    wanted = {**CONFIGURATION, "dtype": dtype}
    row = next((r for r in rows if all(r[k] == v for k, v in wanted.items())), None)
    if row is None:
        return Verdict(**fields, word="not run", reason="this configuration was not traced")
    share, video = row["share_of_full"], row["peak_bytes"] / row["batch"] / GiB
    return Verdict(
        **fields,
        word="reproduced" if share <= MOST else "not reproduced",
        reason=f"{share:.1%} of full backpropagation's peak, {video:.2f} GiB a video",
    )


def encoder_memory(
    rows: Sequence[Row],
    *,
    size: str,
    base: Mapping[str, Any],
    command: str,
    started: str,
    finished: str,
    environment: Mapping[str, str],
) -> StudyOutcome:
    """The study of traced rows; `size` is a video's, `base` the spec's differences from the defaults."""
    cells = tuple(_cell(row, size, environment.get("device", "")) for row in rows)
    axes = {axis: tuple(dict.fromkeys(cell.values[axis] for cell in cells)) for axis in AXES}
    verdicts = tuple(_verdict(rows, dtype) for dtype in dict.fromkeys(row["dtype"] for row in rows))
    told = [verdict.reason for verdict in verdicts if verdict.word != "not run"]
    return StudyOutcome(
        name="encoder_memory",
        question=QUESTION,
        answer=f"Sampling 30 % of the snippets in chunks of 4 keeps {'; '.join(told)}." if told else "Not traced.",
        preset="paper",
        data=DATA,
        base=dict(base),
        axes=axes,
        cells=cells,
        verdicts=verdicts,
        notes=(
            "peak_memory is that of the whole step: input, parameters, gradients, optimiser, detector, activations.",
            "checkpoint: activation checkpoints of one chunk each; forward twice and back, as sampling 100 % does.",
        ),
        runs=".",
        command=command,
        started=started,
        finished=finished,
        environment=dict(environment),
    )
