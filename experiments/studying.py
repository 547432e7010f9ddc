"""One study from its first run to its study.json."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ablations.outcome import Estimate, StudyOutcome
from etad.record import now, write_json
from experiments.command import console
from experiments.display import Board, shown
from experiments.plan import Plan, State, shard, state_of

LOOK = 3  # seeds that --until-decided adds at a time
FILE = "study.json"


@dataclass(frozen=True)
class Options:
    folder: Path  # of the study
    command: str
    jobs: int | None  # at a time; None: as many as the machine has room for
    retry_failed: bool = False
    until: int = 0  # seeds of a claim at most; 0: those of the study
    executor: str = "local"
    slurm: tuple[str, ...] = ()  # parameters of sbatch
    part: tuple[int, int] = (1, 1)  # shard i of n
    bench: bool = True


@dataclass(frozen=True)
class Result:
    """A study as far as it got: no outcome while runs are to come."""

    name: str
    failed: dict[str, str]  # run -> error
    to_come: int = 0
    outcome: StudyOutcome | None = None


def looks(plan: Plan, until: int) -> list[int]:
    """Seeds of a claim at each look; each look's interval is widened for all of them."""
    first, last = plan.claim_seeds, max(until, plan.claim_seeds)
    return [*range(first, last, LOOK), last] if plan.study.claims else [first]


def run_study(plan: Plan, options: Options) -> Result:
    """Runs what is not done, judges, measures, and writes study.json. Raises Failure, OSError."""
    started, seeds = now(), looks(plan, options.until)
    announce(plan, len(seeds))
    for count in seeds:
        plan = replace(plan, claim_seeds=count)
        state = compute(plan, options)
        if state.to_come:
            return Result(plan.study.name, _names(state), to_come=len(state.to_come))
        if count == seeds[-1] or not _undecided(plan, len(seeds)):
            break
    from experiments.conclude import conclude, steps_of

    times: dict[str, list[Estimate]] = {}
    if options.bench:
        from experiments.bench import time_estimates

        first = {name: runs[0] for name, runs in plan.cells.items()}
        steps = {name: made for name, run in first.items() if (made := steps_of(run.folder))}
        times = time_estimates({name: run.spec for name, run in first.items()}, steps)
    outcome = conclude(
        plan, folder=options.folder, command=options.command, started=started, looks=len(seeds), times=times
    )
    write_json(options.folder / FILE, outcome.model_dump(mode="json"))
    say(f"{plan.study.name}: {outcome.answer}")
    return Result(plan.study.name, _names(state), outcome=outcome)


def _names(state: State) -> dict[str, str]:
    return {folder.name: error for folder, error in state.failed.items()}


def say(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def announce(plan: Plan, count: int) -> None:
    """What will run, and with which power each claim will be judged."""
    from ablations.verdict import power

    say(f"{plan.study.name}: {len(plan.runs)} runs in {plan.root}")
    if not plan.claims:
        return
    from experiments.project import sizes

    videos = sizes(plan.claims[0].left[0].spec).test_videos
    for claim in plan.study.claims:
        chance = power(claim, margin=plan.margin, seeds=plan.claim_seeds, videos=videos)
        say(
            f"claim {claim.name}: {claim.criterion(plan.margin)}; power {chance:.0%} "
            f"at {plan.claim_seeds} seeds and {videos} videos"
            + (f", intervals widened for {count} looks" if count > 1 else "")
        )


def compute(plan: Plan, options: Options) -> State:
    """Computes this process's part of the runs; the state of all of them."""
    mine = shard(plan.runs, *options.part)
    for line in state_of(mine).broken:
        say(f"{line}: computed again")
    board = Board(plan.study.name, plan.cells, len(mine))
    with shown(board) as watch:
        if options.executor == "slurm":
            from experiments import cluster

            parameters = cluster.parsed(options.slurm)
            cluster.run_all(mine, retry_failed=options.retry_failed, watch=watch, parameters=parameters)
        else:
            from experiments.schedule import default_jobs, run_all

            jobs = options.jobs or default_jobs(plan.base.runtime.device)
            run_all(mine, jobs=jobs, retry_failed=options.retry_failed, watch=watch)
    return state_of(plan.runs)


def _undecided(plan: Plan, count: int) -> bool:
    from experiments.conclude import verdicts

    names = [v.claim for v in verdicts(plan, "", count) if v.word == "undecided"]
    if names:
        say(f"{plan.study.name}: undecided at {plan.claim_seeds} seeds: {', '.join(names)}; adding seeds")
    return bool(names)


def render(folders: Sequence[Path], out: Path) -> list[Path]:
    """The pages of studies, from their folders."""
    from reports.render import render_studies

    return render_studies(folders, out)
