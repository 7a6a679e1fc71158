"""Which tokens of a tree attend together, and how those of a row are bundled into few products.

Owns one idea: in a tree whose branches hang on its root, a branch's keys are the root's and its own. So a row of many trees
needs no mask over the row: each root, each branch and the leaves of each are a span of queries with the keys that hold all their
ancestors, and work and mask memory grow with the tokens, where a mask over the row grows with their square. Spans of nearly one
size are computed together, filled up to the longest. Whose keys are whose ancestors is `tree_attention`'s, the computation
`span_attention`'s.

Legend: B rows, L tokens of a row, T = B * L tokens of the micro-batch, N spans of a bundle, S query tokens of the longest of
them, K its keys.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Run = tuple[int, int]
"""First token and the one after the last."""

FILL = 2048
"""Scores of a head that may be computed for nothing to save the calls of one span; measured on a CPU (docs/speed.md)."""

BUNDLE = 16384
"""Scores of a head in a bundle of several spans: more of them would leave a core's cache between one pass and the next."""


@dataclass(frozen=True, slots=True)
class TreePlace:
    """Where a tree lies: its row, and first token and lengths of root and branches, which follow one another.

    Likewise first token and lengths of the leaves that hang on the root, and on each of the branches.
    """

    row: int
    start: int
    lengths: tuple[int, ...]
    leaf_start: int
    leaf_lengths: tuple[int, ...]

    def trunk_runs(self) -> list[tuple[Run, ...]]:
        """For root and branches: the runs of keys that hold all ancestors, the last one their own tokens."""
        root, *branches = _runs(self.start, self.lengths)
        return [(root,), *((root, branch) for branch in branches)]

    def leaf_runs(self) -> list[tuple[Run, ...]]:
        """The same for the leaves of the root and of each branch."""
        return [
            (*runs, own) for runs, own in zip(self.trunk_runs(), _runs(self.leaf_start, self.leaf_lengths), strict=True)
        ]


def _runs(start: int, lengths: Sequence[int]) -> Iterator[Run]:
    return itertools.pairwise(itertools.accumulate(lengths, initial=start))


@dataclass(frozen=True, slots=True)
class Bundle:
    """Spans that one product computes. Tokens count through the rows; T stands where a span is shorter than the longest.

    `mask_NS1K` is 0 for an ancestor and -inf for any other key; a query that stands for none sees everything.
    """

    query_NS: Tensor
    key_NK: Tensor
    mask_NS1K: Tensor


@dataclass(frozen=True, slots=True)
class Bundles:
    """All of a micro-batch's spans, and where what was made of them belongs.

    Queries of all bundles, trunk's first, make one list behind an entry of zeros: `query_slot_T` is a token's place in it, 0 for
    tokens of no span, and `trunk_slot_T` the same with 0 for leaves. In the list of the trunk's keys a token stands once for each
    span that sees it: its places are `key_slots` from `key_offsets_T` on.
    """

    trunk: tuple[Bundle, ...]
    leaves: tuple[Bundle, ...]
    query_slot_T: Tensor
    trunk_slot_T: Tensor
    key_slots: Tensor
    key_offsets_T: Tensor


_Span = tuple[np.ndarray, np.ndarray]


def make_bundles(
    places: Sequence[TreePlace], shape: tuple[int, int], sees: Callable[[Tensor, Tensor], Tensor], device: torch.device
) -> Bundles:
    """Bundle every root, every branch and the leaves of each, where they are not empty.

    There is a place at least, and no root is empty. `shape` is (B, L); `sees(query_NS, key_NK)` tells ancestors, bool [N, S, K],
    for tokens that count through the rows.
    """
    trunk: list[_Span] = []
    leaves: list[_Span] = []
    for place in places:
        first = place.row * shape[1]
        for spans, kind in ((trunk, place.trunk_runs()), (leaves, place.leaf_runs())):
            for runs in kind:
                keys = [first + np.arange(*run) for run in runs]
                if len(keys[-1]):
                    spans.append((keys[-1], np.concatenate(keys)))
    num_tokens = shape[0] * shape[1]
    parts = [[_padded(spans, num_tokens) for spans in _bundled(kind)] for kind in (trunk, leaves)]
    num_trunk = sum(query_NS.size for query_NS, _ in parts[0])
    slot_T = _query_slots([query_NS for query_NS, _ in parts[0] + parts[1]], num_tokens)
    slots, offsets_T = _key_slots([key_NK for _, key_NK in parts[0]], num_tokens)
    made = [tuple(_masked(query, key, num_tokens, sees, device) for query, key in part) for part in parts]
    placed = (slot_T, np.where(slot_T > num_trunk, 0, slot_T), slots, offsets_T)
    return Bundles(made[0], made[1], *(torch.from_numpy(x).to(device) for x in placed))


def _bundled(spans: list[_Span]) -> Iterator[list[_Span]]:
    """Spans of nearly one size together: as long as filling up costs less than the calls of the span that joins."""
    together: list[_Span] = []
    longest, num_keys = 0, 0
    for query, key in sorted(spans, key=lambda span: (len(span[1]), len(span[0])), reverse=True):
        count, longer = len(together), max(longest, len(query))
        joined = (count + 1) * longer * num_keys
        if together and (joined > BUNDLE or joined - count * longest * num_keys - len(query) * len(key) > FILL):
            yield together
            together, longer = [], len(query)
        if not together:
            num_keys = len(key)
        together.append((query, key))
        longest = longer
    if together:
        yield together


def _padded(spans: list[_Span], filler: int) -> tuple[np.ndarray, np.ndarray]:
    query_NS, key_NK = (
        np.full((len(spans), max(len(span[part]) for span in spans)), filler, dtype=np.int64) for part in (0, 1)
    )
    for n, (query, key) in enumerate(spans):
        query_NS[n, : len(query)] = query
        key_NK[n, : len(key)] = key
    return query_NS, key_NK


def _query_slots(queries: list[np.ndarray], num_tokens: int) -> np.ndarray:
    tokens = np.concatenate([query_NS.ravel() for query_NS in queries])
    slot_T = np.zeros(num_tokens + 1, dtype=np.int64)
    slot_T[tokens] = 1 + np.arange(len(tokens))
    return slot_T[:-1]


def _key_slots(keys: list[np.ndarray], num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.concatenate([key_NK.ravel() for key_NK in keys])
    slots = np.argsort(tokens, kind="stable")
    ends_T = np.searchsorted(tokens[slots], np.arange(num_tokens + 1))
    return slots[: ends_T[-1]], ends_T[:-1]


def _masked(
    query_NS: np.ndarray,
    key_NK: np.ndarray,
    filler: int,
    sees: Callable[[Tensor, Tensor], Tensor],
    device: torch.device,
) -> Bundle:
    query, key = torch.from_numpy(query_NS).to(device), torch.from_numpy(key_NK).to(device)
    # The last token stands in for the filler, which nobody sees.
    seen_NSK = sees(query.clamp(max=filler - 1), key.clamp(max=filler - 1))
    seen_NSK &= (key < filler)[:, None]
    seen_NSK |= (query == filler)[:, :, None]
    mask_NSK = torch.zeros(seen_NSK.shape, device=device).masked_fill_(~seen_NSK, -torch.inf)
    return Bundle(query, key, mask_NSK[:, :, None])
