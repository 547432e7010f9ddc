"""The house: who imports whom, and that every knob of a spec reaches what is built or run."""

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import noise, write_clip, write_truth
from pydantic import BaseModel
from test_losses import example, labelled

from etad import build
from etad.data.annotations import DataError
from etad.data.samples import Corpus, Samples
from etad.data.synthetic import synthetic
from etad.end_to_end import EndToEndModel
from etad.randomness import uniform
from etad.spec import DataSpec, Spec, SpecError, merge, parse_overrides, parse_spec

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("etad", "ablations", "reports", "experiments")  # each imports those before it only
ALLOWED = {"ablations": {"etad.spec", "etad.record", "etad.matches"}, "reports": {"etad.spec", "etad.record"}}


def sources(*layers: str) -> Iterator[tuple[Path, ast.Module]]:
    for layer in layers:
        for path in sorted((ROOT / layer).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text())


def imported(tree: ast.Module) -> set[str]:
    """Modules and objects imported anywhere in a file, within functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_follow_one_direction(layer: str) -> None:
    below, files = LAYERS[: LAYERS.index(layer) + 1], list(sources(layer))
    assert files
    for path, tree in files:
        for name in imported(tree):
            top = name.split(".")[0]
            assert top not in LAYERS or top in below, f"{path} imports {name}"
            if top == "etad" and layer in ALLOWED:
                assert ".".join(name.split(".")[:2]) in ALLOWED[layer], f"{path} imports {name}"


def test_build_alone_reads_a_spec_inside_etad() -> None:
    readers = {str(path) for path, tree in sources("etad") if "etad.spec.Spec" in imported(tree)}
    assert readers == {"etad/build.py"}


def test_nothing_that_reads_records_loads_torch() -> None:
    modules = "etad.record, etad.spec, etad.evaluate, reports.render"
    code = f"import sys, {modules}; sys.exit(sum(m in sys.modules for m in ('torch', 'mmengine', 'torchvision')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_house_is_tidy() -> None:
    for path, tree in sources(*LAYERS):
        assert path.stem not in ("utils", "util", "misc", "helper", "helpers", "common"), path
        if path.name == "__init__.py" and str(path) != "etad/__init__.py":  # that one's lazy attribute: test_detecting
            assert not tree.body, f"{path} is not empty"


def test_files_are_opened_as_data() -> None:
    for path, tree in sources(*LAYERS):
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            keywords = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            name = ast.unparse(node.func)
            where = f"{path}:{node.lineno} {name}"
            assert not keywords.get("allow_pickle"), where
            assert name.split(".")[0] not in ("pickle", "joblib", "dill", "eval", "exec"), where
            assert name != "torch.load" or keywords.get("weights_only") is True, where
            assert not (name.startswith("yaml.") and "unsafe" in name.lower()), where
            assert name != "yaml.load" or any(k.arg == "Loader" for k in node.keywords), where


# --- every knob of a spec changes something


def knobs(model: type[BaseModel] = Spec, path: str = "") -> Iterator[str]:
    """Every dotted knob: the leaves of the spec's tree of models, optional models walked into as well."""
    for key, field in model.model_fields.items():
        inner = next(
            (
                a
                for a in (field.annotation, *getattr(field.annotation, "__args__", ()))
                if isinstance(a, type) and issubclass(a, BaseModel)
            ),
            None,
        )
        if inner is None or inner is not field.annotation:
            yield f"{path}{key}"
        if inner is not None:
            yield from knobs(inner, f"{path}{key}.")


SMALL = {
    "data": {"tscale": 16, "channels": 32, "source": {"args": {"train_videos": 6, "test_videos": 4, "classes": 3}}},
    "model": {"width": 16, "groups": 2, "norm_groups": 4, "roi_width": 8, "head_width": 8},
    "roi": {"bins": 8},
}


def spec_with(*pairs: str) -> Spec:
    return parse_spec(merge(SMALL, parse_overrides(pairs)))


def digest(value: Any) -> Any:
    """Anything observed, as plain values that compare."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: digest(v) for key, v in value.items()}
    if isinstance(value, tuple | list):
        return [digest(v) for v in value]
    return value


def detector(spec: Spec) -> Any:
    """State and output of the built detector."""
    made = build.build_detector(spec).eval()
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, spec.data.channels, 16, generator=generator)
    with torch.no_grad():
        out = made(features, torch.tensor([[[0.1, 0.5], [0.3, 0.9]]]))
    shapes = {name: tuple(p.shape) for name, p in made.state_dict().items()}
    return shapes, out.boundary, [(s.iou, s.offsets) for s in out.stages]


def criterion(spec: Spec) -> Any:
    out, matched, boundary = example(0)
    parts = build.build_criterion(spec)(out, matched, boundary, uniform(3, count=2880).view(3, 4, 4, 60))
    return {name: round(float(value), 9) for name, value in parts.items()}


def class_loss(spec: Spec) -> Any:
    out, matched, boundary, labels = labelled(0)
    draws = uniform(3, count=2880).view(3, 4, 4, 60)
    return float(build.build_criterion(spec)(out, matched, boundary, draws, labels=labels)["loss"])


def inference(spec: Spec) -> Any:
    """What is found in one row, labelled from outside, by a detector that tells boundaries from other snippets."""
    detector = build.build_detector(spec)
    with torch.no_grad():
        detector.boundary[-1].weight *= 50
    made = build.build_inference(spec, detector, torch.device("cpu"))
    features = np.random.default_rng(0).standard_normal((1, 16, 32)).astype(np.float16)
    ((_, rows),) = made.videos(Samples(("v",), np.array([[0.0, 9.0]]), features))
    return made.detections(rows, 9.0, [(0, 0.5), (1, 0.25), (2, 0.125)])


@cache
def whole(tscale: int) -> Corpus:
    return synthetic(DataSpec(tscale=tscale, channels=32), train_videos=6, test_videos=4, classes=3)


def picks(spec: Spec) -> Any:
    """The anchors of a training step, by what it says of them."""
    rows = build.build_rows(spec, whole(spec.data.tscale))
    model = build.build_training(spec, build.build_detector(spec), rows.ids)
    seen: list[torch.Tensor] = []
    model.detector.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    with torch.no_grad():
        model.losses(rows.__getitems__([(0, 0, 0), (0, 0, 1)]))
    return seen


def corpus(spec: Spec) -> Any:
    made = build.build_corpus(spec)
    return made.mark, {n: (s.ids, s.span_s, s.features.shape, s.features[0, 0, :4]) for n, s in made.subsets.items()}


def rows(spec: Spec) -> Any:
    """The training rows of a made corpus, whose segments are long, short and cut by windows."""
    made = build.build_rows(spec, build.build_corpus(spec))
    return made.ids, made.segments


SHORT = (0.002, 0.2)  # fractions of the video, one below data.min_length's default and one above


def short_rows(spec: Spec) -> Any:
    """The same, one video having a short segment beside a long one and one only a segment of 0.2."""
    made = whole(16)
    names = [v.id for v in made.annotations.subset("training")][:2]
    videos = dict(made.annotations.videos)
    for name, spans in zip(names, ((SHORT[0], 0.5), (SHORT[1],)), strict=True):
        ends = np.array([[0.1, 0.1 + s] for s in spans]) * videos[name].duration_s
        videos[name] = replace(videos[name], segments_s=ends, labels=np.zeros(len(spans), dtype=np.int64))
    built = build.build_rows(spec, replace(made, annotations=replace(made.annotations, videos=videos)))
    return built.ids, built.segments


def mine(spec: DataSpec, *, train_videos: int, test_videos: int, classes: int) -> Corpus:
    """A user's own data set, named in a spec as module:object."""
    return replace(whole(spec.tscale), mark="mine")


def skipped(spec: Spec, folder: Path) -> Any:
    """Videos left of three of which one has no features, or the refusal."""
    annotations = {
        f"video{n}": {
            "duration": 20.0,
            "subset": "validation" if n == 2 else "training",
            "annotations": [{"segment": [2.0, 9.0], "label": "a"}],
        }
        for n in range(4)
    }
    (folder / "gt.json").write_text(json.dumps({"database": annotations}))
    for n in (0, 2, 3):
        np.save(folder / f"video{n}.npy", np.zeros((20, 32), dtype=np.float32))
    args = {"features": str(folder), "pattern": "{id}.npy", "layout": "TC", "annotations": str(folder / "gt.json")}
    source = {"name": "features", "args": args}
    chosen = spec.model_copy(update={"data": spec.data.model_copy(update={"source": build_entry(source)})})
    try:
        return sorted(build.build_corpus(chosen).subsets["training"].ids)
    except DataError:
        return "refused"


def build_entry(entry: dict[str, Any]) -> Any:
    return parse_spec({"data": {"source": entry}}).data.source


def frames(spec: Spec, folder: Path) -> Any:
    """Rows of frames of two videos, as tested and as trained on; what the cache's folder holds."""
    for name in ("a", "b"):
        write_clip(folder / f"{name}.mp4", noise(12))
    (folder / "c.mp4").write_bytes(b"")
    durations = {"a": 1.2, "b": 1.2} | ({"c": 1.2} if spec.runtime.threads else {})  # the third one is broken
    truth = write_truth(folder / "gt.json", durations, validation=("b",))
    args = {"videos": str(folder), "pattern": "{id}.mp4", "annotations": str(truth)}
    entry = {"source": build_entry({"name": "videos", "args": args}), "tscale": 4}
    try:
        made = build.build_corpus(spec.model_copy(update={"data": spec.data.model_copy(update=entry)}))
    except (DataError, SpecError):
        return "refused"
    training = made.subsets["training"].frames
    assert training is not None
    drawn = [training.augmented(0, seed=0, epoch=epoch) for epoch in range(8)]
    return training[0], drawn, len(list((folder / "cache").rglob("*")))


def optimizer(spec: Spec) -> Any:
    made = build.build_optimizer(spec, build.build_detector(spec))
    return type(made).__name__, [{k: v for k, v in group.items() if k != "params"} for group in made.param_groups]


def end_to_end(spec: Spec) -> Any:
    """What an encoder makes of frames, what of it is trained, from which snippets and how strongly; or the refusal."""
    try:
        model = build.build_training(spec, build.build_detector(spec), ())
    except ValueError as error:
        return str(error)
    if not isinstance(model, EndToEndModel):
        return "features"
    numbers = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (1, 16, 3, 4, 16, 16), dtype=torch.uint8, generator=numbers)
    features = model.encoder(frames)
    batch = {"row": torch.tensor([0]), "epoch": 0, "present": torch.tensor([[True]])}
    chosen = model.draw(features, {**batch, "segments": torch.tensor([[[0.5, 0.75]]])})
    model.encoder.backward(frames, torch.ones_like(features), chosen, weighted=model.weighted)
    gradients = {name: p.grad.norm() for name, p in model.encoder.named_parameters() if p.grad is not None}
    rates = [group["lr"] for group in build.build_optimizer(spec, model).param_groups]
    spans = [(s.start, s.stop) for s in model.encoder.spans(16)]
    return features, chosen.index, gradients, rates, spans


ENCODER = "encoder={network: {name: r2plus1d-small, args: {planes: [4, 4, 4, 32]}}}"
VIDEO = "data.video={frames: 2, short_side: 12, size: 8}"
WINDOWS = "data.windows={stride_s: 2.0}"
HEAD = "model.class_head={classes: 3}"
BUILT: dict[str, tuple[Callable[..., Any], str, tuple[str, ...]]] = {
    # knob: (what to look at, the alternative, what else holds for both)
    "data.source.name": (
        corpus,
        f"{{name: {__name__}:mine, args: {{train_videos: 6, test_videos: 4, classes: 3}}}}",
        (),
    ),
    "data.source.args": (corpus, "{train_videos: 5, test_videos: 4, classes: 3}", ()),
    "data.tscale": (corpus, "24", ()),
    "data.channels": (detector, "40", ()),
    "data.windows": (corpus, "{stride_s: 2.0}", ()),
    "data.windows.stride_s": (corpus, "1.5", (WINDOWS,)),
    "data.windows.fitted": (corpus, "true", (WINDOWS,)),
    "data.windows.overlap": (corpus, "0.25", (WINDOWS,)),
    "data.windows.min_inside": (rows, "0.1", ("data.windows={stride_s: 1.0}",)),
    "data.video": (frames, "{frames: 2, short_side: 12, size: 8}", ()),
    "data.video.frames": (frames, "3", (VIDEO,)),
    "data.video.stride": (frames, "2", (VIDEO,)),
    "data.video.short_side": (frames, "13", (VIDEO,)),
    "data.video.size": (frames, "7", (VIDEO,)),
    "data.video.crop": (frames, "centre", (VIDEO, "data.video.flip=0.0")),
    "data.video.flip": (frames, "0.0", (VIDEO,)),
    "data.video.jitter": (frames, "0.2", (VIDEO,)),
    "data.video.broken": (frames, "skip", (VIDEO, "runtime.threads=1")),
    "data.video.cache": (frames, "cache", (VIDEO,)),
    "data.train_subset": (lambda spec: sorted(build.build_corpus(spec).subsets), "mine", ()),
    "data.test_subset": (lambda spec: sorted(build.build_corpus(spec).subsets), "mine", ()),
    "data.min_length": (short_rows, "0.3", ()),
    "data.short_segments": (short_rows, "drop", ()),
    "data.missing": (skipped, "skip", ()),
    "encoder": (end_to_end, "{network: {name: r2plus1d-small, args: {planes: [4, 4, 4, 32]}}}", ()),
    "encoder.network.name": (
        end_to_end,
        "{name: r2plus1d, args: {layers: [1, 1, 1, 2], planes: [4, 4, 4, 32]}}",
        (ENCODER,),
    ),
    "encoder.network.args": (end_to_end, "{planes: [4, 4, 8, 32]}", (ENCODER,)),
    "encoder.checkpoint": (end_to_end, "none.pth", (ENCODER,)),
    "encoder.frozen_stages": (end_to_end, "null", (ENCODER,)),
    "encoder.mean": (end_to_end, "[0.0, 0.0, 0.0]", (ENCODER,)),
    "encoder.std": (end_to_end, "[1.0, 1.0, 1.0]", (ENCODER,)),
    "encoder.lr": (end_to_end, "1e-3", (ENCODER,)),
    "encoder.chunk": (end_to_end, "3", (ENCODER,)),
    "encoder.ratio": (end_to_end, "0.5", (ENCODER,)),
    "encoder.rounding": (end_to_end, "released", (ENCODER,)),
    "encoder.sampler.name": (end_to_end, "block", (ENCODER,)),
    "encoder.sampler.args": (end_to_end, "{reach: 5.0}", (ENCODER, "encoder.sampler.name=label-guided")),
    "encoder.weighted": (end_to_end, "true", (ENCODER, "encoder.sampler.name=block")),
    "model.width": (detector, "32", ()),
    "model.groups": (detector, "4", ()),
    "model.norm_groups": (detector, "2", ()),
    "model.aggregator.name": (detector, "none", ()),
    "model.aggregator.args": (detector, "{depth: 2}", (f"model.aggregator.name={__name__}:deep",)),
    "model.roi_width": (detector, "12", ()),
    "model.head_width": (detector, "12", ()),
    "model.class_head": (detector, "{classes: 3}", ()),
    "model.class_head.classes": (detector, "4", (HEAD,)),
    "model.class_head.positive": (class_loss, "0.6", (HEAD,)),
    "model.class_head.loss": (class_loss, "focal", (HEAD,)),
    "model.class_head.weight": (class_loss, "2.0", (HEAD,)),
    "roi.bins": (detector, "4", ()),
    "roi.extend": (detector, "0.25", ()),
    "cascade.thresholds": (criterion, "[0.6, 0.8, 0.9]", ()),
    "proposals.sampler.name": (picks, "grid", ()),
    "proposals.sampler.args": (picks, "{dimensions: 2}", ("proposals.sampler.name=feature-guided",)),
    "proposals.ratio": (picks, "0.2", ()),
    "proposals.max_duration": (picks, "0.5", ()),
    "loss.iou_positive": (criterion, "0.8", ()),
    "loss.iou_bands": (criterion, "[0.3, 0.95]", ()),
    "loss.boundary_positive": (criterion, "0.4", ()),
    "loss.iou_weight": (criterion, "4.0", ()),
    "loss.offset_weight": (criterion, "9.0", ()),
    "loss.class_weight": (criterion, "1.0", ()),
    "loss.sampling": (criterion, "released", ()),
    "training.optimizer": (optimizer, "adam", ()),
    "training.lr": (optimizer, "0.01", ()),
    "training.weight_decay": (optimizer, "0.0", ()),
    "training.seed": (detector, "1", ()),
    "inference.proposal_stride": (build.build_test_anchors, "2", ()),
    **{
        f"inference.{knob}": (inference, value, ())
        for knob, value in {
            "precision": "bfloat16",
            "boundary_share": "0.1",
            "candidates": "all",
            "sigma": "0.5",
            "max_detections": "3",
            "top_classes": "1",
        }.items()
    },
    "runtime.device": (lambda spec: str(build.build_device(spec)), "cuda:1", ("runtime.device=cpu",)),
}


def deep(width: int, *, depth: int = 1) -> torch.nn.Module:
    """A user's own aggregator, named in a spec as module:object."""

    class Deep(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.Conv1d(width, width, 1) for _ in range(depth)])

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            for layer in self.layers:
                x = layer(x)
            return x, x

    return Deep()


# knobs that experiments.run hands on; that they are read is checked, what they do is tested where it is done
RUN = {
    "name",
    *(f"training.{k}" for k in ("epochs", "decay_epochs", "batch", "clip_norm", "precision")),
    *(f"evaluation.{k}" for k in ("tiou", "blocked", "proposals")),
    *(f"runtime.{k}" for k in ("threads", "workers", "graph", "checkpoint_every", "log_every", "loggers")),
}


def test_every_knob_stands_in_one_table() -> None:
    every = set(knobs())
    assert {"roi.bins", "data.windows.overlap", "data.windows", "model.aggregator.args"} <= every
    assert set(BUILT) | RUN == every
    assert not set(BUILT) & RUN


@pytest.mark.parametrize("knob", BUILT)
def test_every_knob_changes_what_is_built(knob: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look, value, fixed = BUILT[knob]
    key = knob.removesuffix(".name") if value.startswith("{name") else knob  # an entry is replaced whole
    base, changed = spec_with(*fixed), spec_with(*fixed, f"{key}={value}")
    assert base != changed
    monkeypatch.chdir(tmp_path)
    more = (tmp_path,) if look in (skipped, frames) else ()
    before, again, after = (digest(look(spec, *more)) for spec in (base, base, changed))
    assert before == again, "what is looked at must be a function of the spec"
    assert before != after, f"{knob} goes nowhere"


RUNNING = ast.parse(
    "\n".join((ROOT / "experiments" / f"{name}.py").read_text() for name in ("keys", "run", "trained", "tested"))
)


def reads(tree: ast.Module, knob: str) -> bool:
    """Whether a file reads section.knob of a spec, by its full path or through a name given to the section."""
    section, _, leaf = f"spec.{knob}".rpartition(".")
    section = section.rpartition(".")[2]
    names = {section} if section == "spec" else set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                both = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                pairs = zip(target.elts, node.value.elts, strict=True) if both else [(target, node.value)]
                names |= {
                    to.id
                    for to, value in pairs
                    if isinstance(to, ast.Name) and isinstance(value, ast.Attribute) and value.attr == section
                }
    return any(
        isinstance(node, ast.Attribute)
        and node.attr == leaf
        and (
            (isinstance(node.value, ast.Name) and node.value.id in names)
            or (isinstance(node.value, ast.Attribute) and node.value.attr == section)
        )
        for node in ast.walk(tree)
    )


@pytest.mark.parametrize("knob", sorted(RUN))
def test_every_other_knob_is_read_by_the_run(knob: str) -> None:
    assert reads(RUNNING, knob), f"{knob} goes nowhere"


def test_control_a_knob_read_nowhere_is_found() -> None:
    assert not reads(RUNNING, "training.momentum")
    assert not reads(RUNNING, "inference.epochs")
    assert reads(ast.parse("a, b = spec.training, 1\nprint(a.epochs)"), "training.epochs")
    assert not reads(ast.parse("a, b = spec.training, 1\nprint(b.epochs)"), "training.epochs")


def test_every_parameter_is_optimised_once() -> None:
    made = build.build_detector(spec_with())
    groups = build.build_optimizer(spec_with(), made).param_groups
    optimised = [id(p) for group in groups for p in group["params"]]
    assert sorted(optimised) == sorted(id(p) for p in made.parameters())
    assert len(set(optimised)) == len(optimised)
