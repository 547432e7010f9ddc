"""The search that set the difficulty of synthetic-1, before any ablation was looked at. docs/synthetic.md has its figures.

It trains the default detector at the laptop preset alone, and moves one number, the noise, until the average mAP lies
half way between the set's floor and its ceiling.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from etad.spec import merge, parse_overrides, parse_spec, read_tree
from experiments.command import Failure, console, main, parser
from experiments.run import run_in

TARGET = 0.5  # position of the default detector between floor and ceiling


@dataclass(frozen=True)
class Trial:
    noise: float
    floor: float  # average mAP, %
    average_mAP: float
    ceiling: float

    @property
    def position(self) -> float:
        """0 at the floor, 1 at the ceiling."""
        return (self.average_mAP - self.floor) / (self.ceiling - self.floor)


def search(measure: Callable[[float], Trial], low: float, high: float, tolerance: float, steps: int) -> list[Trial]:
    """Trials by bisection of the noise on a logarithmic scale, the last one within `tolerance` of TARGET.

    More noise must lower the position. Raises Failure where no trial comes near enough.
    """
    trials: list[Trial] = []
    for _ in range(steps):
        trial = measure(round((low * high) ** 0.5, 3))
        trials.append(trial)
        if abs(trial.position - TARGET) <= tolerance:
            return trials
        low, high = (trial.noise, high) if trial.position > TARGET else (low, trial.noise)
    seen = ", ".join(f"noise {t.noise} at {t.position:.2f}" for t in trials)
    raise Failure(f"not within {tolerance} of {TARGET} after {steps} trials ({seen}); widen --low and --high")


def measure_with(spec_file: Path, overrides: Sequence[str], out: Path) -> Callable[[float], Trial]:
    """Trains and tests the detector of a spec file on the synthetic set of a given noise; finished runs are read."""
    tree = merge(read_tree(spec_file), parse_overrides(overrides))

    def measure(noise: float) -> Trial:
        source = {"data": {"source": {"name": "synthetic", "args": {"noise": noise}}}}
        spec = parse_spec(merge(tree, source), str(spec_file))
        folder, record = run_in(out, spec)
        found = [record.figure(name) for name in ("average_mAP_floor", "average_mAP", "average_mAP_ceiling")]
        values = [figure.value for figure in found if figure is not None and figure.value is not None]
        if len(values) < 3:
            raise Failure(f"{folder}: its record lacks the mAP of floor, detector or ceiling")
        trial = Trial(noise, *values)
        console.print(f"noise {noise}: {trial.average_mAP:.2f}, position {trial.position:.3f}", highlight=False)
        return trial

    return measure


def run(argv: Sequence[str] | None = None) -> int:
    made = parser(
        "experiments.calibrate",
        "Find the noise at which a detector lies half way between the synthetic set's floor and ceiling.",
        "python -m experiments.calibrate --spec experiments/specs/laptop.yaml --low 0.06 --high 0.6",
    )
    made.add_argument("--spec", type=Path, default=Path(__file__).parent / "specs" / "laptop.yaml", help="detector")
    made.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help="override a knob of the spec")
    made.add_argument("--low", type=float, default=0.06, help="noise at which the set is surely too easy")
    made.add_argument("--high", type=float, default=0.6, help="noise at which it is surely too hard")
    made.add_argument("--tolerance", type=float, default=0.03, help="distance from half way, as a share of the span")
    made.add_argument("--steps", type=int, default=8, help="trials at most")
    made.add_argument("--out", type=Path, default=Path("runs") / "calibrate", help="folder of the runs")

    def work(args: Any) -> dict[str, Any]:
        if not 0 < args.low < args.high:
            raise Failure(f"--low {args.low} --high {args.high}: give 0 < low < high")
        measure = measure_with(args.spec, args.set, args.out)
        trials = search(measure, args.low, args.high, args.tolerance, args.steps)
        return {"noise": trials[-1].noise, "trials": [asdict(t) | {"position": t.position} for t in trials]}

    return main(made, work, show, argv)


def show(result: dict[str, Any]) -> None:
    print("| noise | floor | average mAP | ceiling | position |\n|---|---|---|---|---|")
    for t in result["trials"]:
        print(
            f"| {t['noise']} | {t['floor']:.2f} | {t['average_mAP']:.2f} | {t['ceiling']:.2f} | {t['position']:.3f} |"
        )
    print(f"noise: {result['noise']}")


if __name__ == "__main__":
    sys.exit(run())
