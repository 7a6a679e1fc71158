"""Freed memory stays with the process: the second use of a large tensor's memory costs no page faults."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from compact_ds.engine.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for _ in range(16):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_memory_that_was_freed_is_used_again() -> None:
    faults = {}
    for kind in ("kept", "returned"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, kind], capture_output=True, text=True, check=True)
        faults[kind] = int(done.stdout)
    # Eight tensors of 64 MiB are 131,072 pages of 4 KiB, or 256 huge ones.
    assert faults["returned"] >= 256
    assert faults["kept"] < 100
