"""The process that computes, and several that train together, as torchrun starts them."""

import ctypes
import gc
import os
import platform
import sys
from typing import NoReturn

import torch
from torch import Tensor
from torch import distributed as dist

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # Source: glibc, malloc.h


def make_ready(threads: int | None = None) -> None:
    """What a process that computes does first: it takes so many threads, and keeps the memory that its tensors leave.

    A step's tensors are as large as the last one's, but the C library hands large blocks back to the system: fresh pages
    took 18 % of a bfloat16 step on two cores, 5 % of a float32 one. The largest amount in use stays what it was. Of glibc
    alone; other libraries are left as they are.
    """
    if threads:
        torch.set_num_threads(threads)
    if platform.libc_ver()[0] == "glibc":
        for option, size in ((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, (1 << 31) - 1)):  # the most that it takes
            ctypes.CDLL(None).mallopt(option, size)


def total(counts: Tensor) -> Tensor:
    """Sums over all processes."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(counts)
    return counts


def everyones(items: list[int]) -> list[int]:
    """The items of all processes."""
    if not dist.is_initialized():
        return items
    gathered: list[list[int]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, items)
    return [item for part in gathered for item in part]


def rank_and_world() -> tuple[int, int]:
    """This process's place, joining the group that torchrun announces."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def leave_together() -> None:
    """Ends the group of processes, once all are here: each goes its own way from now on."""
    if dist.is_initialized():
        gc.collect()  # what DDP holds of the group goes before it
        dist.barrier()
        dist.destroy_process_group()


def end_process() -> NoReturn:
    """Ends a process that has nothing left to do, without the tear-down of gloo, which now and then aborts.

    The message is "terminate called without an active exception": a thread of the group's is still joinable (torch 2.13).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
