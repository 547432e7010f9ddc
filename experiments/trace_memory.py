"""Memory of an end-to-end training step at the paper's size: traced on any machine, measured too where there is a GPU."""

import argparse
import gc
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.memory import encoder_memory
from etad.record import now, write_json
from etad.spec import Spec, SpecError, differences, merge, parse_overrides, parse_spec, read_tree
from experiments.command import main, parser
from experiments.progress import bar

if TYPE_CHECKING:
    from etad.footprint import Mode, Steps

PAPER = Path(__file__).parent / "specs" / "end_to_end_paper.yaml"
RATIOS, CHUNKS = (0.0, 0.1, 0.3, 0.5, 1.0), (1, 2, 4, 8, 16)
PRECISIONS, BATCHES = ("float32", "bfloat16"), (1, 4)
GiB = 2**30


def cells(ratios: Sequence[float], chunks: Sequence[int]) -> Iterator[tuple["Mode", float, int | None]]:
    """Mode, ratio of the snippets that go back, and chunk; full backpropagation has none."""
    yield "full", 1.0, None
    yield from (("checkpoint", 1.0, chunk) for chunk in chunks)
    yield from (("sampled", ratio, chunk) for ratio in ratios for chunk in chunks)


def resolved(spec_file: Path, overrides: Sequence[str], precision: str, batch: int) -> Spec:
    """Raises SpecError where the spec is of features."""
    size = parse_overrides([f"training.precision={precision}", f"training.batch={batch}"])
    spec = parse_spec(merge(merge(read_tree(spec_file), parse_overrides(overrides)), size), str(spec_file))
    if spec.encoder is None or spec.data.video is None:
        raise SpecError(f"{spec_file}: memory is traced end to end: this spec needs encoder and data.video")
    return spec


def steps(spec: Spec, device: Any = None) -> "Steps":
    """Steps of the spec's size, traced, or on a device."""
    from etad import build
    from etad.footprint import Made, Steps

    assert spec.data.video is not None

    def make() -> Made:
        model = build.build_training(spec, build.build_detector(spec), ())
        model = model if device is None else model.to(device)
        return model, build.build_optimizer(spec, model)  # type: ignore[return-value]

    shown = spec.data.video
    return Steps(
        make,
        videos=spec.training.batch,
        tscale=spec.data.tscale,
        clip=(shown.frames, shown.size, shown.size),
        dtype=build.DTYPES[spec.training.precision],
        device=device,
    )


def row(spec: Spec, made: "Steps", mode: "Mode", ratio: float, chunk: int | None) -> dict[str, Any]:
    from etad.gradients import snippet_count

    assert spec.encoder is not None
    count = snippet_count(spec.data.tscale, ratio, spec.encoder.rounding, chunk or 1)
    found = made.trace(mode, chunk=chunk or spec.data.tscale, count=count)
    return {
        "mode": mode,
        "ratio": ratio,
        "snippets": count,
        "chunk": chunk,
        "batch": spec.training.batch,
        "dtype": spec.training.precision,
        "peak_bytes": found.parts.peak,
        **{f"{name}_bytes": value for name, value in asdict(found.parts).items()},
        "flops": found.flops,
    }


def with_measured(entry: dict[str, Any], made: "Steps") -> dict[str, Any]:
    """The row with what the GPU gave out; `ratio_of_measured` is traced to measured without the libraries' workspace."""
    chunk = entry["chunk"] or made.tscale
    found = made.measure(entry["mode"], chunk=chunk, count=entry["snippets"])
    if found is None:
        return {**entry, "measured_bytes": None, "workspace_bytes": None, "ratio_of_measured": None}
    return {
        **entry,
        "measured_bytes": found.allocated,
        "workspace_bytes": found.workspace,
        "ratio_of_measured": entry["peak_bytes"] / found.tensors,
    }


def with_share(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row with its peak as a share of full backpropagation's in the same configuration."""
    full = {(r["batch"], r["dtype"]): r["peak_bytes"] for r in rows if r["mode"] == "full"}
    return [{**r, "share_of_full": r["peak_bytes"] / full[r["batch"], r["dtype"]]} for r in rows]


def table(args: argparse.Namespace) -> list[dict[str, Any]]:
    import torch

    gpu = torch.device("cuda") if torch.cuda.is_available() and not args.traced_only else None
    rows, wanted = [], list(cells(args.ratio, args.chunk))
    sizes = [(precision, batch) for precision in args.dtype for batch in args.batch]
    with bar("tracing") as advance:
        for precision, batch in sizes:
            spec = resolved(args.spec, args.set, precision, batch)
            real = None
            gc.collect()  # the last size's model leaves the GPU: what lies there counts
            traced, real = steps(spec), steps(spec, gpu) if gpu else None
            for cell in wanted:
                made = row(spec, traced, *cell)
                rows.append(with_measured(made, real) if real else made)
                advance(len(rows), len(wanted) * len(sizes), f"{precision}, batch {batch}, {cell[0]}")
    return with_share(rows)


def work(args: argparse.Namespace) -> dict[str, Any]:
    spec, started = resolved(args.spec, args.set, "float32", 1), now()
    shown = spec.data.video
    assert shown is not None
    assert spec.encoder is not None
    size = f"{spec.data.tscale} x 3 x {shown.frames} x {shown.size} x {shown.size}"
    rows = table(args)
    made = {"encoder": spec.encoder.network.name, "video": size, "evidence": "traced", "rows": rows}
    if args.study:
        import torch

        from etad.measure import environment

        outcome = encoder_memory(
            rows,
            size=size,
            base=differences(spec),
            command=f"python -m experiments.trace_memory {shlex.join(args.typed)}",
            started=started,
            finished=now(),
            environment=environment(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        )
        write_json(args.study / "study.json", outcome.model_dump(mode="json"))
        made["study"] = str(args.study)
    return made


def show(result: dict[str, Any]) -> None:
    print(
        f"{result['encoder']} and detector, a video of {result['video']}; GiB a video, of the whole step; {result['evidence']}"
    )
    names = ("input", "parameters", "gradients", "optimizer", "detector", "activations")
    measured = "measured_bytes" in result["rows"][0]
    head = ["dtype", "batch", "mode", "ratio", "chunk", "peak", *names, "of full", "TFLOP"]
    head += ["measured", "workspace", "traced / measured"] if measured else []
    print("| " + " | ".join(head) + " |")
    print("|---" * len(head) + "|")
    for r in result["rows"]:
        ratio = "-" if r["mode"] != "sampled" else f"{r['ratio']:.0%}"
        sizes = [f"{r[f'{name}_bytes'] / r['batch'] / GiB:.2f}" for name in ("peak", *names)]
        cells = [r["dtype"], str(r["batch"]), r["mode"], ratio, str(r["chunk"] or "-"), *sizes]
        cells += [f"{r['share_of_full']:.1%}", f"{r['flops'] / r['batch'] / 1e12:.1f}"]
        if measured and r["measured_bytes"] is not None:
            per_video = [f"{r[k] / r['batch'] / GiB:.2f}" for k in ("measured_bytes", "workspace_bytes")]
            cells += [*per_video, f"{r['ratio_of_measured']:.2f}"]
        elif measured:
            cells += ["does not fit", "-", "-"]
        print("| " + " | ".join(cells) + " |")


def run(argv: Sequence[str] | None = None) -> int:
    made = parser(
        "experiments.trace_memory",
        "Trace the memory and count the FLOPs of end-to-end training steps: full backpropagation, activation checkpoints,\n"
        "gradient sampling. Takes a minute or two; nothing of that size is allocated, unless there is a GPU to measure on.",
        "python -m experiments.trace_memory --json > memory.json",
    )
    made.add_argument("--spec", type=Path, default=PAPER, help="encoder, detector and size (default: the paper's)")
    made.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help="override a knob of the spec")
    made.add_argument("--ratio", type=float, nargs="+", default=RATIOS, help="shares of the snippets that go back")
    made.add_argument("--chunk", type=int, nargs="+", default=CHUNKS, help="snippets of each video at once")
    made.add_argument("--dtype", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    made.add_argument("--batch", type=int, nargs="+", default=BATCHES, help="videos a step")
    made.add_argument("--traced-only", action="store_true", help="do not measure, GPU or not")
    made.add_argument(
        "--study", type=Path, help="write the study encoder_memory into this folder, for experiments.report"
    )
    made.set_defaults(typed=list(sys.argv[1:] if argv is None else argv))
    return main(made, work, show, argv)


if __name__ == "__main__":
    sys.exit(run())
