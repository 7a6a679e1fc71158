"""The split of a global batch: nothing lost, nothing twice, budgets kept, told by counting what a plan holds."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_ds.tree.build import Piece
from compact_ds.tree.plan import MicroBatch, split_into_micro_batches, split_over_ranks

ROW_TOKENS = 20
# Lengths of one example's pieces as (trunk, probes); each piece fits a row, as the data set sees to.
EXAMPLE = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 8)), min_size=1, max_size=5)
EXAMPLES = st.lists(EXAMPLE, max_size=10)
LAYOUT = st.sampled_from(["tree", "rows"])


def pieces_of(lengths: list[list[tuple[int, int]]]) -> list[list[Piece]]:
    return [[Piece((p,), (), *pair) for p, pair in enumerate(example)] for example in lengths]


def tokens_of(batch: MicroBatch, pieces: list[list[Piece]]) -> list[int]:
    """Tokens of each row, counted from its pieces."""
    return [sum(pieces[e][p].num_tokens for e, p in row) for row in batch.rows]


@given(st.integers(1, 5), st.integers(0, 6), st.data())
def test_ranks_share_every_example_once_and_equally(world_size: int, quota: int, data: st.DataObject) -> None:
    size = world_size * quota
    tokens = data.draw(st.lists(st.integers(1, 1000), min_size=size, max_size=size))
    ranks = split_over_ranks(tokens, world_size)
    assert sorted(e for rank in ranks for e in rank) == list(range(size))
    assert [len(rank) for rank in ranks] == [quota] * world_size
    loads = [sum(tokens[e] for e in rank) for rank in ranks]
    # Each example, longest first, went to the emptiest open rank: loads differ by one example at most.
    assert max(loads) - min(loads) <= max(tokens, default=0)
    assert ranks == split_over_ranks(list(tokens), world_size)


def test_ranks_by_hand() -> None:
    # Longest first: 9 to rank 0, 7 to 1, 6 to 1 (load 7), 5 to 0 (9), 3 to 1 (13 against 14), 1 to the open rank 0.
    assert split_over_ranks([1, 9, 3, 7, 5, 6], 2) == [[1, 4, 0], [3, 5, 2]]
    # Of equals the first comes first, and goes to the first rank.
    assert split_over_ranks([4, 4, 4, 4], 2) == [[0, 2], [1, 3]]


def test_thousands_of_ranks_are_served_in_no_time() -> None:
    random.seed(0)
    tokens = [random.randint(200, 2000) for _ in range(16384)]
    begun = time.process_time()
    ranks = split_over_ranks(tokens, 4096)
    # To look at every rank for every example takes 10 s, a heap 0.05 s.
    assert time.process_time() - begun < 2
    loads = [sum(tokens[e] for e in own) for own in ranks]
    assert {len(own) for own in ranks} == {4} and max(loads) < 1.05 * sum(loads) / len(loads)


@given(EXAMPLES, LAYOUT, st.integers(1, 4), st.randoms(use_true_random=False))
def test_micro_batches_hold_every_piece_once_and_examples_whole(
    lengths: list[list[tuple[int, int]]], layout: Literal["tree", "rows"], rows: int, random: random.Random
) -> None:
    pieces = pieces_of(lengths)
    examples = [e for e in range(len(pieces)) if random.random() < 0.8]
    random.shuffle(examples)
    batches = split_into_micro_batches(pieces, examples, layout, ROW_TOKENS, rows)
    assert Counter(e for batch in batches for e in batch.examples) == Counter(examples)
    for batch in batches:
        held = Counter(place for row in batch.rows for place in row)
        assert held == Counter((e, p) for e in batch.examples for p in range(len(pieces[e])))
        assert batch.filled == tokens_of(batch, pieces)


@given(EXAMPLES, st.integers(1, 4))
def test_budget_of_packed_rows(lengths: list[list[tuple[int, int]]], rows: int) -> None:
    pieces = pieces_of(lengths)
    for batch in split_into_micro_batches(pieces, list(range(len(pieces))), "tree", ROW_TOKENS, rows):
        assert max(tokens_of(batch, pieces)) <= ROW_TOKENS
        assert len(batch.rows) <= rows or len(batch.examples) == 1


@given(EXAMPLES, st.integers(1, 4))
def test_budget_of_padded_rows(lengths: list[list[tuple[int, int]]], rows: int) -> None:
    pieces = pieces_of(lengths)
    for batch in split_into_micro_batches(pieces, list(range(len(pieces))), "rows", ROW_TOKENS, rows):
        assert all(len(row) == 1 for row in batch.rows)
        padded = len(batch.rows) * max(tokens_of(batch, pieces))
        assert padded <= rows * ROW_TOKENS or len(batch.examples) == 1


def test_packing_by_hand() -> None:
    pieces = pieces_of([[(8, 4)], [(5, 4)], [(6, 2)], [(3, 0), (10, 8)]])
    first, second = split_into_micro_batches(pieces, [0, 1, 2, 3], "tree", ROW_TOKENS, 2)
    # Example 3 has two pieces and comes first. 12, 9 and 8 need two rows: 12 opens one, 9 the other, 8 goes to the emptier.
    assert (first.examples, first.rows, first.filled) == ([3], [[(3, 0)], [(3, 1)]], [3, 18])
    assert (second.examples, second.rows, second.filled) == ([1, 2, 0], [[(1, 0), (2, 0)], [(0, 0)]], [17, 12])


def test_rows_are_full_where_even_ones_would_break_the_budget() -> None:
    def loads_of(*tokens: int) -> list[list[int]]:
        pieces = pieces_of([[(n, 0)] for n in tokens])
        return [b.filled for b in split_into_micro_batches(pieces, list(range(len(tokens))), "tree", ROW_TOKENS, 1)]

    # The emptier row each time: 12 7 and 8 7 6, which is 21. First fit: 12 8 and 7 7 6.
    assert loads_of(12, 8, 7, 7, 6) == [[20], [20]]
    # First fit would leave 20 and 6 alone.
    assert loads_of(12, 8, 6) == [[14], [12]]


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 8)), min_size=1, max_size=30), st.integers(1, 4))
def test_even_rows_are_as_few_as_first_fit_takes(lengths: list[tuple[int, int]], rows: int) -> None:
    pieces = pieces_of([[pair] for pair in lengths])
    batches = split_into_micro_batches(pieces, list(range(len(pieces))), "tree", ROW_TOKENS, rows)
    loads = [load for batch in batches for load in batch.filled]
    assert loads == sorted(loads, reverse=True)
    free: list[int] = []
    for tokens in sorted((sum(pair) for pair in lengths), reverse=True):
        place = next((i for i, room in enumerate(free) if tokens <= room), len(free))
        free[place:] = free[place:] or [ROW_TOKENS]
        free[place] -= tokens
    assert len(loads) == len(free) and len(batches) == -(-len(free) // rows)


@pytest.mark.parametrize("layout", ["tree", "rows"])
def test_an_example_over_the_budget_is_alone(layout: Literal["tree", "rows"]) -> None:
    pieces = pieces_of([[(19, 0), (19, 0)], [(18, 0)], [(1, 0)]])
    batches = split_into_micro_batches(pieces, [0, 1, 2], layout, ROW_TOKENS, 1)
    assert batches[0].examples == [0]
    assert batches[0].rows == [[(0, 0)], [(0, 1)]]
    # Padded to 18, example 2 would need a second row of the one that is allowed.
    assert [batch.examples for batch in batches[1:]] == ([[1, 2]] if layout == "tree" else [[1], [2]])
