"""The main job: train, detect, evaluate, measure at the paper's size, and render the report."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.paper_claims import paper_claims
from etad.record import Figure, Record, write_json, write_record
from etad.spec import Spec, differences, merge, parse_overrides, parse_spec, read_spec, read_tree
from experiments.command import Misuse, main, parser
from experiments.keys import run_folder
from experiments.pretrain import start_encoder
from experiments.progress import bar, say
from experiments.reproduce_videos import end_to_end_spec
from experiments.reproduce_videos import paper_figures as paper_end_to_end
from experiments.run import run_in

if TYPE_CHECKING:
    from etad.measure import StepMemory

SPECS = Path(__file__).parent / "specs"
RUNS, CLAIMS = Path("runs"), Path("studies") / "paper_claims"


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's specs by preset, and what its full schedule trains on."""

    specs: dict[str, str]
    rows: int
    row: str

    def spec(self, preset: str, *overrides: str) -> Spec:
        return read_spec(SPECS / self.specs[preset], overrides)


BENCHMARKS = {
    "anet": Benchmark(
        {"smoke": "smoke.yaml", "laptop": "laptop.yaml", "paper": "paper.yaml"},
        rows=10_024,  # Source: METHOD 8, ActivityNet-1.3's training subset
        row="videos",
    ),
    "thumos": Benchmark(
        {"smoke": "thumos_smoke.yaml", "laptop": "thumos_laptop.yaml", "paper": "thumos_i3d.yaml"},
        rows=2_440,  # of the 4,796 windows of the 200 training videos, those with a segment
        row="windows",
    ),
}


def paper_figures(benchmark: Benchmark, spec: Spec, steps: int, timed: int) -> list[Figure]:
    """Memory of a step at the paper's size, traced; the full schedule's time, from a few steps of `timed` rows.

    Measured on the device of `spec`.
    """
    from etad import build, measure, processes  # torch takes seconds to import

    processes.make_ready(spec.runtime.threads)
    device = build.build_device(spec)
    where, figures = measure.device_name(device), []
    with bar("measuring at the paper's size") as advance:
        for n, precision in enumerate(("float32", "bfloat16")):
            paper, dtype = benchmark.spec("paper", f"training.precision={precision}"), build.DTYPES[precision]
            data, videos = paper.data, paper.training.batch
            size = f"T {data.tscale}, C {data.channels}, batch {videos}, {precision}"
            traced = measure.trace_step(
                partial(build.build_step, paper), videos=videos, tscale=data.tscale, channels=data.channels, dtype=dtype
            )
            advance(2 * n + 1, 4, f"traced {precision}")
            made = build.build_step(paper, device)
            batch = measure.made_up_batch(timed, data.tscale, data.channels, device)
            with measure.watch_cores(device) as busy:
                seconds = measure.step_seconds(made, batch, dtype, steps=steps)
            measured_size = "; ".join((f"T {data.tscale}, C {data.channels}, batch {timed}, {precision}", *busy))
            epochs = paper.training.epochs
            schedule = seconds / timed * videos * (benchmark.rows // videos) * epochs
            advance(2 * n + 2, 4, f"timed {precision}")
            for why in busy:
                say(f"the projected time is too long: {why}")
            figures += _traced_figures(traced, videos, precision, size)
            figures += [
                Figure(
                    name=f"paper_step_time_{precision}",
                    value=seconds,
                    unit="s",
                    evidence="measured",
                    device=where,
                    note=measured_size,
                ),
                Figure(
                    name=f"paper_schedule_projected_{precision}",
                    value=schedule,
                    unit="s",
                    evidence="projected",
                    device=where,
                    note=f"{benchmark.rows:,} {benchmark.row} x {epochs} epochs from {steps} steps at {measured_size}",
                ),
            ]
    return figures


def _traced_figures(traced: "StepMemory", videos: int, precision: str, size: str) -> list[Figure]:
    note = f"{size}; the LSTM kernels' own workspace apart"
    parts = ("peak", "parameters", "gradients", "optimizer", "activations")
    values = [
        *((f"paper_{part}_memory_{precision}", getattr(traced, part), "B", note) for part in parts),
        (f"paper_flops_video_{precision}", traced.flops / videos, "FLOP", size),
    ]
    return [Figure(name=n, value=v, unit=u, evidence="traced", note=text) for n, v, u, text in values]


def chosen_spec(args: argparse.Namespace) -> Spec:
    """The preset, on the user's files where given. Raises Misuse where files that belong together are missing."""
    if args.end_to_end:
        return end_to_end_spec(args)
    if args.videos or args.checkpoint:
        raise Misuse("--videos and --checkpoint go with --end-to-end")
    preset = args.preset or ("paper" if args.features else "laptop")
    tree = read_tree(SPECS / BENCHMARKS[args.benchmark].specs[preset])
    if args.features:
        if not args.annotations:
            raise Misuse("--features needs --annotations, the ground truth in the ActivityNet layout")
        given: dict[str, Any] = {
            "mark": args.mark or args.benchmark,
            "features": str(args.features),
            "annotations": str(args.annotations),
        }
        if args.classifier:
            given["classifier"] = str(args.classifier)
        if (args.features / "index.json").exists():
            source = {"name": "packed", "args": given}
        else:
            source = {
                "name": "features",
                "args": {**given, "pattern": args.pattern or "v_{id}.npy", "layout": args.layout},
            }
        tree = merge(tree, {"name": f"{args.benchmark}-{preset}", "data": {"source": source, "missing": args.missing}})
        if args.blocked:
            tree = merge(tree, {"evaluation": {"blocked": args.blocked}})
    elif args.annotations or args.classifier or args.blocked:
        raise Misuse("--annotations, --classifier and --blocked go with --features DIR")
    return parse_spec(merge(tree, parse_overrides([f"training.seed={args.seed}", *args.set])), f"preset {preset}")


def work(args: argparse.Namespace) -> dict[str, Any]:
    spec = chosen_spec(args)
    say(f"run: {run_folder(spec, RUNS)}")
    typed = args.typed[2:] if args.typed[:2] == ["--benchmark", args.benchmark] else args.typed
    words = f"nox -s reproduce_{args.benchmark}" + (f" -- {shlex.join(typed)}" if typed else "")
    if args.end_to_end and not args.checkpoint:
        start_encoder(spec)
    folder, record = run_in(RUNS, spec, words)
    if record.figure("paper_peak_memory_float32") is None:
        added = _at_papers_size(args, spec)
        record = record.model_copy(update={"figures": (*record.figures, *added)})
        write_record(folder, record)
    if args.preset != "smoke" and args.benchmark == "anet":
        _judge(args, spec, record)
    from reports.render import render_run  # matplotlib and pandas are slow to import too

    pages = render_run(folder, args.out)
    return {**record.model_dump(mode="json"), "folder": str(folder), "pages": [str(page) for page in pages[:2]]}


def _judge(args: argparse.Namespace, spec: Spec, record: Record) -> None:
    """Writes the paper's claims as far as this run judges them, as a study."""
    preset = args.preset or ("paper" if args.features else "laptop")
    outcome = paper_claims(
        record, end_to_end=args.end_to_end, preset=preset, base=differences(spec), runs=os.path.relpath(RUNS, CLAIMS)
    )
    write_json(CLAIMS / "study.json", outcome.model_dump(mode="json"))


def _at_papers_size(args: argparse.Namespace, spec: Spec) -> list[Figure]:
    smoke = args.preset == "smoke"
    if args.end_to_end:
        return paper_end_to_end(spec, timed=not smoke)
    steps, timed = (1, 4) if smoke else (3, 16)
    return paper_figures(BENCHMARKS[args.benchmark], spec, steps, timed)


def show(result: dict[str, Any]) -> None:
    from reports.table import format_value

    figures = {f["name"]: f["value"] for f in result["figures"]}
    mark = result["data"]["mark"]
    print(f"average mAP on {mark}: {figures['average_mAP']:.2f} %", end="")
    if "average_mAP_floor" in figures:
        print(f" (floor {figures['average_mAP_floor']:.2f}, ceiling {figures['average_mAP_ceiling']:.2f})", end="")
    print(f"\ntraining took {figures['training_time']:.1f} s")
    for precision in ("float32", "bfloat16"):
        memory, schedule = (
            figures[f"paper_peak_memory_{precision}"],
            figures.get(f"paper_schedule_projected_{precision}"),
        )
        print(f"at the paper's size, {precision}: {memory / 2**30:.2f} GiB traced", end="")
        print(f", schedule projects to {format_value(schedule, 's')}" if schedule else "")
    for page in result["pages"]:
        print(f"report: {page}")


def run(argv: Sequence[str] | None = None) -> int:
    made = parser(
        "experiments.reproduce",
        "Reproduce ETAD: on features of ActivityNet-1.3 or THUMOS-14 where given, on the synthetic set where not.",
        "python -m experiments.reproduce --features feats --annotations activity_net.v1-3.min.json --classifier cuhk.json",
    )
    made.add_argument("--benchmark", choices=sorted(BENCHMARKS), default="anet", help="default: %(default)s")
    made.add_argument("--preset", choices=("smoke", "laptop", "paper"), help="default: laptop; paper with --features")
    made.add_argument("--features", type=Path, help="prepared features, a directory of .npy files, or one HDF5 file")
    made.add_argument("--annotations", type=Path, help="ground truth in the ActivityNet layout")
    made.add_argument("--classifier", type=Path, help="video-level classes (JSON, CSV or uNet_test.npy)")
    made.add_argument("--mark", help="the data's name beside every figure (default: the benchmark's)")
    made.add_argument("--blocked", help="ids left out of the evaluation: anet-79, or a JSON file")
    made.add_argument("--end-to-end", action="store_true", help="train the encoder too, on videos or made-up ones")
    made.add_argument("--videos", type=Path, help="folder of the videos, with --end-to-end")
    made.add_argument("--checkpoint", type=Path, help="the encoder's weights to start from, with --end-to-end")
    made.add_argument("--pattern", help="name of a video's file (default: v_{id}.npy, of videos v_{id}.mp4)")
    made.add_argument(
        "--layout", choices=("TC", "CT"), default="TC", help="axes of a feature array (default: %(default)s)"
    )
    made.add_argument("--missing", choices=("error", "skip"), default="error", help="videos without features")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help="override a knob: roi.bins=16")
    made.add_argument("--out", type=Path, default=Path("site"), help="the report's folder (default: %(default)s)")
    typed = list(sys.argv[1:] if argv is None else argv)
    made.set_defaults(typed=typed)
    return main(made, work, show, argv)


if __name__ == "__main__":
    sys.exit(run())
