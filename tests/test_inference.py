"""Detection over rows: a subset of the anchors gives what all of them give there."""

import numpy as np
import torch

from etad import build, inference
from etad.data.samples import Samples
from etad.postprocess import Scored
from etad.spec import Spec, parse_spec

SMALL = {
    "data": {"channels": 24, "tscale": 16},
    "model": {"width": 32, "groups": 2, "norm_groups": 4, "roi_width": 20, "head_width": 12},
    "roi": {"bins": 8},
}


def rows(spec: Spec, count: int) -> Samples:
    generator = np.random.default_rng(0)
    features = generator.standard_normal((count, spec.data.tscale, spec.data.channels)).astype(np.float16)
    return Samples(tuple(f"v{n}" for n in range(count)), np.tile([0.0, 9.0], (count, 1)), features)


def found(spec: Spec, share: float) -> list[Scored]:
    detector, anchors = build.build_detector(spec), build.build_test_anchors(spec)
    options = {"top_classes": 1, "dtype": torch.float32, "device": torch.device("cpu"), "share": share}
    return list(inference.predict(detector, rows(spec, 3), anchors, **options))  # type: ignore[arg-type]


def test_the_most_promising_anchors_by_their_boundaries() -> None:
    spec = parse_spec(SMALL)
    anchors = build.build_test_anchors(spec).numpy()
    for whole, part in zip(found(spec, 1.0), found(spec, 0.25), strict=True):
        np.testing.assert_array_equal(whole.boundary, part.boundary)
        start, end = whole.boundary
        products = [start[min(round(a * 16), 15)] * end[min(round(b * 16), 15)] for a, b in anchors]
        best = sorted(sorted(range(len(anchors)), key=lambda n: -products[n])[: len(anchors) // 4])
        np.testing.assert_allclose(part.scores, whole.scores[best], rtol=1e-5)
        np.testing.assert_allclose(part.segments, whole.segments[best], rtol=1e-4, atol=1e-6)
    assert inference.tested_count(136, 0.25) == 34
    assert inference.tested_count(136, 0.001) == 1
