"""How the C library hands out memory while a student trains on a CPU.

Owns one setting of glibc, when its effect is undone, and how much memory was held at most. By default every large tensor is
mapped anew and given back when it dies, and the kernel fills each page with zeros again at its first touch; a training step frees
and asks for the same sizes over and over.
"""

from __future__ import annotations

import ctypes
import platform
import resource
import sys

import torch

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_KEPT_BYTES = 2**31 - 1
_GROWTH_BYTES = 256 * 2**20


def keep_freed_memory() -> bool:
    """Let this process reuse freed memory instead of returning it (mallopt(3)); False where the C library is not glibc.

    The process keeps its peak memory until it ends, or calls `give_back_freed_memory`.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(*pair) for pair in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _KEPT_BYTES), (_TOP_PAD, _GROWTH_BYTES)))


def give_back_freed_memory() -> None:
    """Return to the system what is free now (malloc_trim(3)); nothing where the C library is not glibc.

    For the end of a phase that holds more than training steps do, such as generation with its caches.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory() -> int:
    """The most bytes that this process has held so far: allocated on its GPU, or resident where there is none."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    # getrusage(2) counts in KiB, on a Mac in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
