"""Settings for a process that shares a CPU with others: threads for the free cores, and retention of freed memory."""

import ctypes
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch

from tfew.environment.cores import free_cores, usable_cores

log = logging.getLogger(__name__)
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # parameters of mallopt in glibc's malloc.h
LARGEST_MMAP_THRESHOLD, NEVER = 32 * 2**20, 2**31 - 1  # bytes, the most that glibc accepts
# to which glibc itself raises the trim threshold, in a program whose largest allocations are of that size
USUAL_TRIM_THRESHOLD = 2 * LARGEST_MMAP_THRESHOLD
SLOW_BFLOAT16 = 4  # times as long as float32: no noise, the processor has no instructions for it


@contextmanager
def free_cores_only(accelerator: str) -> Iterator[None]:
    """Uses one thread for each core that no other process uses at the start; logs it if these are not all cores.

    Threads of two processes on one core wait for each other in every operation: an hour instead of a minute.
    `OMP_NUM_THREADS` takes precedence. Results may differ in the last bit with the number of threads.
    """
    before, on_cpu = torch.get_num_threads(), accelerator == "cpu" or not torch.cuda.is_available()
    if on_cpu:
        keep_freed_memory()
    if on_cpu and "OMP_NUM_THREADS" not in os.environ:
        threads = min(before, free_cores())
        if threads < before:
            log.info(
                f"Note: others use some of the {usable_cores():g} cores, so {threads} of {before} threads are used"
                " (OMP_NUM_THREADS=N takes N)."
            )
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if on_cpu:
            return_freed_memory()


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory for the next step instead of returning it to the system; False if it cannot.

    Returned memory is mapped again with a page fault per page, in every step (evidence/speed.md). The peak is the same.
    """
    mallopt = _from_glibc("mallopt")
    return bool(mallopt(MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD) and mallopt(TRIM_THRESHOLD, NEVER))


def return_freed_memory() -> None:
    """Undoes `keep_freed_memory`, for the program around it, and returns what is free."""
    _from_glibc("mallopt")(TRIM_THRESHOLD, USUAL_TRIM_THRESHOLD)
    _from_glibc("malloc_trim")(0)


def _from_glibc(name: str) -> Callable[..., int]:
    """A function of the C library; one that returns 0 where it is another library."""
    function: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    return function or (lambda *_: 0)


@cache
def warn_of_slow_bfloat16() -> None:
    """Warns, once a process, where bfloat16 is computed in software, which takes up to a hundred times as long."""
    ratio = seconds_of_product(torch.bfloat16) / seconds_of_product(torch.float32)
    if ratio > SLOW_BFLOAT16:
        log.warning(
            f"This processor has no instructions for bfloat16: a matrix product took {ratio:.0f} times as long as in"
            " float32. Set trainer.autocast=false, and model.dtype=float32."
        )


def seconds_of_product(dtype: torch.dtype) -> float:
    """The fastest of three products of matrices of 128 x 256 and 256 x 256, on one thread.

    A service forks after this (`processes=`), and OpenMP hangs in the child of a process that has started its threads.
    """
    threads, seconds = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        a, b = torch.ones(128, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype)
        for _ in range(3):
            started = time.perf_counter()
            a @ b
            seconds.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return min(seconds)
