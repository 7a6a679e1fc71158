"""How the benchmark measures: time and peak memory of a forward and a backward pass, and the device's own matrix rate.

Owns clocks, memory counters and the description of the machine. Knows nothing of what is run. As a program it prints the name
of the GPU as a folder's name, for `make gpu`.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from compact_ds.errors import ERROR_PREFIX, UserError

Step = Callable[[], object]

PEERS = ("torch", "triton", "cut-cross-entropy", "liger-kernel", "trl", "transformers", "compact-ds")

_FLUSH_BYTES = 256 << 20
"""More than the last-level cache of any GPU on sale; writing as much before a pass leaves none of its inputs there."""

_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True)
class Seconds:
    """Wall time on the CPU, CUDA events on a GPU."""

    forward: float
    backward: float

    @property
    def both(self) -> float:
        """One forward and its backward pass."""
        return self.forward + self.backward


class Stopwatch:
    """Times a forward step and the backward step after it; on a GPU with the L2 cache flushed before."""

    def __init__(self, device: str) -> None:
        self._on_gpu = device == "cuda"
        if self._on_gpu:
            self._flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device=device)

    def __call__(self, forward: Step, backward: Step) -> Seconds:
        """Run both once. A pass during which PyTorch had to ask the driver for memory is run again, at most twice."""
        if not self._on_gpu:
            begin = time.perf_counter()
            forward()
            middle = time.perf_counter()
            backward()
            return Seconds(middle - begin, time.perf_counter() - middle)
        for _ in range(3):
            asked = _driver_allocations()
            seconds = self._events(forward, backward)
            if _driver_allocations() == asked:
                break
        return seconds

    def _events(self, forward: Step, backward: Step) -> Seconds:
        begin, middle, end = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        self._flush.zero_()
        begin.record()
        forward()
        middle.record()
        backward()
        end.record()
        torch.cuda.synchronize()
        return Seconds(begin.elapsed_time(middle) / 1e3, middle.elapsed_time(end) / 1e3)


class PeakMemory:
    """Largest memory held above what was held at the start, in bytes.

    On a GPU what PyTorch allocated; on Linux the process's resident memory, whose high-water mark the kernel keeps exactly
    and forgets on request (proc(5): writing 5 to clear_refs). None where neither is to be had.
    """

    def __init__(self, device: str) -> None:
        self._on_gpu = device == "cuda"
        self.is_available = self._on_gpu or os.access(_CLEAR_REFS, os.W_OK)
        self._baseline = 0

    def start(self) -> None:
        """Take what is held now as the baseline."""
        if self._on_gpu:
            torch.cuda.synchronize()
            self._baseline = torch.cuda.memory_allocated()
        elif self.is_available:
            _return_freed_memory()
            self._baseline = _status_bytes("VmRSS")
        self.forget()

    def forget(self) -> None:
        """Forget the peak so far and keep the baseline."""
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        elif self.is_available:
            _CLEAR_REFS.write_text("5")

    def read(self) -> int | None:
        """The peak since `forget`, above the baseline."""
        if self._on_gpu:
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() - self._baseline
        return max(0, _status_bytes("VmHWM") - self._baseline) if self.is_available else None


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of one large square matrix product through the vendor's library: the best of several, after a warm-up."""
    size, runs = (8192, 20) if device == "cuda" else (2048, 8)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    watch = Stopwatch(device)
    return float(2 * size**3 / min(watch(lambda: a @ b, lambda: None).forward for _ in range(runs + 2)))


def resolve_device(device: str | None) -> str:
    """`cuda` or `cpu`, by default whichever is there; raises UserError for a GPU that is not."""
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise UserError(
            "--device", "cuda", "a GPU that torch can use", "give --device cpu, or install a GPU build of torch"
        )
    return device or ("cuda" if has_gpu else "cpu")


def device_name(device: str) -> str:
    """The accelerator's name, or the processor's with its cores."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return (
        f"{model.group(1) if model else platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    )


def device_folder(device: str) -> str:
    """The device's name in letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")


def environment(device: str) -> dict[str, object]:
    """What a figure cannot be read without: device, driver, clocks as found, releases, matrix precision."""
    return {
        "device": device_name(device),
        "driver": _driver() if device == "cuda" else None,
        "cuda": torch.version.cuda or torch.version.hip,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "releases": {name: _release(name) for name in PEERS},
    }


def materialised_bytes(rows: int, vocabulary: int, dtype: torch.dtype) -> int:
    """One copy of all logits in `dtype`."""
    return rows * vocabulary * dtype.itemsize


def gradient_bytes(tensors: tuple[Tensor, ...]) -> int:
    """The gradients of these tensors, in their own types."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _release(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=driver_version,clocks.sm,clocks.max.sm,power.draw,power.limit", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()


def _driver_allocations() -> int:
    return int(torch.cuda.memory_stats().get("num_device_alloc", 0))


def _status_bytes(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    assert found is not None, f"{_STATUS} has no {key}"
    return int(found.group(1)) * 1024


def _return_freed_memory() -> None:
    # Pages that the C library keeps after a free would be used again without showing as growth.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


if __name__ == "__main__":
    try:
        print(device_folder(resolve_device("cuda")))
    except UserError as error:
        sys.exit(f"{ERROR_PREFIX}{error}")
