"""One view of a video: where it is cut, whether mirrored, how coloured; the same for all of its frames."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from etad.randomness import uniform

VIEWS = 3  # stream of random numbers, beside those of etad.data.batches
GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601: what each channel adds to the brightness


@dataclass(frozen=True)
class View:
    """Defaults: the centre, as it is."""

    top: float = 0.5  # share of the room above the square
    left: float = 0.5
    mirrored: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0

    def box(self, height: int, width: int, size: int) -> tuple[int, int, int]:
        """(top, left, size) of the square inside a frame."""
        return round(self.top * (height - size)), round(self.left * (width - size)), size

    def apply(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Frames [T, 3, L, H, W], cut already, mirrored and coloured: a copy where something changes."""
        if self.mirrored:
            frames = np.ascontiguousarray(frames[..., ::-1])
        if (self.brightness, self.contrast, self.saturation) == (1.0, 1.0, 1.0):
            return frames
        # grey + saturation (x - grey), then contrast around the middle, then brightness: one affine map of a pixel
        mixed = self.saturation * np.eye(3) + (1 - self.saturation) * GREY
        matrix = (self.brightness * self.contrast * mixed).astype(np.float32)
        offset = np.float32(self.brightness * (1 - self.contrast) * 127.5 + 0.5)  # and 0.5 for rounding
        out = np.empty_like(frames)
        for made, snippet in zip(out, frames, strict=True):
            coloured = matrix @ snippet.reshape(3, -1).astype(np.float32)
            made[...] = np.clip(coloured + offset, 0, 255).reshape(snippet.shape)
        return out


def draw_view(
    *, seed: int, epoch: int, row: int, crop: Literal["random", "centre"], flip: float, jitter: float
) -> View:
    """The view of a row in an epoch: a square anywhere, mirrored with probability flip, factors of 1 +- jitter."""
    top, left, mirror, *colours = uniform(seed, VIEWS, epoch, row, count=6).double().tolist()
    if crop == "centre":
        top = left = 0.5
    return View(top, left, mirror < flip, *(1 + jitter * (2 * u - 1) for u in colours))
