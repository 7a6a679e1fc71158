"""Who computes what in one optimizer step: examples to ranks, to micro-batches, to rows.

Owns the split of a global batch. It depends on lengths alone, so every rank works out the whole plan without a message,
and all ranks agree on the number of micro-batches before the first forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Literal

from compact_ds.tree.build import Piece

Row = list[tuple[int, int]]
"""Pieces of a row as (example, piece) indices."""


@dataclass(slots=True)
class MicroBatch:
    """Rows of pieces that go through the student together; every example is whole within its micro-batch."""

    examples: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    filled: list[int] = field(default_factory=list)


def split_over_ranks(tokens: list[int], world_size: int) -> list[list[int]]:
    """Example indices for each rank, equally many, with token sums as even as taking the longest first makes them."""
    quota = len(tokens) // world_size
    ranks: list[list[int]] = [[] for _ in range(world_size)]
    # A heap of (tokens, rank): to look at every rank for every example takes a second of each step of a thousand ranks.
    open_ranks = [(0, rank) for rank in range(world_size)]
    for example in sorted(range(len(tokens)), key=lambda e: (-tokens[e], e)):
        load, rank = heappop(open_ranks)
        ranks[rank].append(example)
        if len(ranks[rank]) < quota:
            heappush(open_ranks, (load + tokens[example], rank))
    return ranks


def split_into_micro_batches(
    pieces: list[list[Piece]], examples: list[int], layout: Literal["tree", "rows"], row_tokens: int, rows: int
) -> list[MicroBatch]:
    """Micro-batches of one rank. `pieces[e]` are the pieces of example e.

    Layout `tree`: at most `rows` rows of `row_tokens` tokens; examples of one piece make as few rows as taking the longest
    first gives, evenly filled, and rows of like length go together, so that little is padded. Layout `rows`: one piece a row,
    padded size at most `rows * row_tokens`, first fit in the given order; an example larger than that gets a micro-batch of
    its own, as does in either layout one of several pieces that needs more rows.
    """
    if layout == "rows":
        return _first_fit(pieces, examples, row_tokens, rows, _add_padded)
    # The pieces of an example must stay in one micro-batch, so those of several are placed before the others.
    batches = _first_fit(pieces, [e for e in examples if len(pieces[e]) > 1], row_tokens, rows, _add_packed)
    tokens = {e: pieces[e][0].num_tokens for e in examples if len(pieces[e]) == 1}
    filled = _even_rows(tokens, row_tokens)
    filled.sort(key=lambda row: (-sum(tokens[e] for e in row), row))
    for row in filled:
        batch = next((b for b in batches if len(b.rows) < rows), None)
        if batch is None:
            batch = MicroBatch()
            batches.append(batch)
        batch.examples.extend(row)
        batch.rows.append([(e, 0) for e in row])
        batch.filled.append(sum(tokens[e] for e in row))
    return batches


def _even_rows(tokens: dict[int, int], row_tokens: int) -> list[list[int]]:
    """Examples by row: as many rows as first fit in decreasing order takes, filled evenly where that keeps the budget."""
    order = sorted(tokens, key=lambda e: (-tokens[e], e))
    fitted: list[list[int]] = []
    free: list[int] = []
    for example in order:
        row = next((i for i, room in enumerate(free) if tokens[example] <= room), len(free))
        if row == len(free):
            free.append(row_tokens)
            fitted.append([])
        free[row] -= tokens[example]
        fitted[row].append(example)
    even: list[list[int]] = [[] for _ in fitted]
    loads = [0] * len(fitted)
    for example in order:
        row = loads.index(min(loads))
        loads[row] += tokens[example]
        even[row].append(example)
    return even if max(loads, default=0) <= row_tokens else fitted


def _first_fit(
    pieces: list[list[Piece]],
    examples: list[int],
    row_tokens: int,
    rows: int,
    add: Callable[[MicroBatch, int, list[Piece], int, int], bool],
) -> list[MicroBatch]:
    batches: list[MicroBatch] = []
    for example in examples:
        if not any(add(batch, example, pieces[example], row_tokens, rows) for batch in batches):
            batch = MicroBatch()
            if not add(batch, example, pieces[example], row_tokens, rows):
                batch.rows = [[(example, p)] for p in range(len(pieces[example]))]
                batch.filled = [piece.num_tokens for piece in pieces[example]]
                batch.examples = [example]
            batches.append(batch)
    return batches


def _add_packed(batch: MicroBatch, example: int, pieces: list[Piece], row_tokens: int, rows: int) -> bool:
    if len(batch.rows) > rows:
        return False
    filled, places = list(batch.filled), []
    for piece in pieces:
        place = next((i for i, used in enumerate(filled) if used + piece.num_tokens <= row_tokens), len(filled))
        if place == rows:
            return False
        if place == len(filled):
            filled.append(0)
        filled[place] += piece.num_tokens
        places.append(place)
    batch.rows.extend([] for _ in range(len(filled) - len(batch.rows)))
    for p, place in enumerate(places):
        batch.rows[place].append((example, p))
    batch.filled = filled
    batch.examples.append(example)
    return True


def _add_padded(batch: MicroBatch, example: int, pieces: list[Piece], row_tokens: int, rows: int) -> bool:
    lengths = batch.filled + [piece.num_tokens for piece in pieces]
    if len(lengths) * max(lengths) > rows * row_tokens:
        return False
    batch.rows.extend([(example, p)] for p in range(len(pieces)))
    batch.filled = lengths
    batch.examples.append(example)
    return True
