"""Made-up features over ground truth, made up or real. docs/synthetic.md states the model in equations."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.signal import lfilter

from etad.data.annotations import Video
from etad.data.synthetic_truth import generator

Floats = NDArray[np.float64]
Single = NDArray[np.float32]
Range = tuple[float, float]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Strength = Annotated[float, Field(ge=0.0)]
Variant = Literal["full", "no-phases", "no-correlation", "no-cutaways", "no-distractors"]


class SyntheticModel(BaseModel):
    """Every strength of the made-up features. Ranges are drawn from uniformly; patterns are vectors of length one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    noise: Strength = Field(
        0.2,
        description="the difficulty: standard deviation of the noise in any one direction (a channel)",
    )
    correlation: Share = Field(0.7, description="of the noise in neighbouring columns (AR(1))")
    shared: Strength = Field(1.2, description="strength of the action pattern that all classes share")
    own: Strength = Field(0.8, description="strength of the class's action pattern")
    gain: Range = Field((0.8, 1.2), description="factor on both, drawn once an instance")
    phase: Strength = Field(1.0, description="what a phase adds to its pattern, against what its three phases share")
    onset: Range = Field((0.15, 0.4), description="share of an instance in which the onset pattern fades; offset alike")
    context: Strength = Field(0.2, description="strength of the class pattern's common part everywhere in the video")
    background: Strength = Field(0.8, description="strength of the video's background")
    shot: Strength = Field(0.6, description="strength of what each shot adds to it")
    rank: int = Field(32, ge=1, description="dimensions of the space that backgrounds and the shared patterns live in")
    shot_s: float = Field(10.0, gt=0, description="mean seconds between two cuts (Poisson)")
    lead_in: Strength = Field(0.6, description="strength of the lead-in where it meets the instance; it rises from 0")
    aftermath: Strength = Field(
        0.6, description="strength of the aftermath where it leaves the instance; it falls to 0"
    )
    around: Range = Field((0.05, 0.25), description="length of lead-in and aftermath, instance lengths")
    cutaways: Strength = Field(0.5, description="mean number an instance (Poisson): another shot hides the action")
    pauses: Strength = Field(0.5, description="mean number an instance (Poisson): the action stops, the shot goes on")
    pause: Range = Field((0.05, 0.2), description="length of a cutaway or pause, instance lengths")
    hidden: Share = Field(0.9, description="share of the action that a cutaway or pause hides")
    distractors: Strength = Field(0.7, description="mean number an instance (Poisson) of false parts outside instances")
    distractor: Range = Field((0.15, 0.6), description="length of a distractor, lengths of the gap that it lies in")
    distractor_own: Share = Field(0.3, description="share of the class pattern in a distractor")
    blur: Share = Field(0.04, description="length over which an instance fades in and out, instance lengths")
    jitter: Range = Field(
        (0.02, 0.08), description="standard deviation of an annotated boundary, instance lengths; at most twice that"
    )
    touching: Share = Field(
        0.01, description="boundaries this near the video's ends are exact: the video cuts them off"
    )
    accuracy: Share = Field(0.88, description="how often the video-level classifier's best class is right")
    second: Share = Field(0.6, description="how often its second is right where the best is wrong")
    right_score: Range = Field((3.8, 0.19), description="Beta parameters of its best score where right")
    wrong_score: Range = Field((1.75, 0.72), description="the same where wrong")

    def scale(self, channels: int) -> float:
        """Factor on everything that gives C channels about unit variance."""
        energy = self.background**2 + self.shot**2 + 0.5 * (self.shared**2 + self.own**2)
        return float(1 / np.sqrt(self.noise**2 + energy / channels))


SYNTHETIC_1 = SyntheticModel()


@dataclass(frozen=True)
class Patterns:
    """What all videos have in common, a function of the seed, the number of classes and of channels C."""

    scenes: Single  # [rank, C], orthonormal
    shared: Single  # [3, C]: onset, middle, offset
    around: Single  # [2, C]: lead-in, aftermath
    own: Single  # [classes, 3, C]
    context: Single  # [classes, C]


def _unit(x: Floats) -> Single:
    out: Single = (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)
    return out


def make_patterns(model: SyntheticModel, seed: int, classes: int, channels: int, variant: Variant = "full") -> Patterns:
    """Raises ValueError for an unknown variant or too few channels."""
    if variant not in get_args(Variant):
        raise ValueError(f"no synthetic variant {variant!r}; known: {', '.join(get_args(Variant))}")
    if channels < model.rank:
        raise ValueError(f"synthetic features need at least {model.rank} channels, not {channels}")
    rng = generator(seed, "", "patterns")
    scenes = np.linalg.qr(rng.standard_normal((channels, model.rank)))[0].T
    common, own = rng.standard_normal((2, 3, model.rank))
    around = rng.standard_normal((2, model.rank))
    contexts = _unit(rng.standard_normal((classes, channels)))
    parts = _unit(rng.standard_normal((classes, 3, channels)))
    phase = 0.0 if variant == "no-phases" else model.phase
    shared = _unit(common[:1]) + phase * _unit(own)
    ends = _unit(_unit(common[:1]) + model.phase * _unit(own))[[0, 2]]  # of the full model, in each variant
    return Patterns(
        scenes=scenes.astype(np.float32),
        shared=_unit(shared @ scenes),
        around=_unit((_unit(around) + ends) @ scenes),
        own=_unit(contexts[:, None] + phase * parts),
        context=contexts,
    )


def true_segments(model: SyntheticModel, video: Video, seed: int) -> Floats:
    """What the features show: the annotated segments [N, 2] in seconds before their jitter.

    A boundary moves by less than half of its segment and less than half of the way to another segment beside it.
    """
    rng = generator(seed, video.id, "jitter")
    segments = video.segments_s
    lengths = segments[:, 1] - segments[:, 0]
    scale = rng.uniform(*model.jitter, len(segments)) * lengths
    moves = np.clip(rng.standard_normal(segments.shape), -2, 2) * scale[:, None]
    moves[_touching(model, video)] = 0
    starts, ends = np.sort(segments[:, 0]), np.sort(segments[:, 1])
    before = np.r_[0.0, ends][np.searchsorted(ends, segments[:, 0], "right")]
    after = np.r_[starts, video.duration_s][np.searchsorted(starts, segments[:, 1], "left")]
    low = np.stack([(before - segments[:, 0]) / 2, -0.45 * lengths], 1)
    high = np.stack([0.45 * lengths, (after - segments[:, 1]) / 2], 1)
    return np.clip(segments + np.clip(moves, low, high), 0, video.duration_s)


def _touching(model: SyntheticModel, video: Video) -> NDArray[np.bool_]:
    edge = model.touching * video.duration_s
    return np.stack([video.segments_s[:, 0] <= edge, video.segments_s[:, 1] >= video.duration_s - edge], 1)


def _inside(times: Floats, start: Floats | float, end: Floats | float, width: Floats | float) -> Floats:
    """Share of [start, end) in windows of `width` around times [T]: [T, N], or [T] for one segment."""
    times = times.reshape(-1, *[1] * np.ndim(start))
    after, before = (np.clip((times - edge) / width + 0.5, 0, 1) for edge in (start, end))
    out: Floats = after - before
    return out


class Scene:
    """One video's made-up events, from which its features at any times follow."""

    def __init__(self, model: SyntheticModel, video: Video, seed: int, variant: Variant) -> None:
        self.model, self.video, self.seed, self.variant = model, video, seed, variant
        self.segments = true_segments(model, video, seed)
        count, lengths = len(self.segments), self.segments[:, 1] - self.segments[:, 0]
        rng = generator(seed, video.id, "action")
        self.gain = rng.uniform(*model.gain, count)
        self.fades = rng.uniform(*model.onset, (count, 2))
        self.around = rng.uniform(*model.around, (count, 2)) * lengths[:, None]
        rng = generator(seed, video.id, "shots")
        self.background = model.background * _unit(rng.standard_normal(model.rank))
        cuts = rng.poisson(video.duration_s / model.shot_s)
        self.cuts = np.sort(rng.uniform(0, video.duration_s, cuts))
        self.shots = model.shot * _unit(rng.standard_normal((cuts + 1, model.rank)))
        self.distractors = self._distractors() if variant != "no-distractors" else []

    def _distractors(self) -> list[tuple[float, float, int, float]]:
        """(start, end, phase, gain) of false parts: at most one in each gap between instances, long gaps first."""
        model, segments = self.model, self.segments
        rng = generator(self.seed, self.video.id, "distractors")
        ends = np.maximum.accumulate(np.r_[0.0, np.sort(segments[:, 1])])
        gaps = np.maximum(np.r_[np.sort(segments[:, 0]), self.video.duration_s] - ends, 0)
        number = min(int(rng.poisson(model.distractors * max(1, len(segments)))), int(np.count_nonzero(gaps)))
        chosen = rng.choice(len(gaps), number, replace=False, p=gaps / gaps.sum()) if number else np.empty(0, int)
        out = []
        for gap in chosen.tolist():
            length = rng.uniform(*model.distractor) * gaps[gap]
            start = ends[gap] + rng.uniform(0, gaps[gap] - length)
            out.append((start, start + length, int(rng.integers(3)), rng.uniform(*model.gain)))
        return out

    def _hidden(self, times: Floats, width: float, scene: Single) -> Floats:
        """What is left [T, N] of each instance beside cutaways and pauses; `scene` [T, rank] changes in cutaways."""
        model = self.model
        left = np.ones((len(times), len(self.segments)))
        if self.variant == "no-cutaways":
            return left
        rng = generator(self.seed, self.video.id, "cutaways")
        for i, (start, end) in enumerate(self.segments):
            for k, times_cut in enumerate(rng.poisson((model.cutaways, model.pauses))):
                for _ in range(times_cut):
                    length = rng.uniform(*model.pause) * (end - start)
                    begin = rng.uniform(start + 0.1 * (end - start), end - 0.1 * (end - start) - length)
                    other = model.shot * _unit(rng.standard_normal(model.rank))
                    box = _inside(times, begin, begin + length, width)
                    left[:, i] *= 1 - model.hidden * box
                    if k == 0:
                        scene += box[:, None].astype(np.float32) * (other - scene + self.background)
        return left

    def signal(self, patterns: Patterns, times: Floats, width: float) -> Single:
        """Noise-free features [T, C] of columns `width` seconds wide around times [T] in seconds."""
        model, segments = self.model, self.segments
        scene = self.background + self.shots[np.searchsorted(self.cuts, times)]
        left = self._hidden(times, width, scene)
        lengths = segments[:, 1] - segments[:, 0]
        touching = np.where(_touching(model, self.video), self.video.duration_s, 0.0)
        seen = segments + touching * (-1, 1)  # an instance that the video cuts off does not fade there
        there = _inside(times, seen[:, 0], seen[:, 1], np.maximum(model.blur * lengths, width))
        since, until = times[:, None] - segments[:, 0], segments[:, 1] - times[:, None]
        on, off = (
            0.5 + 0.5 * np.cos(np.pi * np.clip(x / np.maximum(lengths * fade, 1e-9), 0, 1))
            for x, fade in ((since, self.fades[:, 0]), (until, self.fades[:, 1]))
        )
        phases = np.stack([on, 1 - on - off, off], 2) * (there * left * self.gain)[:, :, None]  # [T, N, 3]
        free = 1 - there.max(1, initial=0.0)
        ramps = [
            np.where(x < 0, np.clip(1 + x / np.maximum(around, 1e-9), 0, 1), 0).max(1, initial=0.0) * free
            for x, around in ((since, self.around[:, 0]), (until, self.around[:, 1]))
        ]
        shared, classes = phases.sum(1), np.unique(self.video.labels)
        own = [phases[:, self.video.labels == c].sum(1) for c in classes]
        for start, end, phase, gain in self.distractors:
            part = gain * _inside(times, start, end, max(model.blur * (end - start), width))
            shared[:, phase] += part
            if own:
                own[0][:, phase] += model.distractor_own * part
        context = np.full((len(times), len(classes)), model.context / max(len(classes), 1))
        weights = np.concatenate(
            [model.shared * shared, model.lead_in * ramps[0][:, None], model.aftermath * ramps[1][:, None]]
            + [model.own * o for o in own]
            + [context, scene],
            axis=1,
        )
        vectors = [patterns.shared, patterns.around, *patterns.own[classes], patterns.context[classes], patterns.scenes]
        out: Single = weights.astype(np.float32) @ np.concatenate(vectors)
        return out

    def features(self, patterns: Patterns, times: Floats, width: float) -> NDArray[np.float16]:
        """Features [T, C] of columns `width` seconds wide around times [T], about unit variance."""
        model = self.model
        out = self.signal(patterns, times, width)
        noise = generator(self.seed, self.video.id, "noise").standard_normal(out.shape, np.float32)
        if self.variant != "no-correlation":
            fresh = np.float32(np.sqrt(1 - model.correlation**2))
            noise[1:] *= fresh
            noise = lfilter(np.ones(1, np.float32), np.array([1, -model.correlation], np.float32), noise, axis=0)
        scale = model.scale(out.shape[1])
        noise *= np.float32(model.noise * scale)
        out *= np.float32(scale)
        out += noise
        return out.astype(np.float16)
