"""Rows of frames from video files, and the data set `videos`: a folder of them."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from etad.data.annotations import Annotations, DataError, read_annotations
from etad.data.annotations import Video as Annotated
from etad.data.augment import View, draw_view
from etad.data.features import check_pattern, name_below
from etad.data.samples import Corpus, Samples
from etad.data.snippet_cache import SnippetCache
from etad.data.snippets import snippet_times
from etad.data.sources import less, make_corpus, with_features
from etad.data.video import Video, VideoError, inspect, pyav, read_frames
from etad.data.windows import row_spans
from etad.registry import DATASETS
from etad.spec import DataSpec, SpecError, VideoSpec

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class VideoRows:
    """Rows of frames, see etad.data.samples.Frames: row w shows span_s[w] of videos[w] in `tscale` snippets."""

    spec: VideoSpec
    tscale: int
    videos: tuple[Video, ...]  # [W]
    span_s: Floats  # [W, 2]
    cache: SnippetCache | None

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        if not 0 <= row < len(self):
            raise IndexError(row)
        return self._read(row, View())

    def augmented(self, row: int, *, seed: int, epoch: int) -> NDArray[np.uint8]:
        spec = self.spec
        view = draw_view(seed=seed, epoch=epoch, row=row, crop=spec.crop, flip=spec.flip, jitter=spec.jitter)
        return self._read(row, view)

    def times_s(self, row: int) -> Floats:
        """When the frames [T, L] of a row are shown."""
        start_s, end_s = self.span_s[row].tolist()
        rate, spec = self.videos[row].frame_rate, self.spec
        return snippet_times(
            (start_s, end_s), tscale=self.tscale, frames=spec.frames, stride=spec.stride, frame_rate=rate
        )

    def _read(self, row: int, view: View) -> NDArray[np.uint8]:
        video, spec, times_s = self.videos[row], self.spec, self.times_s(row)
        conceal, loading = spec.broken == "skip", torch.utils.data.get_worker_info() is not None
        read = partial(
            read_frames,
            video,
            times_s,
            short_side=spec.short_side,
            conceal=conceal,
            threads=1 if loading else 0,  # loading processes share the cores already
        )
        box = view.box(*video.resized(spec.short_side), spec.size)
        if self.cache is None:
            return view.apply(read(box=box))
        moments = hashlib.sha256(times_s.tobytes()).hexdigest()
        whole = self.cache.get(video.path, f"{moments}, {spec.short_side}, {conceal}, {decoding()}", read)
        top, left, size = box
        return view.apply(np.ascontiguousarray(whole[..., top : top + size, left : left + size]))


def video_samples(spec: DataSpec, shown: Sequence[Annotated], found: Mapping[str, Video]) -> Samples:
    """Rows of these videos: each whole, or cut into windows. Raises SpecError without data.video."""
    windows, spans = spec.windows, {}
    for video in shown:
        columns = max(1, round(video.duration_s / windows.stride_s)) if windows else spec.tscale
        spans[video.id] = row_spans(columns, video.duration_s, spec.tscale, windows)
    ids = tuple(id for id, span in spans.items() for _ in span)
    span_s = np.concatenate([*spans.values()])
    wanted = video_spec(spec)
    cache = SnippetCache(Path(wanted.cache)) if wanted.cache else None
    rows = VideoRows(wanted, spec.tscale, tuple(found[id] for id in ids), span_s, cache)
    return Samples(ids=ids, span_s=span_s, features=None, frames=rows)


def video_spec(spec: DataSpec) -> VideoSpec:
    if spec.video is None:
        raise SpecError(
            f"data.source {spec.source.name} gives frames: write data.video={{}} for its defaults, or a size"
        )
    return spec.video


def videos(
    spec: DataSpec, *, videos: str, pattern: str, annotations: str, classifier: str | None = None, mark: str = "custom"
) -> Corpus:
    """Video files in a folder; `pattern` names a video's: '{id}.mp4', or '{id}.*' where their endings differ.

    Raises DataError, SpecError.
    """
    shown, by = video_spec(spec), decoding()
    truth = read_annotations(annotations)
    subsets = tuple(dict.fromkeys((spec.train_subset, spec.test_subset)))
    ids = [video.id for name in subsets for video in truth.subset(name)]
    paths = find_files(Path(videos), pattern, ids)
    truth = with_features(truth, subsets, set(ids) - paths.keys(), spec.missing, "files")
    found, broken = inspect_all(truth, subsets, paths)
    if broken and shown.broken != "skip":
        reasons = "; ".join(list(broken.values())[:5]) + ("; ..." if len(broken) > 5 else "")
        raise VideoError(
            f"{len(broken)} of {len(found) + len(broken)} videos cannot be used: {reasons}. "
            "Mend them, or leave them out on purpose (data.video.broken=skip)"
        )
    policy = "left out of training, detection and evaluation, as data.video.broken=skip asks"
    truth = less(truth, subsets, [*broken], "broken_video", policy)
    rows = {name: video_samples(spec, truth.subset(name), found) for name in subsets}
    origin = {"videos": f"{Path(videos).name}, {pattern}", "decoding": by}
    if broken:
        origin["videos left out"] = "; ".join(broken.values())
    return make_corpus(truth, rows, origin, annotations, classifier, mark)


def find_files(folder: Path, pattern: str, ids: Sequence[str]) -> dict[str, Path]:
    """The files of these videos, those that are there. Raises DataError, where one has two files of any ending too."""
    check_pattern(pattern, "{id}.mp4")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of videos")
    whole = pattern.removesuffix(".*")
    paths = {id: folder / name_below(folder, whole, id) for id in ids}
    if whole == pattern:
        return {id: path for id, path in paths.items() if path.is_file()}
    files: dict[Path, Path] = {}
    for path in (path for parent in {path.parent for path in paths.values()} for path in parent.glob("*.*")):
        if files.setdefault(path.with_suffix(""), path) != path and path.with_suffix("") in paths.values():
            raise DataError(f"{path}: {files[path.with_suffix('')].name} is beside it; keep one of them")
    return {id: files[path] for id, path in paths.items() if path in files}


def inspect_all(
    truth: Annotations, subsets: Sequence[str], paths: dict[str, Path]
) -> tuple[dict[str, Video], dict[str, str]]:
    """What is known of each video, and why the others cannot be used; several are opened at a time."""

    def look(id: str) -> Video | str:
        try:
            return inspect(paths[id], truth.videos[id].duration_s)
        except VideoError as error:
            return str(error)

    ids = [video.id for name in subsets for video in truth.subset(name)]
    with ThreadPoolExecutor() as pool:
        found = dict(zip(ids, pool.map(look, ids), strict=True))
    return (
        {id: video for id, video in found.items() if isinstance(video, Video)},
        {id: why for id, why in found.items() if isinstance(why, str)},
    )


def decoding() -> str:
    """What a decoded pixel depends on beside the file."""
    av = pyav()
    return f"PyAV {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"


DATASETS.register_module(name="videos", module=videos)
