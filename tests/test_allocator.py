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


RETURNING = """
import psutil, torch
from compact_ds.engine.allocator import keep_freed_memory, returning_freed_memory
def held():
    return psutil.Process().memory_info().rss
keep_freed_memory()
parts = [torch.ones(2**18) for _ in range(64)]
last = torch.ones(2**18)
del parts
figures = [held()]
with returning_freed_memory():
    figures.append(held())
    part, above = torch.ones(2**25), torch.ones(2**18)
    del part
    figures.append(held())
part, above = torch.ones(2**25), torch.ones(2**18)
del part
figures.append(held())
print(*figures)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_for_a_while_freed_memory_is_returned_even_below_what_is_held() -> None:
    done = subprocess.run([sys.executable, "-c", RETURNING], capture_output=True, text=True, check=True)
    before, begun, inside, after = (int(figure) for figure in done.stdout.split())
    assert before - begun > 62 * 2**20, "64 tensors of 1 MiB"
    assert inside - begun < 32 * 2**20, "one of 128 MiB, and one above it that is held"
    assert after - inside > 120 * 2**20, "as before, the process keeps it"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_memory_that_was_freed_is_used_again() -> None:
    faults = {}
    for kind in ("kept", "returned"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, kind], capture_output=True, text=True, check=True)
        faults[kind] = int(done.stdout)
    # Eight tensors of 64 MiB are 131,072 pages of 4 KiB, or 256 huge ones.
    assert faults["returned"] >= 256
    assert faults["kept"] < 100
