"""The data set `synthetic_videos`: made-up clips (etad.data.moving_shapes) over drawn ground truth, kept as mp4 files."""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from etad.data.annotations import Annotations, Video
from etad.data.moving_shapes import SHAPES_1, ShapesModel, render
from etad.data.samples import Corpus
from etad.data.synthetic_bounds import ceiling_detections, floor_detections, make_scores
from etad.data.synthetic_truth import draw_annotations, read_statistics
from etad.data.video import pyav
from etad.data.videos import decoding, inspect_all, video_samples
from etad.record import replacing
from etad.registry import DATASETS
from etad.spec import DataSpec

NAME = "synthetic-videos-1"
SHORTER, SHORTEST_S = 0.1, 4.0  # made-up videos last a tenth of the benchmark's, at least so long
CODEC, QUANTISER = "mpeg4", 4  # FFmpeg's own encoder, which every build has


def drawn_truth(videos: dict[str, int], classes: int, seed: int, statistics: str, model: ShapesModel) -> Annotations:
    """Ground truth as of the made-up features, on shorter videos of whole frames: in fractions it is the same."""
    truth = draw_annotations(read_statistics(statistics), videos, classes, seed)

    def shorter(video: Video) -> Video:
        wanted_s = max(SHORTER * video.duration_s, SHORTEST_S)
        duration_s = round(wanted_s * model.frame_rate) / model.frame_rate
        return replace(video, duration_s=duration_s, segments_s=video.segments_s / video.duration_s * duration_s)

    settings = f"{truth.sha256}, {SHORTER}, {SHORTEST_S}, {model.frame_rate}"
    return replace(
        truth,
        videos={id: shorter(video) for id, video in truth.videos.items()},
        sha256=hashlib.sha256(settings.encode()).hexdigest(),
    )


def write_video(path: Path, frames: NDArray[np.uint8], frame_rate: int) -> None:
    """Frames [n, H, W, 3] as an mp4 file, which appears whole or not at all."""
    av = pyav()
    with replacing(path, "wb") as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(CODEC, rate=frame_rate)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.time_base = Fraction(1, frame_rate)
        context = stream.codec_context
        context.qmin = context.qmax = QUANTISER
        context.gop_size, context.thread_count = 12, 1
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))


def make_videos(folder: Path, videos: Iterable[Video], model: ShapesModel, seed: int, classes: int) -> dict[str, Path]:
    """The files of these videos; those that are not in the folder yet are made, with a bar on standard error."""
    paths = {video.id: folder / f"{video.id}.mp4" for video in videos}
    missing = [video for video in videos if not paths[video.id].exists()]

    def make(video: Video) -> None:
        write_video(paths[video.id], render(model, video, seed, classes), model.frame_rate)

    if missing:
        with ThreadPoolExecutor() as pool:
            made = pool.map(make, missing)
            for _ in track(made, f"making {NAME}", len(missing), console=Console(stderr=True), transient=True):
                pass
    return paths


def synthetic_videos(
    spec: DataSpec,
    *,
    train_videos: int = 400,
    test_videos: int = 200,
    classes: int = 10,
    seed: int = 0,
    statistics: str = "anet13",
    noise: float | None = None,
    folder: str = "prepared",
) -> Corpus:
    """Made-up clips, rendered at the first use into a folder below `folder`, and a made-up classifier.

    `noise` takes another difficulty than the frozen one: the set is not synthetic-videos-1 then. Raises ValueError.
    """
    if min(train_videos, test_videos, classes - 1) < 1 or seed < 0 or (noise or 0) < 0:
        raise ValueError(
            "synthetic_videos needs train_videos and test_videos of 1 or more, 2 or more classes, a seed and a noise "
            "of 0 or more"
        )
    by = decoding()
    model = SHAPES_1 if noise is None else SHAPES_1.model_copy(update={"noise": noise})
    name = NAME if noise is None else f"synthetic videos, noise {noise:g}"
    truth = drawn_truth(
        {spec.train_subset: train_videos, spec.test_subset: test_videos}, classes, seed, statistics, model
    )
    settings = json.dumps([model.model_dump(), classes, seed, statistics, SHORTER, SHORTEST_S, CODEC, QUANTISER])
    place = Path(folder) / f"{name.replace(', noise ', '-').replace(' ', '-')}-{_short(settings)}"
    paths = make_videos(place, truth.videos.values(), model, seed, classes)
    subsets = tuple(dict.fromkeys((spec.train_subset, spec.test_subset)))
    found, broken = inspect_all(truth, subsets, paths)
    if broken:
        raise ValueError(f"{next(iter(broken.values()))}; delete this file, it is made again")
    test = truth.subset(spec.test_subset)
    scores = {v.id: make_scores(model.events, v, truth.classes, seed) for v in test}
    table = read_statistics(statistics)
    return Corpus(
        mark=name,
        annotations=truth,
        subsets={subset: video_samples(spec, truth.subset(subset), found) for subset in subsets},
        classifier=scores,
        sources={
            "ground truth": f"drawn: {table.source}; videos of {SHORTER:g} of the duration, at least {SHORTEST_S:g} s",
            "videos": f"{name}, seed {seed}, {CODEC}, numpy {np.__version__}",
            "model": model.model_dump_json(),
            "decoding": by,
        },
        bounds={
            "floor": floor_detections(test, truth.classes, scores, np.array(table.windows)),
            "ceiling": ceiling_detections(test, truth.classes, scores, model.events, seed),
        },
    )


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


DATASETS.register_module(name="synthetic_videos", module=synthetic_videos)
