"""Other processes: which run, and waiting for what they do."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # one that ended and that nobody waits for is still listed
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def until(true: Callable[[], bool], what: str) -> None:
    for _ in range(3000):
        if true():
            return
        time.sleep(0.01)
    pytest.fail(f"waited in vain: {what}")


def children(pid: int) -> list[int]:
    done = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in done.stdout.split()]
