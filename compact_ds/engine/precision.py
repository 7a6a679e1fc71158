"""Whether a processor multiplies in bf16 or imitates it: measured where it runs, not looked up by its name.

Owns the measure and the remark. On a processor without instructions for it a bf16 step takes several times a step in fp32, and
nothing else says so.
"""

from __future__ import annotations

import logging
import time

import torch
from torch import Tensor

SLOW = 3.0
"""Times as long as fp32 from which on it is told: real instructions are faster than fp32, oneDNN's own conversions within 2."""
_SHAPE = (128, 512, 512)
_REPEATS = 3
_log = logging.getLogger(__name__)


def remark_imitated_bf16(dtype: torch.dtype, device: torch.device, remedy: str) -> None:
    """Say once, as a warning, how much longer a CPU's bf16 products take than those of fp32, where it is `SLOW` or more.

    Takes some tenths of a second, on a CPU and for bf16 alone. `remedy` is the setting that chooses fp32.
    """
    if dtype != torch.bfloat16 or device.type != "cpu":
        return
    times = bf16_times()
    if times >= SLOW:
        _log.warning(
            "bf16 is slow here: this processor has no instructions for it, and products take up to %.0f times as long as in "
            "fp32; %s is faster",
            times,
            remedy,
        )


def bf16_times() -> float:
    """CPU time of a product of matrices in bf16 over that in fp32: a linear layer's forward pass or backward, the larger."""
    rows, inner, columns = _SHAPE
    x, weight, gradient = torch.ones(rows, inner), torch.ones(columns, inner), torch.ones(rows, columns)
    # Which of the factors lies transposed decides what an imitation costs, tenfold.
    products = ((x, weight.T), (gradient, weight))
    return max(_seconds(a.bfloat16(), b.bfloat16()) / _seconds(a, b) for a, b in products)


def _seconds(left: Tensor, right: Tensor) -> float:
    """The least of a few, on one thread: neither other work on the machine nor threads that wait for each other count."""
    seconds = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(_REPEATS):
        start = time.thread_time()
        torch.mm(left, right)
        seconds.append(time.thread_time() - start)
    torch.set_num_threads(threads)
    return max(min(seconds), time.get_clock_info("thread_time").resolution)
