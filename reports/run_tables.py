"""What a run's page says: its tables and the sentence on top, made from the record alone."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etad.record import Figure
from reports.load import Run
from reports.table import Cell, Column, Table, words

MEMORY = ("run_peak_memory", "peak_memory")  # measured where CUDA is, traced elsewhere
COSTS = {  # what it is called on the page -> figures, the first that the record has
    "training time": ("training_time",),
    "time an epoch": ("epoch_time",),
    "time a step": ("step_time",),
    "waiting for data (%)": ("data_wait",),
    "detection time": ("detect_time",),
    "peak memory, this run's size": MEMORY,
    "peak memory, paper's size, float32": ("paper_peak_memory_float32",),
    "peak memory, paper's size, bfloat16": ("paper_peak_memory_bfloat16",),
    "paper's full schedule, float32": ("paper_schedule_projected_float32", "paper_schedule_projected"),
    "paper's full schedule, bfloat16": ("paper_schedule_projected_bfloat16",),
    "FLOP a step and video": ("flops",),
    "FLOP a step and video, paper's size": ("paper_flops_video_float32", "flops_step_video"),
    "parameters": ("parameters",),
}
FLOOR_IS = "five fixed windows a video"
CEILING_IS = "the true segments before annotation jitter"


def cell(run: Run, *names: str) -> Cell:
    """The first of these figures that the run has, or an empty cell."""
    found = run.figure(*names)
    if found is None:
        return Cell()
    note = "; ".join(part for part in (found.note, found.device or "") if part)
    return Cell(found.value, found.unit, found.evidence, runs=(run.name,), data=run.mark, note=note)


def thresholds(runs: Sequence[Run]) -> list[str]:
    """The tIoU thresholds, as "0.50", that any of the runs has an mAP at."""
    names = {f.name for run in runs if run.record for f in run.record.figures}
    return sorted(m.group(1) for name in names if (m := re.fullmatch(r"mAP@(\d\.\d+)", name)))


def bounded(run: Run) -> bool:
    """Whether its mAPs must stand between floor and ceiling: made-up data."""
    return run.synthetic or run.figure("average_mAP_floor", "average_mAP_ceiling") is not None


def accuracy(run: Run) -> Table:
    """mAP at each tIoU and their average; on made-up data with floor and ceiling beside each."""
    kinds = ["", "_floor", "_ceiling"] if bounded(run) else [""]
    lines = [(tiou, f"mAP@{tiou}") for tiou in thresholds([run])] + [("average", "average_mAP")]
    return Table(
        "accuracy",
        f"Accuracy on {run.mark or 'unnamed data'}",
        (Column("tIoU", numeric=False), *(Column(t, "%") for t in ("mAP", "floor", "ceiling")[: len(kinds)])),
        tuple((words(head), *(cell(run, name + kind) for kind in kinds)) for head, name in lines),
        strong=(len(lines) - 1,),
        notes=(f"Floor: {FLOOR_IS}. Ceiling: {CEILING_IS}.",) if bounded(run) else (),
    )


def proposals(run: Run) -> Table | None:
    """Recall of the proposals: AR at each AN, and the area; None where the record has none."""
    names = [f.name for f in run.record.figures if f.name.startswith("AR")] if run.record else []
    rows = tuple((words("area under AR@AN" if n == "AR_area" else n), cell(run, n)) for n in names)
    columns = (Column("proposals a video", numeric=False), Column("average recall", "%"))
    return Table("proposals", "Recall of the proposals", columns, rows) if rows else None


def costs(run: Run) -> Table:
    """Time, memory, FLOPs and parameters, each with where it comes from."""
    rows = []
    held = {f.name for f in run.record.figures} if run.record else set()
    for title, names in COSTS.items():
        if names[0].startswith("paper") and not any(name.startswith("paper") for name in held):
            continue  # not asked of this run
        found = run.figure(*names)
        about = "; ".join(x for x in (found.note, f"on {found.device}" if found.device else "") if x) if found else ""
        rows.append((words(title), cell(run, *names), words(about) if about else Cell()))
    heads = (Column("figure", numeric=False), Column("value"), Column("of what, where", numeric=False))
    return Table("costs", "Time and memory", heads, tuple(rows))


def all_figures(run: Run, shown: bool = True) -> Table:
    """Every figure of the record as it stands there; without `shown`, those that no other table has."""
    figures: Sequence[Figure] = run.record.figures if run.record else ()
    if not shown:
        costs_of = {name for names in COSTS.values() for name in names}
        figures = [f for f in figures if f.name not in costs_of and not re.match(r"mAP@|average_mAP|AR", f.name)]
    return Table(
        "figures",
        "All figures of the record" if shown else "Other figures",
        (
            Column("figure", numeric=False),
            Column("value"),
            Column("data", numeric=False),
            Column("device", numeric=False),
            Column("note", numeric=False),
        ),
        tuple(
            (
                words(f.name),
                Cell(f.value, f.unit, f.evidence, runs=(run.name,)),
                *(words(text) if text else Cell() for text in (f.data, f.device, f.note)),
            )
            for f in figures
        ),
    )


def counted(runs: Sequence[Run]) -> tuple[str, ...]:
    """Notes: the version of a test set that the runs were judged on; that they were judged on different ground truth."""
    judged: dict[str, list[str]] = {}
    for run in runs:
        protocol = run.record.protocol if run.record else {}
        if protocol:
            plain = f"{protocol.get('ground_truths')} instances in {protocol.get('videos')} videos"
            truth = protocol.get("version") or f"{plain} of annotations {str(protocol.get('annotations_sha256'))[:8]}"
            judged.setdefault(truth, []).append(run.name)
    if len(judged) > 1:
        each = "; ".join(f"{', '.join(names)}: {truth}" for truth, names in judged.items())
        return (f"Not judged on the same ground truth, and not to be compared: {each}.",)
    versions = {run.record.protocol["version"] for run in runs if run.record and "version" in run.record.protocol}
    return tuple(f"Judged on {version}." for version in versions)


def overview(runs: Sequence[Run], links: Sequence[str]) -> Table:
    """One row a run, for runs on the same data; `links` lead to their pages."""
    bounds = any(bounded(run) for run in runs)
    names = ["average_mAP", *(("average_mAP_floor", "average_mAP_ceiling") if bounds else ())]
    figures = [Column(head, "%") for head in ("average mAP", "floor", "ceiling")[: len(names)]]
    words_first = [Column(title, numeric=False) for title in ("run", "state")]
    mark = runs[0].mark or "unnamed data"
    return Table(
        f"overview-{mark}",
        f"Runs on {mark}",
        (*words_first, *figures, Column("training", "s"), Column("memory", "B")),
        tuple(
            (
                words(r.name, href=link),
                words(r.record.status if r.record else ""),
                *(cell(r, name) for name in (*names, "training_time")),
                cell(r, *MEMORY),
            )
            for r, link in zip(runs, links, strict=True)
        ),
        notes=counted(runs),
    )


def plain(value: Any) -> str:
    """A value of a spec as it reads best."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(v, (str, int, float)) for v in value):
        return ", ".join(map(str, value)) or "none"
    return json.dumps(value, ensure_ascii=False)


def pairs(name: str, title: str, tree: Mapping[str, Any], head: str = "what") -> Table:
    """A mapping as two columns; mappings inside it become dotted names."""

    def flat(tree: Mapping[str, Any], path: str = "") -> list[tuple[Cell, Cell]]:
        out: list[tuple[Cell, Cell]] = []
        for key, value in tree.items():
            inner = isinstance(value, Mapping) and value
            out += flat(value, f"{path}{key}.") if inner else [(words(f"{path}{key}"), words(plain(value)))]
        return out

    return Table(name, title, (Column(head, numeric=False), Column("value", numeric=False)), tuple(flat(tree)))


def data_tables(run: Run) -> list[Table]:
    """Videos and segments by subset, the flaws found with what was done, and the sources."""
    data = run.record.data if run.record else None
    if data is None:
        return []
    subsets = [*data.videos, *(s for s in data.segments if s not in data.videos)]
    counts = Table(
        "data",
        "Videos and segments used",
        (Column("subset", numeric=False), Column("videos"), Column("segments")),
        tuple((words(s), Cell(data.videos.get(s)), Cell(data.segments.get(s))) for s in subsets),
        notes=(f"{data.classes} classes.",),
    )
    kinds = [*data.flaws, *(k for k in data.policies if k not in data.flaws)]
    flaws = Table(
        "flaws",
        "Flaws found in the files",
        (Column("flaw", numeric=False), Column("found"), Column("what was done", numeric=False)),
        tuple((words(k), Cell(data.flaws.get(k)), words(data.policies.get(k, "–"))) for k in kinds),
    )
    return [t for t in (counts, flaws, pairs("sources", "Sources of the data", data.sources, "source")) if t.rows]


def changed(run: Run) -> Table | None:
    """The knobs that differ from the defaults; None where the spec could not be read."""
    if run.changed is None:
        return None
    return Table(
        "spec",
        "Differences from the default spec",
        (Column("knob", numeric=False), Column("here", numeric=False), Column("default", numeric=False)),
        tuple(
            (words(knob), words(plain(here)), words("–" if old is None else plain(old)))
            for knob, (here, old) in run.changed.items()
        ),
    )


def tested(run: Run) -> str:
    """The subset that was evaluated."""
    videos = run.record.data.videos if run.record and run.record.data else {}
    said = str(run.record.protocol.get("subset", "")) if run.record else ""
    return said if said in videos else next((s for s in ("validation", "test") if s in videos), next(iter(videos), ""))


def headline(run: Run, beside: Sequence[str | Cell] | None) -> list[str | Cell]:
    """The answer in a paragraph: data, accuracy with its bounds, time, memory.

    beside: how it compares with published figures on the same data; None where there are none.
    """
    data = run.record.data if run.record else None
    subset = tested(run)
    count = f" ({data.videos.get(subset, 0):,} {subset} videos, {data.classes} classes)" if data else ""
    made_up = ", a made-up set" if bounded(run) else ""
    out: list[str | Cell] = [
        f"On {run.mark or 'data without a name'}{made_up}{count}, the detector reaches an average mAP of "
    ]
    out.append(cell(run, "average_mAP"))
    if bounded(run):
        out += ["; the floor is ", cell(run, "average_mAP_floor"), f" ({FLOOR_IS}) and the ceiling "]
        out += [cell(run, "average_mAP_ceiling"), f" ({CEILING_IS})"]
    out += [", ", *beside] if beside else []
    time = run.figure("training_time")
    out += [". Training took ", cell(run, "training_time"), f" on {time.device}" if time and time.device else ""]
    peak = cell(run, *MEMORY)
    out += [". "] if peak.missing else [" and peaks at ", peak, " of memory. "]
    traced = [
        ("float32", cell(run, "paper_peak_memory_float32")),
        ("bfloat16", cell(run, "paper_peak_memory_bfloat16")),
    ]
    known = [(name, c) for name, c in traced if not c.missing]
    if known:
        out.append("A training step of the paper's size peaks at ")
        for i, (name, c) in enumerate(known):
            out += [" and " if i else "", c, f" in {name}"]
        out.append(". ")
    if bounded(run):
        out.append("A figure on made-up data is a property of its generator too; none is compared with published ones.")
    elif beside is None:
        out.append("No published figures stand for this set.")
    return out


def tiles(run: Run) -> list[tuple[str, Cell]]:
    """The figures to see first."""
    own = [
        ("average mAP", cell(run, "average_mAP")),
        ("training time", cell(run, "training_time")),
        ("peak memory, this run", cell(run, *MEMORY)),
    ]
    paper = [
        ("peak memory, paper's size", cell(run, "paper_peak_memory_float32")),
        ("paper's full schedule", cell(run, *COSTS["paper's full schedule, float32"])),
    ]
    return own if all(one.missing for _, one in paper) else own + paper
