"""Spec -> model, data, optimiser: the only reader of a spec inside etad."""

import os
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from etad.data.batches import TrainingRows
from etad.data.samples import Corpus
from etad.engine import TrainingModel
from etad.inference import Inference
from etad.losses import ClassLoss, Criterion
from etad.model.aggregation import FeatureModule
from etad.model.boundary import BoundaryHead
from etad.model.detector import Detector
from etad.model.head import Stage
from etad.proposals import Draw, ProposalMap, proposal_map
from etad.registry import AGGREGATORS, DATASETS, SAMPLERS, lookup
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
                    classes=model.class_head.classes if model.class_head and s == last else 0,
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


def build_inference(spec: Spec, detector: nn.Module, device: torch.device) -> Inference:
    wanted = spec.inference
    return Inference(
        detector=detector,
        anchors=build_test_anchors(spec),
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
    return TrainingRows(
        corpus.subsets[spec.data.train_subset],
        corpus.annotations,
        min_length=spec.data.min_length,
        drop_short=spec.data.short_segments == "drop",
        min_inside=spec.data.windows.min_inside if spec.data.windows else 0.0,
        seed=spec.training.seed,
    )


def build_training(spec: Spec, detector: Detector, ids: tuple[str, ...]) -> TrainingModel:
    return TrainingModel(
        detector=detector,
        criterion=build_criterion(spec),
        sampler=build_sampler(spec),
        proposals=build_map(spec),
        ratio=spec.proposals.ratio,
        seed=spec.training.seed,
        ids=ids,
    )


def build_optimizer(spec: Spec, model: nn.Module) -> torch.optim.Optimizer:
    """Every parameter in one group; fused, which saves the copies of the unfused one."""
    training = spec.training
    return OPTIMIZERS[training.optimizer](
        model.parameters(), lr=training.lr, weight_decay=training.weight_decay, fused=True
    )
