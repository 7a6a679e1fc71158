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


GIVEN_BACK = """
import psutil, torch
from compact_ds.engine.allocator import give_back_freed_memory, keep_freed_memory
keep_freed_memory()
held = [torch.ones(2**18) for _ in range(512)]
last = torch.ones(2**18)
del held
before = psutil.Process().memory_info().rss
give_back_freed_memory()
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_what_is_free_is_given_back_on_demand_even_below_what_is_held() -> None:
    done = subprocess.run([sys.executable, "-c", GIVEN_BACK], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 500 * 2**20, "512 tensors of 1 MiB"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_memory_that_was_freed_is_used_again() -> None:
    faults = {}
    for kind in ("kept", "returned"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, kind], capture_output=True, text=True, check=True)
        faults[kind] = int(done.stdout)
    # Eight tensors of 64 MiB are 131,072 pages of 4 KiB, or 256 huge ones.
    assert faults["returned"] >= 256
    assert faults["kept"] < 100
