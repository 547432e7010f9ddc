"""Run studies: every value and seed once, then the step benchmark, the verdicts and the pages.

Run again, the same command goes on; several processes share a study, and `--shard i/n` splits it.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablations.studies import STUDIES
from ablations.study import Study, chosen, resolved, restricted
from etad.spec import Spec, merge, parse_overrides, parse_spec, read_tree
from experiments.command import Failure, Misuse, console, main, parser
from experiments.plan import Plan
from experiments.pretrain import start_encoder
from experiments.studying import Options, Result, render, run_study

SPECS = Path(__file__).parent / "specs"
EXAMPLE = """python -m experiments.ablate --study cascade_depth --dry-run
  python -m experiments.ablate --study all --preset smoke
  python -m experiments.ablate --study temporal_aggregation --data prepared/mine"""


def base_spec(args: argparse.Namespace, presets: str = "") -> Spec:
    """The preset; over it all that a spec of the user's data says; over that what --set says. `presets`: see Study.

    Raises SpecError, Misuse.
    """
    preset = Path(args.preset)
    tree = read_tree(preset if preset.suffix else SPECS / f"{presets}{args.preset.removeprefix(presets)}.yaml")
    if args.data:
        spec = args.data / "spec.yaml" if args.data.is_dir() else args.data
        if not spec.exists():
            raise Misuse(
                f"--data {args.data}: give a spec, or a folder that experiments.prepare made with its spec.yaml"
            )
        tree = {name: part for name, part in tree.items() if name != "data"}
        tree = merge({**tree, "name": data_name(args.data)}, read_tree(spec))
    return parse_spec(merge(tree, parse_overrides(args.set)), f"preset {args.preset}")


def data_name(path: Path) -> str:
    """What to call the data: the pack's folder, or the spec's file."""
    path = path.resolve()
    return re.sub(r"[^A-Za-z0-9._-]", "-", path.parent.name if path.name == "spec.yaml" else path.stem) or "data"


def make_plan(args: argparse.Namespace, study: Study) -> Plan:
    base = base_spec(args, study.presets)
    return Plan(
        study=restricted(resolved(study, base), args.only),
        base=base,
        preset=Path(args.preset).stem,
        root=args.runs,
        seeds=args.seeds or study.seeds,
        claim_seeds=args.seeds or study.claim_seeds,
        variants=args.variants,
    )


def options(args: argparse.Namespace, study: str) -> Options:
    data = data_name(args.data) if args.data else ""
    preset = "" if args.preset == "laptop" else Path(args.preset).stem
    words = ["--study", study, *args.typed]
    return Options(
        folder=args.out / "-".join(part for part in (study, preset, data) if part),
        command=f"python -m experiments.ablate {shlex.join(words)}",
        jobs=args.jobs,
        retry_failed=args.retry_failed,
        until=args.until_decided,
        executor=args.executor,
        slurm=tuple(args.slurm),
        part=args.shard,
        bench=not args.no_bench,
    )


def work(args: argparse.Namespace) -> dict[str, Any]:
    if args.list:
        return {"studies": {name: listed(study) for name, study in STUDIES.items()}}
    if not args.study:
        raise Misuse("give --study NAME, --study all, or --list")
    wanted = dict.fromkeys(n for name in args.study for n in (STUDIES if name == "all" else [name]))
    plans = {name: make_plan(args, chosen(name, STUDIES)) for name in wanted}
    if args.dry_run:
        from experiments.project import projected

        return {"dry_run": projected(list(plans.values()), args.jobs)}
    for plan in plans.values():
        start_encoder(plan.base)
    results = {name: run_study(plan, options(args, name)) for name, plan in plans.items()}
    folders = [options(args, name).folder for name, result in results.items() if result.outcome]
    pages = render(folders, args.pages)[:2] if folders else []
    _raise_for(results)
    return {
        "studies": {
            name: {"to_come": r.to_come, "outcome": r.outcome.model_dump(mode="json") if r.outcome else None}
            for name, r in results.items()
        },
        "folders": [str(folder) for folder in folders],
        "pages": [str(page) for page in pages],
    }


def _raise_for(results: dict[str, Result]) -> None:
    """Raises Failure where runs failed, after saying which."""
    failed = {run: error for result in results.values() for run, error in result.failed.items()}
    for run, error in failed.items():
        console.print(f"failed: {run}: {error}", highlight=False, markup=False, soft_wrap=True)
    if failed:
        raise Failure(f"{len(failed)} runs failed, all others are done; --retry-failed tries them again")


def listed(study: Study) -> dict[str, Any]:
    axes = {name: [str(value) for value in values] for name, values in study.axes.items()}
    claims = [claim.name for claim in study.claims]
    return {"question": study.question, "cells": len(study.cells), "axes": axes, "claims": claims}


def show(result: dict[str, Any]) -> None:
    for name, found in result.get("dry_run", {}).items():
        print(f"{name}: {found['text']}")
    for name, found in result.get("studies", {}).items():
        if "question" in found:
            axes = "; ".join(f"{axis}: {', '.join(values)}" for axis, values in found["axes"].items())
            claims = f"\n  claims: {'; '.join(found['claims'])}" if found["claims"] else ""
            print(f"{name}: {found['question']}\n  {axes}{claims}")
        elif found["outcome"] is None:
            print(f"{name}: {found['to_come']} runs to come")
        else:
            print(f"{name}: {found['outcome']['answer']}")
            for v in found["outcome"]["verdicts"]:
                print(f"  {v['claim']}: {v['word']} on {v['data']}; {v['reason']}")
    for page in result.get("pages", []):
        print(f"report: {page}")


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r}: write i/n, for example 1/4")
    return int(found[1]), int(found[2])


def arguments() -> argparse.ArgumentParser:
    made = parser("experiments.ablate", __doc__ or "", EXAMPLE)
    add = made.add_argument
    add("--study", action="append", default=[], metavar="NAME", help="a study, or all; may be given again")
    add("--list", action="store_true", help="list the studies, their axes and claims")
    add("--preset", default="laptop", help="smoke, laptop, paper, or a spec's path (default: %(default)s)")
    add(
        "--data",
        type=Path,
        help="a spec, or a folder that experiments.prepare made; what it says goes before the preset",
    )
    add("--set", action="append", default=[], metavar="KNOB=VALUE", help="override a knob of the base")
    add("--only", action="append", default=[], metavar="AXIS=VALUE", help="these values alone; may be given again")
    add("--seeds", type=int, help="seeds of every cell and claim (default: the study's)")
    add("--variants", action="store_true", help="judge claims on the made-up set's variants too: four times their runs")
    add("--until-decided", type=int, default=0, metavar="N", help="add seeds to undecided claims, up to N")
    add("--jobs", type=int, help="runs at a time (default: one a GPU, or one for two cores)")
    add("--executor", choices=("local", "slurm"), default="local", help="where runs are computed (default: local)")
    add(
        "--slurm",
        action="append",
        default=[],
        metavar="PARAMETER=VALUE",
        help="of sbatch: partition=gpu, gpus_per_node=1",
    )
    add("--shard", type=_part, default=(1, 1), metavar="I/N", help="compute the I-th of N parts of the runs")
    add("--retry-failed", action="store_true", help="run failed runs again")
    add("--dry-run", action="store_true", help="say how many runs, and how long they would take")
    add("--no-bench", action="store_true", help="leave out the step benchmark, and so the time columns")
    add("--runs", type=Path, default=Path("runs"), help="folder of runs (default: %(default)s)")
    add("--out", type=Path, default=Path("studies"), help="folder of studies (default: %(default)s)")
    add("--pages", type=Path, default=Path("site"), help="folder of the pages (default: %(default)s)")
    return made


def run(argv: Sequence[str] | None = None) -> int:
    made = arguments()
    made.set_defaults(typed=_without_study(sys.argv[1:] if argv is None else argv))
    return main(made, work, show, argv)


def _without_study(typed: Sequence[str]) -> list[str]:
    """What was typed but the studies, one of which each outcome names."""
    kept, skip = [], False
    for word in typed:
        if not skip and word != "--study" and not word.startswith("--study="):
            kept.append(word)
        skip = word == "--study"
    return kept


if __name__ == "__main__":
    sys.exit(run())
