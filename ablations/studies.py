"""The studies: what the paper chose, and what else there was to choose."""

from typing import Any

from ablations.study import Cells, FromBase, Scaled, Study, above, axis, chain, choices, grid, not_worse

ABSTRACT = "paper, abstract"
PAPER = (0.7, 0.8, 0.9)  # tIoU above which each stage regresses
FOURTH = 0.95  # a fourth stage's; the paper has none
ONE = 0.7  # for all stages


def _schedule(by: float) -> dict[str, Scaled]:
    return {"training.epochs": Scaled(by=by), "training.decay_epochs": Scaled(by=by)}


RATIOS = (0.005, 0.01, 0.02, 0.06, 0.2, 0.5, 1.0)
SCHEDULES = {1: {}, 0.5: _schedule(0.5), 2: _schedule(2)}

proposal_count = Study(
    name="proposal_count",
    question="How many proposals does training need: where does mAP saturate, at what time and memory?",
    cells=chain(
        grid(axis("ratio", "proposals.ratio", RATIOS), choices("schedule", {1: {}})),
        grid(axis("ratio", "proposals.ratio", (0.01, 0.06, 1.0)), choices("schedule", SCHEDULES)),
    ),
    claims=(
        not_worse(
            "saturation",
            {"ratio": 0.06, "schedule": 1},
            than={"ratio": 1.0, "schedule": 1},
            sentence="performance saturates at a small number of proposals",
            source=ABSTRACT,
            settled=tuple(({"ratio": r, "schedule": 1}, {"ratio": r, "schedule": 2}) for r in (0.06, 1.0)),
        ),
        above(
            "saturation, low end",
            {"ratio": 0.06, "schedule": 1},
            than={"ratio": 0.01, "schedule": 1},
            sentence="below the small number it falls, else the curve is flat and the claim empty",
            source=ABSTRACT,
        ),
    ),
    notes=("schedule: times the base's epochs. It tells fewer proposals from shorter training.",),
)

STRATEGIES = ("random", "grid", "block", "feature-guided", "label-guided")

proposal_sampling = Study(
    name="proposal_sampling",
    question="Which proposals should training draw?",
    cells=chain(
        grid(
            axis("ratio", "proposals.ratio", (0.02, 0.06, 0.2)),
            choices("strategy", {name: {"proposals.sampler": {"name": name}} for name in STRATEGIES}),
        ),
        grid(axis("ratio", "proposals.ratio", (1.0,)), choices("strategy", {"all": {}})),
    ),
    notes=(
        "feature-guided is farthest-point sampling; the paper names it and label-guided, its code lacks both.",
        "grid and block draw as many anchors as their shape allows: the realised counts stand beside the ratios.",
    ),
)

temporal_aggregation = Study(
    name="temporal_aggregation",
    question="Does the LSTM help, and what else would?",
    cells=axis("aggregator", "model.aggregator.name", ("none", "lstm", "lstm-forward", "gru", "dilated", "attention")),
    claims=(
        above(
            "LSTM",
            {"aggregator": "lstm"},
            than={"aggregator": "none"},
            sentence="LSTM-boosted temporal aggregation",
            source=ABSTRACT,
        ),
    ),
    notes=("lstm is the paper's, in two directions; all but it and none are ours.",),
)


def _stages(label: str, thresholds: tuple[float, ...]) -> Cells:
    counts = range(1, len(thresholds) + 1)
    return grid(
        choices("stages", {n: {"cascade.thresholds": list(thresholds[:n])} for n in counts}),
        choices("thresholds", {label: {}}),
    )


cascade_depth = Study(
    name="cascade_depth",
    question="How many stages refine the proposals, and is it the depth or the rising thresholds?",
    cells=chain(_stages("rising", (*PAPER, FOURTH)), _stages("one for all", (ONE,) * 4)),
    claims=(
        above(
            "cascade",
            {"stages": 3, "thresholds": "rising"},
            than={"stages": 1, "thresholds": "rising"},
            sentence="cascaded proposal refinement",
            source=ABSTRACT,
        ),
    ),
    notes=(
        f"rising: the paper's {', '.join(map(str, PAPER))}; the fourth stage, which the paper lacks, has {FOURTH}.",
        f"one for all: {ONE} at every stage. One stage is the same run under both.",
    ),
)

roi = Study(
    name="roi",
    question="How finely is a proposal looked at, and how far beyond its ends?",
    cells=chain(
        grid(axis("bins", "roi.bins", (8, 16, 24, 32)), axis("extension", "roi.extend", (0.5,))),
        grid(choices("bins", {FromBase(knob="roi.bins"): {}}), axis("extension", "roi.extend", (0.0, 0.25, 0.5, 1.0))),
    ),
    notes=("The extension is varied at the preset's own number of bins.",),
)

STRIDES = (1, 2, 3, 4, 6, 8)
SHARES = (0.5, 0.25, 0.1, 0.05, 0.02)

test_proposals = Study(
    name="test_proposals",
    question="How many proposals does testing need?",
    cells=chain(
        grid(
            choices("share", {round(1 / n**2, 3): {"inference.proposal_stride": n} for n in STRIDES}),
            choices("chosen by", {"stride": {}}),
        ),
        grid(
            axis("share", "inference.boundary_share", SHARES),
            choices("chosen by", {"boundary score": {}}),
        ),
    ),
    notes=(
        f"By stride: every n-th start and every n-th duration of the map, n in {', '.join(map(str, STRIDES))}; about 1/n^2.",
        "By boundary score: the best by start times end probability, chosen before the cascade looks at any.",
        "All cells test the same trained models.",
    ),
)

precision = Study(
    name="precision",
    question="What does half the precision cost?",
    cells=choices(
        "precision",
        {name: {"training.precision": name, "inference.precision": name} for name in ("float32", "bfloat16")},
    ),
)

SNIPPETS = ("grid", "block", "label-guided", "feature-guided")
UNEVEN = SNIPPETS[1:]  # those whose probabilities differ between snippets


def _snippets(strategy: str, weighted: bool) -> dict[str, Any]:
    return {"encoder.sampler": {"name": strategy}, "encoder.weighted": weighted}


snippet_sampling = Study(
    name="snippet_sampling",
    question="How many snippets must train the encoder, and which?",
    cells=chain(
        grid(axis("ratio", "encoder.ratio", (0.0, 0.1, 0.3, 0.5, 1.0)), choices("strategy", {"random": {}})),
        grid(
            axis("ratio", "encoder.ratio", (0.3,)),
            choices(
                "strategy",
                {name: _snippets(name, False) for name in SNIPPETS}
                | {f"{name}, weighted": _snippets(name, True) for name in UNEVEN},
            ),
        ),
    ),
    claims=(
        above(
            "gradient sampling quality",
            {"ratio": 0.3, "strategy": "random"},
            than={"ratio": 0.0, "strategy": "random"},
            sentence="with even higher performance: end to end with 30 % of the snippets above frozen pre-trained features",
            source=ABSTRACT,
        ),
        not_worse(
            "gradient sampling quality, against all snippets",
            {"ratio": 0.3, "strategy": "random"},
            than={"ratio": 1.0, "strategy": "random"},
            sentence="and not worse than end to end with all of them",
            source=ABSTRACT,
        ),
    ),
    presets="end_to_end_",
    notes=(
        "ratio 0 is the encoder as it was pre-trained (experiments.pretrain), frozen.",
        "weighted: each snippet's share of the gradient divided by its probability, which makes the gradient unbiased.",
        "One learning rate of the encoder, chosen once on the 30 % run with random snippets.",
    ),
)

STUDIES = {
    study.name: study
    for study in (
        proposal_count,
        proposal_sampling,
        temporal_aggregation,
        cascade_depth,
        roi,
        test_proposals,
        precision,
        snippet_sampling,
    )
}
