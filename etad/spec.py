"""Every knob of the suite and its default, once.

A spec is a frozen pydantic tree. YAML files hold differences from these defaults and inherit with `_base_`
(a path beside the file, or a list of them, later ones winning). Files are opened as data: safe YAML only.
"""

import difflib
import json
import re
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class SpecError(ValueError):
    """A spec that cannot be used; the message names the file or key and the mend."""


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class Entry(Frozen):
    """A registered component: what it is called and what it is called with."""

    name: str = Field(description="name in the registry")
    args: dict[str, Any] = Field(default_factory=dict, description="keyword arguments, checked against its signature")


class WindowSpec(Frozen):
    """Sliding windows instead of the whole video resized. Source: METHOD 1 (THUMOS-14)."""

    stride_s: PositiveFloat = Field(description="seconds between two feature columns")
    fitted: bool = Field(
        False, description="each video's own stride, its duration over its columns: frame rates differ"
    )
    overlap: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.5, description="fraction of a window shared with the next"
    )
    min_inside: Fraction = Field(
        0.9, description="training keeps a segment in a window when this fraction of it lies inside"
    )


class VideoSpec(Frozen):
    """Snippets decoded from video files. Source: METHOD 1; crop and flip are the usual ones of TSP, which it starts from."""

    frames: PositiveInt = Field(16, description="L, frames a snippet")
    stride: PositiveInt = Field(1, description="frames of the video from one frame of a snippet to the next")
    short_side: PositiveInt = Field(128, description="pixels that the shorter side is resized to")
    size: PositiveInt = Field(112, description="pixels a side of the square cut out of it: H and W")
    crop: Literal["random", "centre"] = Field("random", description="where training cuts; testing cuts the centre")
    flip: Fraction = Field(0.5, description="how often training mirrors a video")
    jitter: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="training's factors of brightness, contrast and saturation lie in 1 - jitter .. 1 + jitter"
    )
    broken: Literal["error", "skip"] = Field(
        "error", description="videos that cannot be decoded: stop, or leave out and record"
    )
    cache: str | None = Field(None, description="folder that keeps decoded snippets; null: decode each time")

    @model_validator(mode="after")
    def _fits(self) -> "VideoSpec":
        if self.size > self.short_side:
            raise ValueError(f"video.size={self.size} does not fit into video.short_side={self.short_side}")
        return self


class DataSpec(Frozen):
    source: Entry = Field(Entry(name="synthetic"), description="entry of the DATASETS registry")
    tscale: PositiveInt = Field(128, description="T, snippets a video or window")
    channels: PositiveInt = Field(512, description="C, feature channels")
    windows: WindowSpec | None = Field(None, description="sliding windows; null: the whole video resized to tscale")
    video: VideoSpec | None = Field(
        None, description="snippets of frames, for an encoder; null: the source has features"
    )
    train_subset: str = Field("training", description="subset trained on")
    test_subset: str = Field("validation", description="subset detected in and evaluated")
    min_length: Fraction = Field(
        0.01, description="training drops videos whose every segment is shorter (fraction of T)"
    )
    short_segments: Literal["keep", "drop"] = Field(
        "keep", description="segments under min_length in kept videos; keep: as the released code does"
    )
    missing: Literal["error", "skip"] = Field(
        "error", description="videos without features: stop, or leave out and record"
    )


class ClassHeadSpec(Frozen):
    """Classes of the detector's own instead of a video-level classifier's. Ours: the paper has none."""

    classes: PositiveInt = Field(description="C, as many as the annotations have")
    positive: Fraction = Field(
        0.5, description="tIoU of the last stage's input anchor above which it is its segment's class, else background"
    )
    loss: Literal["cross_entropy", "focal"] = Field(
        "cross_entropy", description="cross-entropy, positives and background half each; focal: all, over the positives"
    )
    weight: NonNegativeFloat = Field(1.0, description="weight of this loss")


class EncoderSpec(Frozen):
    """The encoder trained with the detector, and how much of it a step trains. Source: METHOD 8, 9."""

    network: Entry = Field(Entry(name="r2plus1d"), description="entry of the ENCODERS registry")
    checkpoint: str | None = Field(None, description="its weights: a file of TSP, the authors, torchvision or ours")
    frozen_stages: Annotated[int, Field(ge=0)] | None = Field(
        2, description="the stem and so many stages behind it get no gradient; null: all get one"
    )
    mean: tuple[float, float, float] = Field((110.2008, 100.63983, 95.99475), description="subtracted from R, G, B")
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        (58.14765, 56.46975, 55.332195), description="and then divided by"
    )
    lr: PositiveFloat = Field(5e-7, description="its AdamW learning rate; training.lr is the detector's")
    chunk: PositiveInt = Field(4, description="snippets of each video that go through it at once")
    ratio: Fraction = Field(0.3, description="fraction of the snippets that train it; 0: it stays as it is")
    rounding: Literal["half-up", "released"] = Field(
        "half-up", description="of ratio x tscale: to a whole number, or as the released code up to whole chunks"
    )
    sampler: Entry = Field(Entry(name="random"), description="entry of the SNIPPET_SAMPLERS registry")
    weighted: bool = Field(False, description="divide each snippet's share by its probability: an unbiased gradient")


class ModelSpec(Frozen):
    """Feature module and heads. Source: METHOD 2, 3, 5."""

    width: PositiveInt = Field(256, description="D, channels of the feature module")
    groups: PositiveInt = Field(4, description="groups of its convolutions")
    norm_groups: PositiveInt = Field(16, description="groups of its GroupNorm")
    aggregator: Entry = Field(Entry(name="lstm"), description="entry of the AGGREGATORS registry")
    roi_width: PositiveInt = Field(512, description="outputs of the first linear layer over a RoI")
    head_width: PositiveInt = Field(128, description="hidden width of a stage's MLPs")
    class_head: ClassHeadSpec | None = Field(
        None, description="classes read off the last stage's RoIs; null: the paper's, labelled from outside"
    )


class RoISpec(Frozen):
    bins: Annotated[int, Field(ge=4)] = Field(24, description="R, bins of a 1-D RoIAlign")
    extend: NonNegativeFloat = Field(0.5, description="anchor lengths added on each side")

    @model_validator(mode="after")
    def _quarters(self) -> "RoISpec":
        if self.bins % 4:
            raise ValueError(
                f"roi.bins={self.bins} must be a multiple of 4: the offset heads read its first and last quarter"
            )
        return self


class CascadeSpec(Frozen):
    thresholds: tuple[Fraction, ...] = Field(
        (0.7, 0.8, 0.9), min_length=1, description="tIoU above which a stage regresses, one a stage"
    )


class ProposalSpec(Frozen):
    """Anchors drawn in training. Source: METHOD 4."""

    sampler: Entry = Field(Entry(name="random"), description="entry of the SAMPLERS registry")
    ratio: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.06, description="fraction of the valid anchors in training"
    )
    max_duration: Fraction = Field(1.0, description="longest anchor, fraction of tscale")


class LossSpec(Frozen):
    """Source: METHOD 7."""

    iou_positive: Fraction = Field(0.9, description="tIoU above which IoU score 1 is positive")
    iou_bands: tuple[Fraction, Fraction] = Field(
        (0.3, 0.7), description="low and high tIoU of the IoU regression's bands"
    )
    boundary_positive: Fraction = Field(0.5, description="target above which a boundary is positive")
    iou_weight: NonNegativeFloat = Field(5.0, description="weight of the IoU regression")
    offset_weight: NonNegativeFloat = Field(10.0, description="weight of the offsets")
    class_weight: NonNegativeFloat = Field(0.5, description="weight of the boundary classification of anchors")
    sampling: Literal["clamped", "released"] = Field(
        "clamped", description="rates above 1: clamped, or as the released code, which then selects everything"
    )


class TrainingSpec(Frozen):
    """Source: METHOD 8."""

    epochs: PositiveInt = Field(6, description="passes over the training videos")
    decay_epochs: tuple[PositiveInt, ...] = Field(
        (5,), description="the learning rate falls tenfold after these epochs"
    )
    batch: PositiveInt = Field(16, description="videos a step, over all processes; a smaller last one is dropped")
    optimizer: Literal["adamw", "adam"] = Field(
        "adamw", description="adamw: weights decay apart from the gradient; adam: the decay is added to it"
    )
    lr: PositiveFloat = Field(1e-3, description="learning rate")
    weight_decay: NonNegativeFloat = Field(1e-4, description="weight decay")
    clip_norm: PositiveFloat | None = Field(None, description="gradient norm clipped to this; null: not clipped")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="autocast type of training")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="seeds weights, order, proposals and losses")


class InferenceSpec(Frozen):
    """Source: METHOD 10."""

    precision: Literal["float32", "bfloat16"] = Field("float32", description="autocast type of inference")
    proposal_stride: PositiveInt = Field(1, description="every n-th start and every n-th duration of the proposal map")
    boundary_share: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0, description="share of those that is tested: the best by start times end probability; ours"
    )
    candidates: Literal["boundary", "all"] = Field(
        "boundary", description="keep proposals at boundary candidates, or all"
    )
    sigma: PositiveFloat = Field(0.35, description="Gaussian soft-NMS: overlaps decay by exp(-tIoU^2 / sigma)")
    max_detections: PositiveInt = Field(100, description="segments kept a video; with a class head, detections")
    top_classes: PositiveInt = Field(
        2, description="video-level classes that label each segment; with a class head, classes a proposal may carry"
    )


class EvaluationSpec(Frozen):
    """Source: METHOD 11."""

    tiou: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = Field(
        (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95), min_length=1, description="tIoU thresholds of mAP"
    )
    blocked: str | None = Field(
        None, description="ids left out: a list shipped with the package (anet-79) or a JSON file"
    )
    proposals: tuple[PositiveInt, ...] = Field((1, 5, 10, 100), description="AN of AR@AN")


class RuntimeSpec(Frozen):
    """Where it runs; nothing here changes a result's meaning, so no key is made of it."""

    device: str = Field("auto", description="cpu, cuda, cuda:1 ...; auto: cuda where there is one")
    threads: PositiveInt | None = Field(None, description="CPU threads; null: PyTorch's choice")
    graph: bool = Field(
        False,
        description="replay training steps on features as a CUDA graph: on one GPU several times as fast; samplers random, "
        "label-guided and block can",
    )
    workers: Annotated[int, Field(ge=0)] = Field(0, description="loading processes; 0: load in the training process")
    checkpoint_every: PositiveInt = Field(
        100, description="steps between checkpoints (one at each epoch's end besides)"
    )
    log_every: PositiveInt = Field(10, description="steps between logged losses")
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = Field(
        (), description="mmengine visualisation backends besides files; each needs its package installed"
    )


class Spec(Frozen):
    """One run: what is trained on what, and how it is tested."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        "etad", description="names the run's folder"
    )
    data: DataSpec = DataSpec()
    encoder: EncoderSpec | None = Field(
        None, description="trained with the detector on videos; null: features as they are"
    )
    model: ModelSpec = ModelSpec()
    roi: RoISpec = RoISpec()
    cascade: CascadeSpec = CascadeSpec()
    proposals: ProposalSpec = ProposalSpec()
    loss: LossSpec = LossSpec()
    training: TrainingSpec = TrainingSpec()
    inference: InferenceSpec = InferenceSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    runtime: RuntimeSpec = RuntimeSpec()


TRAINED = ("data", "encoder", "model", "roi", "cascade", "proposals", "loss", "training")
TESTED = (*TRAINED, "inference", "evaluation")


class _Dumper(yaml.SafeDumper):
    """Quotes the strings that _Loader would read as numbers."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML that reads 1e-3 as a number (YAML 1.1 reads a string) and refuses a key given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def parse_yaml(text: str, where: str) -> Any:
    """YAML text as plain data. Raises SpecError, naming `where`, on bad syntax or any tag that would build an object."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise SpecError(f"{where}: not a plain YAML file: {error}") from None
    except RecursionError as error:
        raise SpecError(f"{where}: {error}") from None


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `over` replaced, mappings merged key by key; an entry of another name replaces it whole."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        if (
            isinstance(old, Mapping)
            and isinstance(value, Mapping)
            and ("name" not in old or value.get("name", old["name"]) == old["name"])
        ):
            value = merge(old, value)
        out[key] = value
    return out


def read_tree(path: str | Path, _chain: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The differences that a spec file and its `_base_` files state, merged. Raises SpecError."""
    path = Path(path).resolve()
    if path in _chain:
        raise SpecError(f"{path}: _base_ leads back to itself")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot read this spec: {error}") from None
    tree = parse_yaml(text, str(path)) or {}
    if not isinstance(tree, dict):
        raise SpecError(f"{path}: a spec is a mapping of sections, not {type(tree).__name__}")
    bases = tree.pop("_base_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise SpecError(f"{path}: _base_ is a file's path or a list of them, not {bases!r}")
    out: dict[str, Any] = {}
    for base in bases:
        out = merge(out, read_tree(path.parent / base, (*_chain, path)))
    return merge(out, tree)


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """`roi.bins=16` pairs as a tree. Raises SpecError."""
    out: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise SpecError(f"--set {pair!r}: write section.knob=value, for example roi.bins=16")
        value = parse_yaml(text, f"--set {pair}")
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        out = merge(out, value)
    return out


def _models(annotation: Any) -> type[Frozen] | None:
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType):
        return next((found for a in get_args(annotation) if (found := _models(a))), None)
    return None


def _refuse_unknown(model: type[Frozen], tree: Mapping[str, Any], where: str, path: str = "") -> None:
    for key, value in tree.items():
        field = model.model_fields.get(key)
        if field is None:
            near = difflib.get_close_matches(str(key), list(model.model_fields), 1, 0.5)
            elsewhere = [
                f"{s}.{key}"
                for s, f in Spec.model_fields.items()
                if (m := _models(f.annotation)) and key in m.model_fields
            ]
            mend = (
                f"did you mean {path}{near[0]}?"
                if near
                else f"did you mean {elsewhere[0]}?"
                if elsewhere
                else (f"known here: {', '.join(model.model_fields)}")
            )
            raise SpecError(f"{where}: unknown key {path}{key}; {mend}")
        inner = _models(field.annotation)
        if inner is not None and isinstance(value, Mapping):
            _refuse_unknown(inner, value, where, f"{path}{key}.")


def parse_spec(tree: Mapping[str, Any], where: str = "spec") -> Spec:
    """A tree of plain values, differences from the defaults only, as a Spec; strict types. Raises SpecError."""
    _refuse_unknown(Spec, tree, where)
    try:
        tree = merge(Spec().model_dump(mode="json"), tree)
        return Spec.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (given: {e['input']!r:.80})" for e in error.errors()]
        raise SpecError(f"{where}: " + "; ".join(lines)) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(f"{where}: {error}") from None


def read_spec(path: str | Path, overrides: Iterable[str] = ()) -> Spec:
    """A spec file with `--set` overrides applied. Raises SpecError."""
    return parse_spec(merge(read_tree(path), parse_overrides(overrides)), str(path))


def spec_text(spec: Spec) -> str:
    """The resolved spec as YAML that `read_spec` reads back to an equal Spec."""
    return yaml.dump(spec.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def differences(spec: Spec, base: Spec | None = None) -> dict[str, Any]:
    """Dotted knob -> value wherever `spec` differs from `base` (the defaults)."""

    def flat(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in tree.items():
            out |= flat(value, f"{path}{key}.") if isinstance(value, dict) and value else {f"{path}{key}": value}
        return out

    old = flat((base or Spec()).model_dump(mode="json"))
    return {key: value for key, value in flat(spec.model_dump(mode="json")).items() if old.get(key, old) != value}
