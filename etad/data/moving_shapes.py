"""Made-up clips: a shape whose motion is the action, among others that move too. docs/synthetic.md states the model.

Nothing but motion tells the action: the actor, brighter than the rest, is there all the time and drifts when idle.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.ndimage import zoom

from etad.data.annotations import Video
from etad.data.synthetic_features import SYNTHETIC_1, Range, Scene, SyntheticModel
from etad.data.synthetic_truth import generator

Floats = NDArray[np.float64]
Single = NDArray[np.float32]
MOTIONS = ("sideways", "up and down", "round", "pulse", "spin")


class ShapesModel(BaseModel):
    """Every setting of the made-up clips. Ranges are drawn from uniformly; lengths are shares of the picture's side."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    side: int = Field(64, ge=16, multiple_of=2, description="pixels of a picture's side")
    frame_rate: int = Field(8, ge=1, description="frames a second")
    noise: float = Field(0.04, ge=0, description="the difficulty: standard deviation of a pixel's noise, of 0 .. 1")
    rates: Range = Field((0.8, 2.4), description="Hz of the slowest and the fastest motion")
    reach: float = Field(0.2, description="how far a full motion moves the actor from its place")
    swell: float = Field(0.45, description="share by which a full pulse changes its size")
    start: float = Field(0.25, description="of a full motion, where the onset begins and the offset ends")
    actor: Range = Field((0.11, 0.16), description="half of the actor's length; the clutter's alike")
    wander: float = Field(0.08, description="how far the actor drifts when idle, at 0.05 to 0.2 Hz")
    clutter: tuple[int, int] = Field((2, 4), description="other shapes, a third of them before the actor")
    drift: float = Field(0.1, description="fastest clutter, sides a second; it bounces off the picture's edge")
    actor_colour: Range = Field((0.75, 1.0), description="of each of the actor's channels, 0 .. 1")
    clutter_colour: Range = Field((0.0, 0.6), description="the same of the clutter")
    shake: float = Field(0.015, description="how far the camera sways, at 0.3 to 1 Hz")
    events: SyntheticModel = Field(
        SYNTHETIC_1.model_copy(update={"shot_s": 5.0}),
        description="cuts, distractors, cutaways, jitter and classifier, as in the made-up features",
    )


SHAPES_1 = ShapesModel()


@dataclass(frozen=True)
class _Shape:
    """A rectangle over time: everything [n], lengths and places in pixels."""

    x: Floats
    y: Floats
    half_length: Floats
    half_width: Floats
    angle: Floats
    colour: Single  # [3], 0 .. 1
    opacity: Floats


def motion(label: int, classes: int, model: ShapesModel) -> tuple[str, float]:
    """The action of a class: what moves, and its rate in Hz."""
    levels = -(-classes // len(MOTIONS))
    low, high = model.rates
    rate = low * (high / low) ** (label // len(MOTIONS) / max(levels - 1, 1))
    return MOTIONS[label % len(MOTIONS)], float(rate)


def frame_times(model: ShapesModel, video: Video) -> Floats:
    """Middle of each frame's time in seconds [n]."""
    count = max(2, round(video.duration_s * model.frame_rate))
    return (np.arange(count) + 0.5) / model.frame_rate


def render(model: ShapesModel, video: Video, seed: int, classes: int) -> NDArray[np.uint8]:
    """A video's frames [n, H, W, 3], a function of these arguments alone."""
    times = frame_times(model, video)
    scene = Scene(model.events, video, seed, "full")
    pauses = _pauses(model.events, video, scene.segments, seed)
    away = sum((_during(times, *span) for *span, cut in pauses if cut), np.zeros(len(times))) > 0
    rng = generator(seed, video.id, "look")
    sway = model.shake * model.side * np.stack([_wave(rng, times, (0.3, 1.0)) for _ in range(2)])
    pictures = _backgrounds(rng, model, scene, times, sway, away)
    still = np.prod([1 - _during(times, *span) for *span, _ in pauses], axis=0) if pauses else np.ones(len(times))
    actor = _actor(rng, model, video, scene, times, classes, still, away)
    number = int(rng.integers(model.clutter[0], model.clutter[1] + 1))
    clutter = [_clutter(rng, model, times) for _ in range(number)]
    for shape in (*clutter[number // 3 :], actor, *clutter[: number // 3]):
        _draw(pictures, shape, sway)
    pixels = generator(seed, video.id, "pixels").standard_normal(pictures.shape, np.float32)
    pictures += np.float32(model.noise) * pixels
    out: NDArray[np.uint8] = (np.clip(pictures, 0, 1) * 255 + 0.5).astype(np.uint8)
    return out


def _during(times: Floats, start: float, end: float) -> Floats:
    out: Floats = ((times >= start) & (times < end)).astype(np.float64)
    return out


def _wave(rng: np.random.Generator, times: Floats, rates: Range) -> Floats:
    """A smooth path [n] about 0 that reaches about 1: the mean of two sine waves."""
    rate, phase = rng.uniform(*rates, 2), rng.uniform(0, 2 * np.pi, 2)
    out: Floats = np.sin(2 * np.pi * rate * times[:, None] + phase).mean(1)
    return out


def _pauses(events: SyntheticModel, video: Video, segments: Floats, seed: int) -> list[tuple[float, float, bool]]:
    """(start, end, whether the picture cuts away) of breaks in the action, drawn as those of the made-up features."""
    rng, out = generator(seed, video.id, "breaks"), []
    for start, end in segments.tolist():
        for cut, count in enumerate(rng.poisson((events.pauses, events.cutaways)).tolist()):
            for _ in range(count):
                length = rng.uniform(*events.pause) * (end - start)
                begin = rng.uniform(start + 0.1 * (end - start), end - 0.1 * (end - start) - length)
                out.append((begin, begin + length, bool(cut)))
    return out


def _backgrounds(
    rng: np.random.Generator, model: ShapesModel, scene: Scene, times: Floats, sway: Floats, away: NDArray[np.bool_]
) -> Single:
    """Smooth coloured patterns [n, H, W, 3], one a shot and one of what is cut away to, swaying with the camera."""
    side, room = model.side, model.side // 4
    shots = np.searchsorted(scene.cuts, times)
    shots[away] = len(scene.cuts) + 1
    patterns = []
    for _ in range(len(scene.cuts) + 2):
        coarse = 0.5 + 0.08 * rng.standard_normal((6, 6, 3)) + 0.12 * rng.standard_normal(3)
        factor = (side + 2 * room) / 6
        patterns.append(np.clip(zoom(coarse, (factor, factor, 1), order=1), 0.1, 0.9).astype(np.float32))
    corner = np.clip(np.round(room + sway), 0, 2 * room).astype(int)
    return np.stack([patterns[k][y : y + side, x : x + side] for k, x, y in zip(shots, *corner, strict=True)])


def _strengths(
    rng: np.random.Generator, model: ShapesModel, video: Video, scene: Scene, times: Floats, classes: int
) -> list[tuple[int, float, Floats]]:
    """(class, seconds where its motion begins, how full the motion is [n]) of every instance and distractor."""
    out = []
    for (start, end), gain, fades, label in zip(scene.segments, scene.gain, scene.fades, video.labels, strict=True):
        length = max(end - start, 1e-9)
        rise, fall = (
            (x / (length * fade)).clip(0, 1) for x, fade in zip((times - start, end - times), fades, strict=True)
        )
        full = model.start + (1 - model.start) * (0.5 - 0.5 * np.cos(np.pi * np.minimum(rise, fall)))
        out.append((int(label), float(start), gain * full * _during(times, start, end)))
    for start, end, phase, gain in scene.distractors:  # an onset that breaks off, a middle alone, an offset alone
        along = ((times - start) / max(end - start, 1e-9)).clip(0, 1)
        shape = (along, np.full(len(times), 0.5), 1 - along)[phase]
        out.append((int(rng.integers(classes)), start, gain * shape * _during(times, start, end)))
    return out


def _actor(
    rng: np.random.Generator,
    model: ShapesModel,
    video: Video,
    scene: Scene,
    times: Floats,
    classes: int,
    still: Floats,
    away: NDArray[np.bool_],
) -> _Shape:
    """The shape that acts: it drifts about the middle, and moves as its class does where there is action."""
    side, n = model.side, len(times)
    x, y = (0.5 + rng.uniform(-0.1, 0.1) + model.wander * _wave(rng, times, (0.05, 0.2)) for _ in range(2))
    size, angle = np.ones(n), np.full(n, rng.uniform(0, np.pi)) + 0.3 * _wave(rng, times, (0.05, 0.2))
    half = float(rng.uniform(*model.actor))
    for label, start, full in _strengths(rng, model, video, scene, times, classes):
        kind, rate = motion(label, classes, model)
        full = full * still
        begin, turn = rng.uniform(0, 2 * np.pi), rng.choice((-1.0, 1.0))
        phase = begin + 2 * np.pi * rate * (times - start)
        if kind in ("sideways", "round"):
            x = x + model.reach * full * np.cos(phase)
        if kind in ("up and down", "round"):
            y = y + model.reach * full * np.sin(phase) * turn
        if kind == "pulse":
            size = size + model.swell * full * np.cos(phase)
        if kind == "spin":
            angle = angle + turn * np.cumsum(2 * np.pi * rate * full) / model.frame_rate
    return _Shape(
        x * side,
        y * side,
        np.maximum(half * size, 0.02) * side,
        np.maximum(0.5 * half * size, 0.01) * side,
        angle,
        rng.uniform(*model.actor_colour, 3).astype(np.float32),
        np.where(away, 0.0, 1.0),
    )


def _clutter(rng: np.random.Generator, model: ShapesModel, times: Floats) -> _Shape:
    """Another shape: goes straight on and turns slowly, or stands still (one in three)."""
    side, n = model.side, len(times)
    speed = rng.uniform(-model.drift, model.drift, 2) * (rng.random() > 1 / 3)
    place = rng.uniform(0, 2, 2) + speed * times[:, None]
    x, y = (1 - np.abs(place % 2 - 1)).T  # bounces between 0 and 1
    half = float(rng.uniform(*model.actor)) * side
    angle = rng.uniform(0, np.pi) + rng.uniform(-0.5, 0.5) * times
    colour = rng.uniform(*model.clutter_colour, 3).astype(np.float32)
    return _Shape(x * side, y * side, np.full(n, half), np.full(n, 0.5 * half), angle, colour, np.ones(n))


def _draw(pictures: Single, shape: _Shape, sway: Floats) -> None:
    """Lay a shape over the pictures [n, H, W, 3], its edges one pixel soft."""
    height, width = pictures.shape[1:3]
    reach = int(np.ceil(np.hypot(shape.half_length, shape.half_width).max())) + 1
    x, y = shape.x - sway[0], shape.y - sway[1]
    around = np.arange(-reach, reach + 1)
    columns = np.round(x).astype(int)[:, None, None] + around[None, None, :]
    rows = np.round(y).astype(int)[:, None, None] + around[None, :, None]
    dx, dy = columns + 0.5 - x[:, None, None], rows + 0.5 - y[:, None, None]
    cos, sin = np.cos(shape.angle)[:, None, None], np.sin(shape.angle)[:, None, None]
    along, across = np.abs(cos * dx + sin * dy), np.abs(cos * dy - sin * dx)
    cover = (shape.half_length[:, None, None] - along + 0.5).clip(0, 1)
    cover *= (shape.half_width[:, None, None] - across + 0.5).clip(0, 1) * shape.opacity[:, None, None]
    cover[np.broadcast_to((columns < 0) | (columns >= width) | (rows < 0) | (rows >= height), cover.shape)] = 0
    frame, row, column = np.nonzero(cover)
    part = cover[frame, row, column, None].astype(np.float32)
    at = frame, rows[frame, row, 0], columns[frame, 0, column]
    pictures[at] += part * (shape.colour - pictures[at])
