"""Video files by PyAV: what one holds, and the frames that it shows at given times.

Time 0 is a file's first frame. The frame shown at time t is the last whose time stamp is at most t (SLACK_S of rounding
allowed), so a variable frame rate comes out right; before the first frame it is the first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etad.data.annotations import DataError

SLACK_S = 1e-4  # time stamps are whole ticks, often of a millisecond: a tenth of that
SHOWN = 0.9  # share of its annotated duration that a file must show
SEEK_S = 10.0  # a later beginning is worth a seek
Box = tuple[int, int, int]  # top, left, size


class VideoError(DataError):
    """A video file that cannot be used; the message names it and what is wrong with it."""


@dataclass(frozen=True)
class Video:
    """What a file's headers, first frame and last packets say."""

    path: Path
    first: int  # time stamp of the first frame, in ticks
    tick_s: Fraction  # seconds a tick
    last_s: float  # when the last frame appears
    frame_rate: float  # mean frames a second
    height: int  # as shown, rotation applied
    width: int

    def time_s(self, shown: Any) -> float:
        """When a frame or packet appears; minus infinity where it has no time stamp."""
        return float((shown.pts - self.first) * self.tick_s) if shown.pts is not None else -np.inf

    def resized(self, short_side: int) -> tuple[int, int]:
        """(height, width) once the shorter side is short_side long."""
        short = min(self.height, self.width)
        return round(self.height * short_side / short), round(self.width * short_side / short)


def pyav() -> Any:
    """The module av, which the rest of the suite does without. Raises DataError where it is not installed."""
    try:
        import av
    except ImportError:
        raise DataError("reading videos needs PyAV: pip install 'etad-suite[video]', or pip install av") from None
    return av


def _open(path: Path) -> tuple[Any, Any]:
    """The file and its video stream; no other stream is read. Raises VideoError."""
    av = pyav()
    try:
        container = av.open(str(path), metadata_errors="replace")
    except (OSError, av.FFmpegError, ValueError) as error:
        what = (
            "is an empty file" if path.is_file() and not path.stat().st_size else f"cannot be opened ({_first(error)})"
        )
        raise VideoError(f"{path}: {what}") from None
    stream = container.streams.best("video")
    if stream is None:
        container.close()
        raise VideoError(f"{path}: holds no video")
    return container, stream


def _first(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def inspect(path: Path, duration_s: float) -> Video:
    """A file's clock and size, its first frame decoded and its end looked at. Raises VideoError, naming it.

    It must hold two frames or more, and show SHOWN of the annotated duration.
    """
    av = pyav()
    container, stream = _open(path)
    with container:
        try:
            first = next(container.decode(stream))
            begin, tick_s = first.pts or 0, Fraction(stream.time_base)
            last_s = float((_last_stamp(container, stream) - begin) * tick_s)
        except (StopIteration, OSError, av.FFmpegError, ValueError) as error:
            why = "" if isinstance(error, StopIteration) else f" ({_first(error)})"
            raise VideoError(f"{path}: none of it can be decoded{why}") from None
        rate = stream.average_rate or stream.guessed_rate
        height, width = first.height, first.width
        if _quarters(first) % 2:
            height, width = width, height
    if not last_s > 0 or not rate:
        raise VideoError(f"{path}: too short: it holds one frame")
    if last_s + 1 / rate < SHOWN * duration_s:
        raise VideoError(f"{path}: too short: it ends at {last_s + 1 / rate:.2f} s of {duration_s:.2f} s annotated")
    return Video(path, begin, tick_s, last_s, float(rate), height, width)


def _last_stamp(container: Any, stream: Any) -> int:
    """The largest time stamp of a packet: looked up behind the last key frame, or over the whole file where that fails."""
    av = pyav()
    for target in (stream.duration, 0):
        if target is None:
            continue
        try:
            container.seek((stream.start_time or 0) + target, stream=stream)
            stamps = [p.dts if p.pts is None else p.pts for p in container.demux(stream) if p.size and not p.is_discard]
        except (OSError, av.FFmpegError):
            continue
        if found := [stamp for stamp in stamps if stamp is not None]:
            return int(max(found))
    raise VideoError(f"{container.name}: its packets have no time stamps")


def read_frames(
    video: Video,
    times_s: NDArray[np.float64],
    *,
    short_side: int,
    box: Box | None = None,
    conceal: bool = False,
    threads: int = 0,
) -> NDArray[np.uint8]:
    """The frames shown at times_s [T, L], resized to the shorter side and cut to the box: RGB uint8 [T, 3, L, H, W].

    The file is passed once; groups of frames that show none of the times are not decoded. `threads` 0 takes FFmpeg's
    choice. With `conceal`, where decoding fails the frame before stands in. Raises VideoError where it fails without.
    """
    height, width = video.resized(short_side)
    top, left, bottom, right = (box[0], box[1], box[0] + box[2], box[1] + box[2]) if box else (0, 0, height, width)
    snippets, length = times_s.shape
    out = np.empty((snippets, 3, length, bottom - top, right - left), np.uint8)
    order = np.argsort(times_s, axis=None, kind="stable")
    scaler = pyav().video.reformatter.VideoReformatter()
    for frame, begin, end in _shown(video, times_s.ravel()[order], conceal, threads):
        turns = _quarters(frame)
        size = (height, width) if turns % 2 else (width, height)
        picture = scaler.reformat(frame, *size, "rgb24", threads=1).to_ndarray()
        picture = np.rot90(picture, turns)[top:bottom, left:right]
        for n in order[begin:end]:
            for channel in range(3):  # three times as fast as a transposed copy
                out[n // length, channel, n % length] = picture[:, :, channel]
    return out


def _quarters(frame: Any) -> int:
    """Quarter turns to the left that show a frame upright, as its metadata say."""
    return round(frame.rotation / 90)


def _shown(video: Video, times_s: NDArray[np.float64], conceal: bool, threads: int) -> Iterator[tuple[Any, int, int]]:
    """(frame, begin, end): the frame is shown at the times begin..end of times_s, which rise. Raises VideoError."""
    done, held, seen_s = 0, None, -np.inf
    stored_s: list[float] = []
    chosen_s = np.full(len(times_s), -np.inf)
    for frame, at_s in _decoded(video, times_s, conceal, threads, stored_s):
        if at_s <= seen_s:  # time stamps of some files fall back: such a frame is passed over
            continue
        end = int(np.searchsorted(times_s, at_s - SLACK_S))
        if held is not None and end > done:
            yield held, done, end
            chosen_s[done:end], done = seen_s, end
        held, seen_s = frame, at_s
        if done == len(times_s):
            break
    if held is None:
        raise VideoError(f"{video.path}: decoding fails: no frame at {times_s[0]:.2f} s or later")
    if done < len(times_s):
        yield held, done, len(times_s)
        chosen_s[done:] = seen_s
    if not conceal:
        _check(video, times_s, chosen_s, np.sort(stored_s))


def _check(
    video: Video, times_s: NDArray[np.float64], chosen_s: NDArray[np.float64], stored_s: NDArray[np.float64]
) -> None:
    """Raises VideoError where the frame chosen for a time is older than one that the file stores for it.

    One frame is forgiven: those whose time stamps fall back are passed over.
    """
    newest = np.searchsorted(stored_s, times_s + SLACK_S, "right") - 1
    late_s = np.where(newest >= 0, stored_s[newest] - chosen_s, 0.0) if len(stored_s) else np.zeros(len(times_s))
    if (late_s > 1.5 / video.frame_rate).any():
        raise VideoError(f"{video.path}: decoding fails: the frame at {times_s[late_s.argmax()]:.2f} s is lost")


def _decoded(
    video: Video, times_s: NDArray[np.float64], conceal: bool, threads: int, stored_s: list[float]
) -> Iterator[tuple[Any, float]]:
    """Frames in the order they are shown, with their times; all that are shown at times_s, and others. Raises VideoError.

    `stored_s` gets the times of all frames that should come, in the order of the file.
    """
    av = pyav()
    container, stream, packets = _packets(video, float(times_s[0]))
    with container:
        context = stream.codec_context
        context.thread_type, context.thread_count = "AUTO", threads
        going, end_s = False, 0.0
        try:
            for group in _groups(video, packets):
                wanted, end_s = group.shows(times_s), group.end_s
                if wanted:
                    stored_s += [video.time_s(p) for p in group.packets if p.size and not p.is_discard]
                for packet in group.packets if wanted else [None] if going else []:  # None: give what is held back
                    try:
                        frames = context.decode(packet)
                    except av.FFmpegError:
                        if not conceal:
                            raise
                        continue
                    yield from ((frame, video.time_s(frame)) for frame in frames)
                if going and not wanted:
                    context.flush_buffers()
                going = wanted
        except (OSError, av.FFmpegError) as error:
            if not conceal:
                raise VideoError(f"{video.path}: decoding fails ({_first(error)})") from None
        if end_s < video.last_s - 1.5 / video.frame_rate and not conceal:
            raise VideoError(
                f"{video.path}: decoding fails: it ends at {end_s:.2f} s, and ended at {video.last_s:.2f} s"
            )


def _packets(video: Video, from_s: float) -> tuple[Any, Any, Iterator[Any]]:
    """An open file, its video stream and its packets, from a key frame at from_s or before it on."""
    container, stream = _open(video.path)
    packets = container.demux(stream)
    if from_s > SEEK_S:
        container.seek(video.first + int(from_s / video.tick_s), stream=stream)
        first = next(packets)
        if first.is_keyframe and -np.inf < video.time_s(first) <= from_s:
            return container, stream, chain([first], packets)
        container.close()  # formats without an index arrive anywhere
        container, stream = _open(video.path)
        packets = container.demux(stream)
    return container, stream, packets


@dataclass(frozen=True)
class _Group:
    """Packets from a key frame up to the next; with the last group comes the empty packet that ends a stream."""

    packets: list[Any]
    first_s: float  # the earliest frame's time: some may be shown before the key frame
    end_s: float  # the latest frame's time
    next_s: float  # the next key frame's time

    def shows(self, times_s: NDArray[np.float64]) -> bool:
        """Whether a frame of it is shown at one of the times, which rise."""
        begin, end = np.searchsorted(times_s, [self.first_s - SLACK_S, self.next_s + SLACK_S])
        return bool(end > begin)


def _groups(video: Video, packets: Iterator[Any]) -> Iterator[_Group]:
    """The groups of a file. Without time stamps their seconds are infinite: all are needed."""
    held: list[Any] = []
    first_s = -np.inf  # times before the first frame show it
    for packet in packets:
        if packet.is_keyframe and packet.size and held:
            key_s = video.time_s(packet)
            yield _group(video, held, first_s, key_s if packet.pts is not None else np.inf)
            if not all(p.is_discard for p in held):  # an edit list may leave the first groups out
                first_s = np.inf
            held = []
        held.append(packet)
    yield _group(video, held, first_s, np.inf)


def _group(video: Video, packets: list[Any], first_s: float, next_s: float) -> _Group:
    times_s = [video.time_s(packet) for packet in packets if packet.size]
    return _Group(packets, min([first_s, *times_s]), max(times_s, default=-np.inf), next_s)
