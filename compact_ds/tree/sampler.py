"""Which examples make up optimizer step s: a function of the seed and s alone, so that resuming needs no state.

Owns the order of the data. Every rank computes the same answer.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

import numpy as np
import numpy.typing as npt


def examples_of_step(num_examples: int, batch_size: int, seed: int, step: int) -> npt.NDArray[np.int64]:
    """Indices of the `batch_size` examples of step `step` (from 0): consecutive places in one shuffled epoch after another."""
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    return np.array([_epoch(num_examples, seed, int(p) // num_examples)[int(p) % num_examples] for p in places])


def with_substitutes(
    drawn: npt.NDArray[np.int64], usable: npt.NDArray[np.int64], left_out: Collection[int], seed: int, step: int
) -> npt.NDArray[np.int64]:
    """The `drawn` examples of step `step`, those left out replaced by usable ones that are not drawn, as far as there are any."""
    unfit = np.isin(drawn, list(left_out))
    if not unfit.any():
        return drawn
    sound = usable[~np.isin(usable, list(left_out))]
    spare = sound[~np.isin(sound, drawn)]
    others, count = (spare if len(spare) else sound), int(unfit.sum())
    chosen: npt.NDArray[np.int64] = drawn.copy()
    chosen[unfit] = draw_of(seed, step, int(drawn[unfit][0])).choice(others, count, replace=count > len(others))
    return chosen


def draw_of(seed: int, step: int, example: int) -> np.random.Generator:
    """The random numbers of one example in one step, the same on every rank and for every split of the batch."""
    return _generator(seed, (step << 32) | example)


@lru_cache(maxsize=2)
def _epoch(num_examples: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    # The high bit keeps epochs apart from the keys of draw_of.
    return _generator(seed, (1 << 63) | epoch).permutation(num_examples)


def _generator(seed: int, place: int) -> np.random.Generator:
    # Left to itself, numpy makes floats of numbers from 2**63 on, and their low bits are lost.
    return np.random.Generator(np.random.Philox(key=np.array([seed, place], dtype=np.uint64)))
