"""Views of a video: the same for all its frames, a function of (seed, epoch, row)."""

import colorsys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etad.data.augment import View, draw_view

RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 256, (3, 3, 2, 4, 5), dtype=np.uint8)


def draws(**knobs: float | str) -> list[View]:
    given = {"crop": "random", "flip": 0.5, "jitter": 0.2} | knobs
    return [draw_view(seed=0, epoch=epoch, row=row, **given) for epoch in range(20) for row in range(50)]


def test_a_view_is_a_function_of_its_keys() -> None:
    assert draws() == draws()
    keys = [(seed, epoch, row) for seed in range(2) for epoch in range(2) for row in range(2)]
    views = {draw_view(seed=s, epoch=e, row=r, crop="random", flip=0.5, jitter=0.2) for s, e, r in keys}
    assert len(views) == len(keys)


def test_draws_are_as_the_knobs_say() -> None:
    views = draws()
    for values in ([v.top for v in views], [v.left for v in views]):
        assert min(values) < 0.01
        assert max(values) > 0.99
        assert abs(np.mean(values) - 0.5) < 0.05
    assert abs(np.mean([v.mirrored for v in views]) - 0.5) < 0.05
    for name in ("brightness", "contrast", "saturation"):
        values = [getattr(v, name) for v in views]
        assert 0.8 <= min(values) < 0.805
        assert 1.195 < max(values) <= 1.2
    corners = np.corrcoef(
        [[v.top, v.left, v.mirrored, v.brightness, v.contrast, v.saturation] for v in views], rowvar=False
    )
    assert np.abs(corners - np.eye(6)).max() < 0.15
    assert set(draws(crop="centre", flip=0.0, jitter=0.0)) == {View()}
    assert all(v.mirrored for v in draws(flip=1.0))


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    share=st.floats(0, 1),
    top=st.floats(0, 1),
    left=st.floats(0, 1),
)
def test_the_square_lies_inside(height: int, width: int, share: float, top: float, left: float) -> None:
    size = max(1, int(share * min(height, width)))
    y, x, same = View(top, left).box(height, width, size)
    assert same == size
    assert 0 <= y <= height - size
    assert 0 <= x <= width - size


def test_the_centre_is_in_the_middle() -> None:
    assert View().box(128, 170, 112) == (8, 29, 112)
    assert View(0, 0).box(128, 170, 112) == (0, 0, 112)
    assert View(1, 1).box(128, 170, 112) == (16, 58, 112)


def test_nothing_changes_by_default() -> None:
    assert View().apply(FRAMES) is FRAMES


def test_mirrored_left_to_right() -> None:
    out = View(mirrored=True).apply(FRAMES)
    for place in np.ndindex(FRAMES.shape):
        *other, x = place
        assert out[place] == FRAMES[(*other, FRAMES.shape[-1] - 1 - x)]


def coloured(pixel: tuple[int, ...], view: View) -> list[int]:
    """One pixel, step by step: saturation around its own grey, contrast around the middle, brightness."""
    grey = 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]
    saturated = [grey + view.saturation * (c - grey) for c in pixel]
    contrasted = [127.5 + view.contrast * (c - 127.5) for c in saturated]
    return [int(min(max(view.brightness * c + 0.5, 0), 255)) for c in contrasted]


@pytest.mark.parametrize(
    "view", [View(brightness=1.2), View(contrast=0.7), View(saturation=1.5), View(0, 0, False, 0.9, 1.3, 0.6)]
)
def test_every_pixel_of_every_frame_is_coloured_alike(view: View) -> None:
    out = view.apply(FRAMES)
    for t, l, y, x in np.ndindex(3, 2, 4, 5):
        expected = coloured(tuple(int(c) for c in FRAMES[t, :, l, y, x]), view)
        assert np.abs(out[t, :, l, y, x].astype(int) - expected).max() <= (1 if view.saturation != 1 else 0)


def test_without_saturation_it_is_grey() -> None:
    out = View(saturation=0.0).apply(FRAMES).astype(int)
    assert (np.ptp(out, axis=1) == 0).all()
    red = np.zeros((1, 3, 1, 1, 1), np.uint8)
    red[0, 0] = 200
    assert colorsys.rgb_to_yiq(200, 0, 0)[0] == pytest.approx(View(saturation=0.0).apply(red)[0, 0, 0, 0, 0], abs=1)
