"""The authors' checkpoint format: their state_dict names and layouts, to ours and back."""

from collections.abc import Mapping

import torch
from torch import Tensor

_NAMES = {
    "features.project": "temporal_enhance.layer1",
    "features.aggregator.forward_lstm": "temporal_enhance.mem_f",
    "features.aggregator.backward_lstm": "temporal_enhance.mem_b",
    "features.ahead": "temporal_enhance.layer2_f",
    "features.back": "temporal_enhance.layer2_b",
    "features.direct": "temporal_enhance.layer2_d",
    "features.merge": "temporal_enhance.layer3",
    "boundary": "tem",
}
_STAGE = {
    "enhance": "stage_conv.{s}.0",
    "reduce": "stage_pem.{s}.reduce_dim_before.0",
    "iou": "stage_pem.{s}.iou_fc",
    "boundary": "stage_pem.{s}.cls_se_fc",
    "centre": "stage_pem.{s}.reg_cw_fc",
    "start": "stage_pem.{s}.reg_s_fc",
    "end": "stage_pem.{s}.reg_e_fc",
}
_ROI = ("stage_pem.{s}.reduce_dim_ext.0", "stage_pem.{s}.reg_s_fc.0", "stage_pem.{s}.reg_e_fc.0")


def _released_name(name: str) -> str:
    """The authors' name of one of our tensors, the RoI layers apart."""
    if not name.startswith("stages."):
        prefix = next((p for p in _NAMES if name.startswith(f"{p}.")), None)
        if prefix is None:
            raise ValueError(f"the authors' format has no place for {name}: theirs aggregates by LSTMs, or not at all")
        return _NAMES[prefix] + name[len(prefix) :]
    _, s, part, *rest = name.split(".")
    if part == "classes":
        raise ValueError("the authors' format has no place for a class head; theirs are labelled from outside")
    if part in ("start", "end"):  # their first layer is one of our RoI layers
        rest[0] = str(int(rest[0]) + 2)
    return ".".join((_STAGE[part].format(s=s), *rest))


def to_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our detector's state in the authors' names and shapes. Raises ValueError where they have no place for a part."""
    out = {}
    for name, value in state.items():
        if name.endswith("roi_weight"):
            bins = value.shape[1] * 2 // 3
            for to, part in zip(_ROI, value.split((bins, bins // 4, bins // 4), 1), strict=True):
                out[f"{to.format(s=name.split('.')[1])}.weight"] = part.permute(2, 0, 1).flatten(1).contiguous()
        elif name.endswith("roi_bias"):
            for to, part in zip(_ROI, value, strict=True):
                out[f"{to.format(s=name.split('.')[1])}.bias"] = part.clone()
        else:
            out[_released_name(name)] = value
    return out


def from_released(state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state in our names and shapes, `like` being our detector's state. A `module.` prefix is dropped.

    Raises ValueError naming tensors that are missing, unknown or of another shape.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    expected = {name: value.shape for name, value in to_released(like).items()}
    wrong = sorted(
        [f"{n} missing" for n in expected.keys() - state.keys()]
        + [f"{n} unknown" for n in state.keys() - expected.keys()]
        + [
            f"{n} is {tuple(state[n].shape)}, not {tuple(s)}"
            for n, s in expected.items()
            if n in state and state[n].shape != s
        ]
    )
    if wrong:
        raise ValueError(
            f"not a checkpoint of this detector: {'; '.join(wrong[:5])}" + (" ..." if len(wrong) > 5 else "")
        )
    out = {}
    for name, value in like.items():
        if name.endswith(("roi_weight", "roi_bias")):
            names = [to.format(s=name.split(".")[1]) for to in _ROI]
            if name.endswith("bias"):
                out[name] = torch.stack([state[f"{n}.bias"] for n in names])
            else:
                C, _, O = value.shape
                out[name] = torch.cat([state[f"{n}.weight"].view(O, C, -1).permute(1, 2, 0) for n in names], 1)
        else:
            out[name] = state[_released_name(name)]
    return out
