"""The process that computes."""

import platform
import subprocess
import sys

import pytest
from conftest import ROOT

MAPPED = """
import ctypes, torch
from etad.processes import make_ready
{ready}
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena free fast blocks mapped usm fs used left top".split()]
libc = ctypes.CDLL(None)
libc.mallinfo2.restype, libc.malloc.restype, libc.malloc.argtypes = Info, ctypes.c_void_p, [ctypes.c_size_t]
before = libc.mallinfo2().mapped
libc.malloc(24 << 20)
print(torch.get_num_threads(), libc.mallinfo2().mapped - before)
"""


def said(ready: str) -> list[int]:
    """Threads, and the bytes of a block of 24 MiB that come from the system, and go back to it, on their own."""
    done = subprocess.run(
        [sys.executable, "-c", MAPPED.format(ready=ready)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_large_blocks_stay_with_the_process() -> None:
    assert said("")[1] >= 24 << 20
    assert said("make_ready(1)") == [1, 0]
