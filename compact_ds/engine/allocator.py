"""How the C library hands out memory while a student trains on a CPU.

Owns one setting of glibc, where its effect is undone, and how much memory was held at most. By default every large tensor is
mapped anew and given back when it dies, and the kernel fills each page with zeros again at its first touch; a training step frees
and asks for the same sizes over and over.
"""

from __future__ import annotations

import ctypes
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from compact_ds.launcher.devices import uses_gpu

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_MMAP_MAX_DEFAULT = 65536
_KEPT_BYTES = 2**31 - 1
_GROWTH_BYTES = 256 * 2**20

_keeps = False
"""Whether this process has been set to keep what it frees; the library cannot be asked."""


def keep_freed_memory() -> bool:
    """Let this process reuse freed memory instead of returning it (mallopt(3)); False where the C library is not glibc.

    The process keeps its peak memory until it ends, but for what `returning_freed_memory` gives back.
    """
    global _keeps
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    _keeps = bool(mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)) and _set_growth(0, _GROWTH_BYTES)
    return _keeps


@contextmanager
def returning_freed_memory() -> Iterator[None]:
    """Inside, a large tensor that no free place fits is mapped anew and returned when it dies; at both ends, all that is free is.

    For a phase whose tensors grow with every step, as the caches of generation do: none fits where the last one lay, and a heap
    that small things of training are spread over grows instead. Nothing in a process that keeps none.
    """
    if not _keeps:
        yield
        return
    trim = ctypes.CDLL(None).malloc_trim
    _set_growth(_MMAP_MAX_DEFAULT, 0)
    trim(0)
    try:
        yield
    finally:
        _set_growth(0, _GROWTH_BYTES)
        trim(0)


def _set_growth(most_maps: int, step: int) -> bool:
    """How many blocks may be maps of their own, and by how many bytes at least the heap grows."""
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, most_maps)) and bool(mallopt(_TOP_PAD, step))


def peak_memory() -> int:
    """The most bytes that this process has held so far: allocated on its GPU, or resident where there is none."""
    if uses_gpu():
        return int(torch.cuda.max_memory_allocated())
    # getrusage(2) counts in KiB, on a Mac in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
