"""The random generators of a process, for a checkpoint.

Owns their form, which holds tensors and plain values only. What a run draws for its data is a function of seed and step and
needs no state; these are for students that draw as they run.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def seed(number: int) -> None:
    """Start every generator of this process from one number: no run draws from a state that nobody could give it again."""
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)


def random_state(device: torch.device) -> dict[str, Any]:
    """The generators of Python, numpy and torch, and the device's."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (str(name), [int(key) for key in keys], int(position), int(has_gauss), float(cached)),
        "torch": torch.get_rng_state(),
        "device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore(states: Sequence[dict[str, Any]], rank: int, device: torch.device) -> None:
    """Go on as rank `rank` did; with more ranks than wrote the checkpoint the states are dealt out again from the first."""
    state = states[rank % len(states)]
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["device"] is not None:
        torch.cuda.set_rng_state(state["device"], device)
