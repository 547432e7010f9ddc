"""Specs written beside prepared data: each section with the reason for what it says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from etad.data.layout import Layout
from etad.record import replacing
from etad.spec import DataSpec

HEAD = """\
# Written beside the data. It trains as it stands, and others can inherit from it with _base_:
#   python -m experiments.run --spec {path}
"""


def sections(layout: Layout, *, classes: int, classifier: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """What a layout says beside the data, section by section, and why."""
    tree: dict[str, Any] = {
        "roi": {"bins": layout.bins},
        "proposals": {"ratio": layout.ratio, "max_duration": layout.max_duration},
        "training": {"batch": layout.batch, "epochs": layout.epochs, "decay_epochs": [layout.decay_epoch]},
        "inference": {"max_detections": layout.max_detections},
    }
    reasons = dict(layout.reasons)
    model: dict[str, Any] = {"width": 128, "roi_width": 128, "head_width": 64} if layout.small else {}
    why = [reasons.pop("model")] if layout.small else []
    if not classifier and classes > 1:
        model["class_head"] = {"classes": classes}
        why.append("the detector names classes itself, for no classifier is given")
    if model:
        tree["model"], reasons["model"] = model, "; ".join(why)
    return tree, reasons


def encoder(weights: Path | None) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Of a set of videos: what the spec says in data, what in encoder, and why."""
    if weights is not None:
        return {"channels": 512, "video": {}}, {"checkpoint": str(weights.resolve())}, "the paper's, from these weights"
    video = {"frames": 8, "stride": 3, "short_side": 64, "size": 56}
    network = {"network": {"name": "r2plus1d-small"}, "frozen_stages": None, "lr": 1e-4}
    why = "a small one from no weights, all of it trained, on 8 frames of 56 x 56 a snippet: what two cores can do"
    return {"channels": 128, "video": video}, network, why


def write_spec(path: Path, tree: Mapping[str, Any], reasons: Mapping[str, str]) -> Path:
    """Write a spec of what differs from the defaults, a section's reason above it."""
    default = DataSpec().model_dump(mode="json")
    data = {key: value for key, value in tree["data"].items() if value != default[key]}
    data |= {key: tree["data"][key] for key in ("tscale", "channels")}  # stated: they are properties of the pack
    with replacing(path) as file:
        file.write(HEAD.format(path=path))
        for section, value in {**tree, "data": data}.items():
            if section in reasons:
                file.write(f"\n# {reasons[section]}\n")
            file.write(yaml.safe_dump({section: value}, sort_keys=False, allow_unicode=True))
    return path
