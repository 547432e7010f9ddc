import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from waiting import runs, until

from etad.data.annotations import DataError
from etad.data.packed import Contents, WindowRule, open_packed
from etad.data.packing import Planned, write_packed

T, C = 4, 3
CONTENTS = Contents(tscale=T, channels=C, windows=WindowRule(stride_s=0.5, overlap=0.5), sources={"raw": "made up"})
IDS = ["a", "é/../b", "c", "d"]
COUNTS = [2, 1, 3, 1]
PLAN = [Planned(id, np.arange(2.0 * n).reshape(n, 2)) for id, n in zip(IDS, COUNTS, strict=True)]


def make(id: str) -> NDArray[np.float16]:
    """Rows that tell their video and number."""
    number = IDS.index(id)
    return (100 * number + np.arange(COUNTS[number] * T * C)).reshape(-1, T, C).astype(np.float16)


def make_until_c(id: str) -> NDArray[np.float16]:
    if id == "c":
        raise DataError("c.npy: holds NaN")
    return make(id)


def forbidden(id: str) -> NDArray[np.float16]:
    raise AssertionError(f"{id} was made again")


def packed_by_hand() -> NDArray[np.float16]:
    return np.concatenate([make(id) for id in IDS])


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_packed_is_read_back(tmp_path: Path, workers: int) -> None:
    told: list[int] = []
    assert write_packed(tmp_path / "pack", CONTENTS, PLAN, make, workers, told.append) == 0
    assert sum(told) == sum(COUNTS)
    pack = open_packed(tmp_path / "pack")
    pack.verify()
    np.testing.assert_array_equal(pack.features, packed_by_hand())
    assert isinstance(pack.features, np.memmap)
    assert pack.index.sources == {"raw": "made up"}
    assert [row.id for row in pack.index.rows] == [id for id, n in zip(IDS, COUNTS, strict=True) for _ in range(n)]
    assert {path.suffix for path in (tmp_path / "pack").glob("[!.]*")} == {".json", ".npy"}


def test_samples_are_views_where_rows_lie_together_and_copies_elsewhere(tmp_path: Path) -> None:
    write_packed(tmp_path, CONTENTS, PLAN, make)
    pack = open_packed(tmp_path)
    together, apart, none = pack.samples(["é/../b", "c"]), pack.samples(["d", "a"]), pack.samples([])
    assert np.shares_memory(together.features, pack.features)
    assert together.ids == ("é/../b", "c", "c", "c")
    np.testing.assert_array_equal(together.features, np.concatenate([make("é/../b"), make("c")]))
    assert together.span_s.tolist() == [[0, 1], [0, 1], [2, 3], [4, 5]]
    np.testing.assert_array_equal(apart.features, np.concatenate([make("d"), make("a")]))
    assert none.features.shape == (0, T, C)
    assert none.span_s.shape == (0, 2)


def test_packing_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"c\.npy"):
        write_packed(tmp_path, CONTENTS, PLAN, make_until_c)
    with pytest.raises(DataError, match="not a finished pack"):
        open_packed(tmp_path)
    journal = next(tmp_path.glob("*.jsonl"))
    with open(journal, "a") as file:
        file.write('["d", [123')  # cut off by a kill
    assert write_packed(tmp_path, CONTENTS, PLAN, make) == 2
    pack = open_packed(tmp_path)
    pack.verify()
    np.testing.assert_array_equal(pack.features, packed_by_hand())
    assert write_packed(tmp_path, CONTENTS, PLAN, forbidden) == len(PLAN)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    refusals = []

    def make_and_pack_again(id: str) -> NDArray[np.float16]:
        with pytest.raises(DataError, match="another process is packing into this folder") as refused:
            write_packed(tmp_path, CONTENTS, PLAN, make)
        refusals.append(refused)
        return make(id)

    write_packed(tmp_path, CONTENTS, PLAN, make_and_pack_again)
    assert len(refusals) == len(PLAN)
    np.testing.assert_array_equal(open_packed(tmp_path).features, packed_by_hand())


def test_a_finished_row_that_the_disk_lost_is_made_again(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        write_packed(tmp_path, CONTENTS, PLAN, make_until_c)
    array = np.load(next(tmp_path.glob("*.npy")), mmap_mode="r+")
    array[1] = 0  # a row of a
    array.flush()
    assert write_packed(tmp_path, CONTENTS, PLAN, make) == 1
    np.testing.assert_array_equal(open_packed(tmp_path).features, packed_by_hand())


@pytest.mark.parametrize("content", ["nonsense\n", '["zzz", [1]]\n', "[1]\n", ""])
def test_a_journal_of_nonsense_is_not_believed(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError):
        write_packed(tmp_path, CONTENTS, PLAN, make_until_c)
    next(tmp_path.glob("*.jsonl")).write_text(content)
    assert write_packed(tmp_path, CONTENTS, PLAN, make) == 0
    np.testing.assert_array_equal(open_packed(tmp_path).features, packed_by_hand())


@pytest.mark.parametrize("change", ["state", "seconds", "videos", "contents"])
def test_other_input_is_packed_anew(tmp_path: Path, change: str) -> None:
    write_packed(tmp_path, CONTENTS, PLAN, make)
    contents, plan = CONTENTS, [*PLAN]
    if change == "state":
        plan[0] = Planned("a", PLAN[0].span_s, "newer")
    elif change == "seconds":
        plan[0] = Planned("a", PLAN[0].span_s + 1)
    elif change == "videos":
        plan = plan[1:]
    else:
        contents = CONTENTS.model_copy(update={"sources": {"raw": "others"}})
    assert write_packed(tmp_path, contents, plan, make) == 0
    assert len(open_packed(tmp_path).rows) == len(plan)
    assert len([*tmp_path.glob("[!.]*")]) == 2


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tree = json.loads((folder / "index.json").read_text())
        change(tree)
        (folder / "index.json").write_text(json.dumps(tree))

    return edit


BROKEN: dict[str, Callable[[Path], Any]] = {
    "no index": lambda p: (p / "index.json").unlink(),
    "cut off index": lambda p: os.truncate(p / "index.json", 50),
    "no array": lambda p: next(p.glob("*.npy")).unlink(),
    "cut off array": lambda p: os.truncate(next(p.glob("*.npy")), 150),
    "empty array": lambda p: os.truncate(next(p.glob("*.npy")), 0),
    "other version": edited(lambda t: t.update(version=2)),
    "other width": edited(lambda t: t.update(channels=5)),
    "a row less": edited(lambda t: t["rows"].pop()),
    "unknown key": edited(lambda t: t.update(extra=1)),
    "array elsewhere": edited(lambda t: t.update(file="../" + t["file"])),
}


@pytest.mark.parametrize("break_it", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_pack_is_one_error_with_its_name(tmp_path: Path, break_it: Callable[[Path], Any]) -> None:
    write_packed(tmp_path / "pack", CONTENTS, PLAN, make)
    break_it(tmp_path / "pack")
    with pytest.raises(DataError, match=r"pack: not a .* prepare") as caught:
        open_packed(tmp_path / "pack")
    assert "\n" not in str(caught.value)


def test_verify_names_the_damaged_video(tmp_path: Path) -> None:
    write_packed(tmp_path, CONTENTS, PLAN, make)
    with open(next(tmp_path.glob("*.npy")), "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x42")
    with pytest.raises(DataError, match=r"1 damaged rows \(d\)"):
        open_packed(tmp_path).verify()


def test_rows_of_another_shape_than_planned_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'a'"):
        write_packed(tmp_path, CONTENTS, PLAN, lambda id: make(id)[:, :, :2])
    with pytest.raises(DataError, match="no video"):
        write_packed(tmp_path, CONTENTS, [], make)


def test_a_full_disk_is_one_error_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(DataError, match="disk is full"):
        write_packed(tmp_path, CONTENTS, PLAN, forbidden)
    monkeypatch.undo()
    assert write_packed(tmp_path, CONTENTS, PLAN, make) == 0


SLOW = """
import os, sys, time
import numpy as np
from etad.data.packed import Contents
from etad.data.packing import Planned, write_packed

def make(id):
    open(f"{sys.argv[1]}/{os.getpid()}.pid", "w").close()
    time.sleep(0.02)
    return np.full((1, 4, 3), int(id), np.float16)

if __name__ == "__main__":
    contents = Contents(tscale=4, channels=3, windows=None, sources={})
    plan = [Planned(str(i), np.array([[0.0, 1.0]])) for i in range(300)]
    print(write_packed(sys.argv[2], contents, plan, make, int(sys.argv[3])))
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_kill_loses_nothing_finished_and_leaves_no_process(tmp_path: Path, workers: str) -> None:
    script, pids, pack = tmp_path / "slow.py", tmp_path / "pids", tmp_path / "pack"
    script.write_text(SLOW)
    pids.mkdir()
    command = [sys.executable, str(script), str(pids), str(pack), workers]

    def finished() -> int:
        return sum(path.read_text().count("\n") for path in pack.glob("*.jsonl"))

    child = subprocess.Popen(command)
    until(lambda: finished() >= 20, "20 finished videos")
    child.send_signal(signal.SIGKILL)
    child.wait()
    count = finished()
    with pytest.raises(DataError, match="not a finished pack"):
        open_packed(pack)
    until(lambda: not any(runs(int(path.stem)) for path in pids.iterdir()), "the workers' end")
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(again.stdout) == count
    result = open_packed(pack)
    result.verify()
    np.testing.assert_array_equal(result.features[:, 0, 0], np.arange(300))
