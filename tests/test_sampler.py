"""The order of the data: a function of seed and step, each example once an epoch, draws that nothing else moves."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from compact_ds.tree.sampler import draw_of, examples_of_step


def steps(num_examples: int, batch_size: int, seed: int, numbers: range) -> list[int]:
    return [int(e) for s in numbers for e in examples_of_step(num_examples, batch_size, seed, s)]


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 2**63), st.integers(1, 4))
def test_every_example_once_an_epoch(num_examples: int, batch_size: int, seed: int, epochs: int) -> None:
    drawn = steps(num_examples, batch_size, seed, range(-(-num_examples * epochs // batch_size)))
    for epoch in range(epochs):
        part = drawn[epoch * num_examples : (epoch + 1) * num_examples]
        assert sorted(part) == list(range(num_examples))


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 1000), st.integers(0, 10**6))
def test_a_step_is_the_same_whatever_was_asked_before(num_examples: int, batch_size: int, seed: int, step: int) -> None:
    forwards = [examples_of_step(num_examples, batch_size, seed, s).tolist() for s in range(step, step + 4)]
    backwards = [examples_of_step(num_examples, batch_size, seed, s).tolist() for s in reversed(range(step, step + 4))]
    assert forwards == backwards[::-1]


@given(st.integers(1, 30), st.integers(1, 6), st.integers(0, 50), st.sampled_from([2, 3, 5]))
def test_a_larger_batch_takes_the_same_examples_in_fewer_steps(
    num_examples: int, batch_size: int, step: int, factor: int
) -> None:
    small = steps(num_examples, batch_size, 7, range(step * factor, (step + 1) * factor))
    assert steps(num_examples, batch_size * factor, 7, range(step, step + 1)) == small


def test_another_process_draws_the_same() -> None:
    program = (
        "from compact_ds.tree.sampler import draw_of, examples_of_step as e\n"
        "print(e(50, 8, 3, 1000).tolist(), draw_of(3, 1000, 7).integers(10**9, size=3).tolist())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    here = examples_of_step(50, 8, 3, 1000).tolist(), draw_of(3, 1000, 7).integers(10**9, size=3).tolist()
    assert other.stdout.split() == f"{here[0]} {here[1]}".split()


def test_seeds_and_epochs_are_shuffled_apart() -> None:
    orders = [tuple(steps(50, 50, seed, range(epoch, epoch + 1))) for seed in range(20) for epoch in range(20)]
    assert len(set(orders)) == 400
    assert tuple(range(50)) not in orders


def test_every_order_of_an_epoch_is_as_likely() -> None:
    counts = Counter(tuple(examples_of_step(3, 3, seed, epoch).tolist()) for seed in range(60) for epoch in range(50))
    assert len(counts) == 6
    # 500 of 3000 expected for each order; five standard deviations sqrt(3000 * 1/6 * 5/6) are 102.
    assert all(abs(count - 500) < 102 for count in counts.values())


def test_draws_belong_to_seed_step_and_example() -> None:
    keys = [(seed, step, example) for seed in range(4) for step in (0, 1, 2**20) for example in (0, 1, 2**31)]
    draws = [draw_of(*key).integers(2**63) for key in keys]
    assert len(set(draws)) == len(keys)
    assert [draw_of(*key).integers(2**63) for key in keys] == draws


def test_draws_are_uniform_over_examples_and_steps() -> None:
    of_examples = Counter(int(draw_of(0, 5, example).integers(3)) for example in range(3000))
    of_steps = Counter(int(draw_of(0, step, 5).integers(3)) for step in range(3000))
    for counts in (of_examples, of_steps):
        # 1000 of 3000 expected for each value; five standard deviations sqrt(3000 * 1/3 * 2/3) are 129.
        assert all(abs(counts[value] - 1000) < 129 for value in range(3))


def test_an_epoch_is_not_drawn_from_the_numbers_of_an_example() -> None:
    for epoch in range(8):
        order = examples_of_step(100, 100, 1, epoch)
        assert not np.array_equal(order, draw_of(1, 0, epoch).permutation(100))
