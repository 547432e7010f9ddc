"""Writing a pack: in parallel, and resumably after a kill at any point."""

import errno
import hashlib
import io
import json
import math
import multiprocessing
import os
import signal
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from etad.data.annotations import DataError
from etad.data.packed import Contents, Index, PackedFeatures, Row, open_packed
from etad.record import replacing

Make = Callable[[str], NDArray[np.float16]]  # video id -> its rows [W, T, C]; sent to other processes, so picklable


@dataclass(frozen=True)
class Planned:
    """A video to be packed: the seconds [W, 2] that its rows cover, and a word that changes when its source does."""

    id: str
    span_s: NDArray[np.float64]
    state: str = ""


def write_packed(
    path: str | Path,
    contents: Contents,
    plan: Sequence[Planned],
    make: Make,
    workers: int = 0,
    progress: Callable[[int], None] = lambda rows: None,
) -> int:
    """Pack the rows of the planned videos; returns how many videos were found finished from an earlier call.

    `make` gives a video's rows [W, T, C]; with workers it runs in so many processes. `progress` is told of rows as they
    are finished. Killed at any time, the next call goes on with the videos that are missing; done, it does nothing.
    Raises DataError: no room, another writer, rows of another shape than planned, whatever `make` refuses.
    """
    path = Path(path)
    if not plan:
        raise DataError(f"{path}: no video to pack; give annotations and features of the same videos")
    stamp = _stamp(contents, plan)
    array, journal = path / f"features-{stamp}.npy", path / f"features-{stamp}.jsonl"
    try:
        path.mkdir(parents=True, exist_ok=True)
        with FileLock(path / ".lock", blocking=False):  # ends with its process
            if (old := _finished(path, stamp)) is not None:
                progress(len(old.index.rows))
                return len(plan)
            done, reused = _pack(array, journal, contents, plan, make, workers, progress)
            listed = [
                Row(id=p.id, span_s=(start_s, end_s), crc32=crc)
                for p in plan
                for (start_s, end_s), crc in zip(p.span_s.tolist(), done[p.id], strict=True)
            ]
            index = Index(**contents.model_dump(), file=array.name, rows=tuple(listed))
            with replacing(path / "index.json") as out:
                out.write(index.model_dump_json())
            for leftover in path.glob("features-*"):
                if leftover != array:
                    leftover.unlink()
    except Timeout:
        raise DataError(f"{path}: another process is packing into this folder; let it end, or name another") from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(f"{path}: the disk is full; make room and run the same command to go on") from None
    return reused


def _pack(
    array: Path,
    journal: Path,
    contents: Contents,
    plan: Sequence[Planned],
    make: Make,
    workers: int,
    progress: Callable[[int], None],
) -> tuple[dict[str, list[int]], int]:
    """Fill the array; returns each video's checksums and how many videos were there already."""
    *starts, total = accumulate((len(p.span_s) for p in plan), initial=0)
    first = dict(zip((p.id for p in plan), starts, strict=True))
    shape = (total, contents.tscale, contents.channels)
    header, row_bytes = len(_header(shape)), math.prod(shape[1:]) * 2
    done = _recover(array, journal, shape, first)
    reused = len(done)
    progress(sum(map(len, done.values())))
    with open(array, "r+b") as file, open(journal, "a", encoding="utf-8") as log:
        for item, made in _made(make, [p for p in plan if p.id not in done], workers):
            planned = (len(item.span_s), *shape[1:])
            if made.shape != planned:
                raise DataError(f"video {item.id!r}: {made.shape}, planned {planned}; its features changed: run again")
            file.seek(header + first[item.id] * row_bytes)
            rows = np.ascontiguousarray(made, "<f2")
            file.write(rows.data)
            file.flush()  # before the journal tells of it
            done[item.id] = [zlib.crc32(row) for row in rows]
            log.write(json.dumps([item.id, done[item.id]]) + "\n")
            log.flush()
            progress(len(rows))
        os.fsync(file.fileno())
    return done, reused


def _stamp(contents: Contents, plan: Sequence[Planned]) -> str:
    """Names what goes into a pack: any change of settings, videos, seconds or source files changes it."""
    what = [contents.model_dump(mode="json"), [(p.id, p.span_s.tolist(), p.state) for p in plan]]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def _finished(path: Path, stamp: str) -> PackedFeatures | None:
    try:
        opened = open_packed(path)
    except DataError:
        return None
    return opened if opened.index.file == f"features-{stamp}.npy" else None


def _header(shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f2", "fortran_order": False, "shape": shape})
    return header.getvalue()


def _recover(array: Path, journal: Path, shape: tuple[int, ...], first: dict[str, int]) -> dict[str, list[int]]:
    """Video id -> checksums of what an earlier call finished and the disk really holds; makes room for the rest."""
    done: dict[str, list[int]]
    try:
        stored = np.load(array, mmap_mode="r", allow_pickle=False)
        lines = journal.read_text(encoding="utf-8").split("\n")[:-1]  # what follows the last line end was cut off
        done = {
            id: crcs
            for id, crcs in map(json.loads, lines)
            if [zlib.crc32(row) for row in stored[first[id] : first[id] + len(crcs)]] == crcs
        }
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        done = {}
        with open(array, "wb") as file:
            size = file.write(_header(shape)) + math.prod(shape) * 2
            file.flush()
            if hasattr(os, "posix_fallocate"):  # a full disk is told now, not after hours
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
    with replacing(journal) as log:
        log.writelines(json.dumps(item) + "\n" for item in done.items())
    return done


def _made(make: Make, plan: Sequence[Planned], workers: int) -> Iterator[tuple[Planned, NDArray[np.float16]]]:
    """Each planned video with its rows, as they get ready; few wait in memory at a time."""
    if workers == 0:
        yield from ((item, make(item.id)) for item in plan)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of the progress bar's thread
    pool = ProcessPoolExecutor(workers, context, _start_worker)
    waiting: dict[Future[NDArray[np.float16]], Planned] = {}
    try:
        for item in plan:
            waiting[pool.submit(make, item.id)] = item
            while len(waiting) >= 4 * workers:
                yield from _ready(waiting)
        while waiting:
            yield from _ready(waiting)
    except BrokenProcessPool:
        raise DataError("a preparing process was ended, perhaps out of memory; run again with fewer workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _ready(
    waiting: dict[Future[NDArray[np.float16]], Planned],
) -> Iterator[tuple[Planned, NDArray[np.float16]]]:
    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
        yield waiting.pop(future), future.result()


def _start_worker() -> None:
    """Leave Ctrl-C to the main process, and end when that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
