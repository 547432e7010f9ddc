"""A detector over rows of features, without gradients. Source: METHOD 10."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from etad.data.samples import Samples
from etad.engine import autocast
from etad.postprocess import Scored


def predict(
    detector: nn.Module,
    samples: Samples,
    anchors: Tensor,
    *,
    top_classes: int,
    dtype: torch.dtype,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Scored]:
    """What the detector says of each row of samples, one at a time: proposals from anchors [M, 2], score IoU 1 x IoU 2.

    With a class head each proposal carries its `top_classes` likeliest classes.
    """
    assert samples.features is not None
    detector.to(device).eval()
    anchors = anchors.to(device).unsqueeze(0)
    for w, span in enumerate(samples.span_s):
        x = torch.from_numpy(np.array(samples.features[w], dtype=np.float32)).to(device)
        with torch.inference_mode(), autocast(device, dtype):
            out = detector(x.t().unsqueeze(0), anchors)
            segments, iou = out.proposals()
            classes = out.classes()
            best = None if classes is None else classes[0].topk(min(top_classes, classes.shape[-1]), dim=-1)
        yield Scored(
            segments[0].cpu().numpy(),
            iou[0].prod(-1).cpu().numpy(),
            out.boundary[0].cpu().numpy(),
            (span[0], span[1]),
            None if best is None else (best.indices.cpu().numpy(), best.values.cpu().numpy()),
        )
        if progress:
            progress(w + 1, len(samples.ids))
