"""Spec -> model, data, optimiser: the only reader of a spec inside etad."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from etad.data.batches import TrainingRows
from etad.data.samples import Corpus
from etad.end_to_end import EndToEndModel
from etad.engine import TrainingModel, record_steps
from etad.gradients import SnippetEncoder, snippet_count
from etad.inference import Inference
from etad.losses import ClassLoss, Criterion
from etad.model.aggregation import FeatureModule
from etad.model.boundary import BoundaryHead
from etad.model.class_head import ClassHead
from etad.model.detector import Detector
from etad.model.encoder import load_encoder
from etad.model.head import Stage
from etad.proposals import Draw, ProposalMap, proposal_map
from etad.registry import AGGREGATORS, DATASETS, ENCODERS, SAMPLERS, SNIPPET_SAMPLERS, lookup
from etad.spec import Spec, SpecError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


def build_device(spec: Spec) -> torch.device:
    name = spec.runtime.device
    if name == "auto":  # torchrun numbers the processes of a machine
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def build_corpus(spec: Spec) -> Corpus:
    """The data set that the spec names. Raises SpecError, DataError."""
    source, head = spec.data.source, spec.model.class_head
    corpus: Corpus = lookup(DATASETS, source, given=("spec",))(spec.data, **source.args)
    if head and head.classes != (count := len(corpus.annotations.classes)):
        raise SpecError(f"model.class_head.classes is {head.classes}, the annotations have {count}; set it to {count}")
    return corpus


def build_detector(spec: Spec) -> Detector:
    """The detector with weights drawn from training.seed, whatever was drawn before."""
    model, last = spec.model, len(spec.cascade.thresholds) - 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.training.seed)
        aggregator: nn.Module = lookup(AGGREGATORS, model.aggregator, given=("width",))(
            model.width, **model.aggregator.args
        )
        head = None
        if model.class_head:
            classes = model.class_head.classes
            head = ClassHead(roi_width=model.roi_width, channels=spec.data.channels, classes=classes)
        return Detector(
            features=FeatureModule(
                channels=spec.data.channels,
                width=model.width,
                groups=model.groups,
                norm_groups=model.norm_groups,
                aggregator=aggregator,
            ),
            boundary=BoundaryHead(width=model.width, groups=model.groups),
            stages=[
                Stage(
                    width=model.width,
                    groups=model.groups,
                    roi_width=model.roi_width,
                    head_width=model.head_width,
                    bins=spec.roi.bins,
                    extend=spec.roi.extend,
                    classes=head if s == last else None,
                )
                for s in range(last + 1)
            ],
        )


def build_map(spec: Spec) -> ProposalMap:
    return proposal_map(spec.data.tscale, max(1, round(spec.data.tscale * spec.proposals.max_duration)))


def build_test_anchors(spec: Spec) -> Tensor:
    """Anchors used at test time [M, 2]: the valid ones, every proposal_stride-th start and duration."""
    whole, stride = build_map(spec), spec.inference.proposal_stride
    return whole.anchors[(whole.cells % stride == 0).all(1)]


def build_inference(spec: Spec, detector: Detector, device: torch.device) -> Inference:
    wanted = spec.inference
    return Inference(
        detector=detector,
        anchors=build_test_anchors(spec),
        share=wanted.boundary_share,
        top_classes=wanted.top_classes,
        sigma=wanted.sigma,
        max_detections=wanted.max_detections,
        candidates=wanted.candidates,
        dtype=DTYPES[wanted.precision],
        device=device,
    )


def build_sampler(spec: Spec) -> Callable[[Draw], Tensor]:
    sampler = spec.proposals.sampler
    return partial(lookup(SAMPLERS, sampler, given=("draw",)), **sampler.args)


def build_criterion(spec: Spec) -> Criterion:
    loss, head = spec.loss, spec.model.class_head
    return Criterion(
        thresholds=spec.cascade.thresholds,
        iou_positive=loss.iou_positive,
        iou_bands=loss.iou_bands,
        boundary_positive=loss.boundary_positive,
        iou_weight=loss.iou_weight,
        offset_weight=loss.offset_weight,
        class_weight=loss.class_weight,
        released=loss.sampling == "released",
        classes=ClassLoss(positive=head.positive, weight=head.weight, focal=head.loss == "focal") if head else None,
    )


def build_rows(spec: Spec, corpus: Corpus) -> TrainingRows:
    """Raises SpecError where an encoder is given features, or frames meet no encoder."""
    samples = corpus.subsets[spec.data.train_subset]
    if spec.encoder is None and samples.frames is not None:
        raise SpecError("the data are frames: name an encoder (encoder={} is the paper's), or extract features first")
    if spec.encoder is not None and samples.frames is None:
        raise SpecError("the data are features already: set encoder=null, or name a source of videos")
    return TrainingRows(
        samples,
        corpus.annotations,
        min_length=spec.data.min_length,
        drop_short=spec.data.short_segments == "drop",
        min_inside=spec.data.windows.min_inside if spec.data.windows else 0.0,
        seed=spec.training.seed,
    )


def build_encoder(spec: Spec) -> SnippetEncoder:
    """The encoder with its checkpoint's weights, or drawn from training.seed. Raises SpecError, ValueError."""
    wanted = spec.encoder
    if wanted is None:
        raise SpecError("encoder is null: name the one that makes features of the frames")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.training.seed)
        network: nn.Module = lookup(ENCODERS, wanted.network)(**wanted.network.args)
    if wanted.checkpoint:
        if not Path(wanted.checkpoint).exists():
            raise ValueError(f"{wanted.checkpoint}: no such file; python -m experiments.pretrain trains an encoder")
        load_encoder(network, Path(wanted.checkpoint))
    return SnippetEncoder(
        network=network,
        channels=spec.data.channels,
        frozen_stages=wanted.frozen_stages,
        mean=wanted.mean,
        std=wanted.std,
        chunk=wanted.chunk,
    )


def count_snippets(spec: Spec) -> int:
    """Snippets of a video that train the encoder in a step."""
    wanted = spec.encoder
    return snippet_count(spec.data.tscale, wanted.ratio, wanted.rounding, wanted.chunk) if wanted else 0


def build_training(spec: Spec, detector: Detector, ids: tuple[str, ...]) -> TrainingModel:
    """The detector's training model, with an encoder before it where the spec has one."""
    parts: dict[str, Any] = {
        "detector": detector,
        "criterion": build_criterion(spec),
        "sampler": build_sampler(spec),
        "proposals": build_map(spec),
        "ratio": spec.proposals.ratio,
        "seed": spec.training.seed,
        "ids": ids,
    }
    wanted = spec.encoder
    if wanted is None:
        return TrainingModel(**parts)
    return EndToEndModel(
        **parts,
        encoder=build_encoder(spec),
        snippet_sampler=partial(lookup(SNIPPET_SAMPLERS, wanted.sampler, given=("draw",)), **wanted.sampler.args),
        count=count_snippets(spec),
        weighted=wanted.weighted,
    )


def build_optimizer(spec: Spec, model: nn.Module) -> torch.optim.Optimizer:
    """Every parameter with gradient, each in one group; fused, which saves the copies of the unfused one.

    The encoder's parameters have their own learning rate; frozen ones are in no group.
    """
    training = spec.training
    encoder = model.encoder.trained() if isinstance(model, EndToEndModel) else []
    held = {id(p) for p in encoder}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in held]
    groups: list[dict[str, Any]] = [{"params": rest}]
    if encoder and spec.encoder:
        groups.append({"params": encoder, "lr": spec.encoder.lr})
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad), "each in exactly one group"
    return OPTIMIZERS[training.optimizer](groups, lr=training.lr, weight_decay=training.weight_decay, fused=True)


def build_step(spec: Spec, device: torch.device | None = None) -> tuple[TrainingModel, torch.optim.Optimizer]:
    """Something to take training steps with, of nothing trained; without a device it may stand on fake tensors."""
    model = build_training(spec, build_detector(spec), ())
    if device is not None:  # fake tensors, which memory is traced on, cannot be moved
        model = model.to(device)
        if spec.runtime.graph and spec.encoder is None:
            record_steps(model, device, DTYPES[spec.training.precision])
    return model, build_optimizer(spec, model)
