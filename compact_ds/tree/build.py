"""From a Record to token trees: the question as root, rationales as branches, probes as leaves.

Owns which tokens a tree has, who descends from whom, and which rows of the head predict what. Does not pack trees
together and knows no tensor library.

A token that predicts nothing is left out: the last one of the gold answer, and of a rationale unless a probe hangs on it.

A tree that exceeds the row budget is cut between rationales into pieces that each repeat the question; in the `rows`
layout every rationale and every probe is a piece of its own. Legend: T tokens of a piece (trunk first, probes last),
N rows of the head, of which the first `num_grad` train.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np

from compact_ds.tree.tokenise import Ints, Record

ROOT = -1


@dataclass(frozen=True, slots=True)
class Piece:
    """What a piece will hold, known from lengths alone: rationales to train on, and probes as (rationale, step).

    Step s is the prefix of s steps; (ROOT, 0) is the probe on the question alone.
    """

    rationales: tuple[int, ...]
    probes: tuple[tuple[int, int], ...]
    num_trunk: int
    num_probe: int

    @property
    def num_tokens(self) -> int:
        """Tokens of the piece."""
        return self.num_trunk + self.num_probe


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of head rows with one meaning: a rationale's tokens (`probe_step` None) or a probe's answer tokens."""

    rationale: int
    probe_step: int | None
    num_rows: int


@dataclass(frozen=True, slots=True)
class TokenTree:
    """A built piece. `order_T` and `end_T` tell ancestors as in `kernels.tree_attention`.

    `lengths` are those of root and branches in the trunk, `leaf_lengths` of the leaves that hang on each. `row_N` is the token
    whose hidden state predicts `target_N`; segments lie one after another in row order.
    """

    ids_T: Ints
    positions_T: Ints
    order_T: Ints
    end_T: Ints
    lengths: tuple[int, ...]
    leaf_lengths: tuple[int, ...]
    row_N: Ints
    target_N: Ints
    num_grad: int
    segments: tuple[Segment, ...]

    @property
    def num_trunk(self) -> int:
        """Tokens of root and branches."""
        return sum(self.lengths)


def probed_steps(num_steps: int, max_probes: int) -> list[int]:
    """Which prefixes get a probe: at most `max_probes` of 1..num_steps, spread evenly, always the last one."""
    if num_steps == 0:
        return []
    spread = np.linspace(num_steps, 1, min(num_steps, max_probes))
    return sorted({int(s) for s in np.rint(spread)})


def plan_pieces(
    record: Record, chosen: list[int], layout: Literal["tree", "rows"], row_tokens: int, max_probes: int
) -> list[Piece]:
    """The pieces for the chosen rationales of a record. `max_probes` 0 means no probes at all.

    Every chosen rationale must fit a row together with the question and its probes; the data set sees to that.
    """
    probes = {r: _probes(record, r, max_probes) for r in chosen}
    roots = ((ROOT, 0),) if max_probes and chosen else ()
    if layout == "rows":
        lone = [_piece(record, (r,), ()) for r in chosen]
        every = [*roots, *(probe for r in chosen for probe in probes[r])]
        return lone + [_probe_row(record, probe) for probe in every]
    pieces: list[Piece] = []
    open_rationales: list[int] = []
    open_probes = list(roots)
    for r in chosen:
        grown = _piece(record, (*open_rationales, r), (*open_probes, *probes[r]))
        if open_rationales and grown.num_tokens > row_tokens:
            pieces.append(_piece(record, tuple(open_rationales), tuple(open_probes)))
            open_rationales, open_probes = [], []
        open_rationales.append(r)
        open_probes.extend(probes[r])
    return [*pieces, _piece(record, tuple(open_rationales), tuple(open_probes))] if open_rationales else []


def build(record: Record, piece: Piece, layout: Literal["tree", "rows"]) -> TokenTree:
    """The tokens of one piece."""
    if layout == "rows" and piece.probes:
        return _build_probe_row(record, *piece.probes[0])
    return _build_tree(record, piece)


def _probes(record: Record, rationale: int, max_probes: int) -> list[tuple[int, int]]:
    if not max_probes:
        return []
    num_steps = len(record.rationales[rationale].step_ends)
    return [(rationale, step) for step in probed_steps(num_steps, max_probes)]


def _piece(record: Record, rationales: tuple[int, ...], probes: tuple[tuple[int, int], ...]) -> Piece:
    num_trunk = len(record.prompt_ids) + sum(_branch(record, r, probes) for r in rationales)
    return Piece(rationales, probes, num_trunk, len(probes) * (len(record.probe_ids) - 1))


def _branch(record: Record, rationale: int, probes: tuple[tuple[int, int], ...]) -> int:
    """Tokens of a rationale that the tree holds."""
    deepest = max((_prefix(record, *probe) for probe in probes if probe[0] == rationale), default=0)
    return max(len(record.rationales[rationale].ids) - 1, deepest)


def _probe_row(record: Record, probe: tuple[int, int]) -> Piece:
    return Piece((), (probe,), len(record.prompt_ids) + _prefix(record, *probe) + len(record.probe_ids) - 1, 0)


def _prefix(record: Record, rationale: int, step: int) -> int:
    return 0 if step == 0 else int(record.rationales[rationale].step_ends[step - 1])


def _build_probe_row(record: Record, rationale: int, step: int) -> TokenTree:
    prefix = record.rationales[rationale].ids[: _prefix(record, rationale, step)] if step else record.probe_ids[:0]
    ids_T = np.concatenate((record.prompt_ids, prefix, record.probe_ids[:-1]))
    order_T = np.arange(len(ids_T), dtype=np.int32)
    row_N, target_N = order_T[-record.answer_tokens :], record.probe_ids[-record.answer_tokens :]
    segment = Segment(rationale, step, record.answer_tokens)
    end_T = np.full_like(order_T, len(ids_T))
    return TokenTree(ids_T, order_T, order_T, end_T, (len(ids_T),), (0,), row_N, target_N, 0, (segment,))


def _build_tree(record: Record, piece: Piece) -> TokenTree:
    num_prompt, probe_ids = len(record.prompt_ids), record.probe_ids[:-1]
    num_probe = len(probe_ids)
    trunk = _Tokens(
        record.prompt_ids, np.arange(num_prompt), np.arange(num_prompt), np.full(num_prompt, piece.num_tokens)
    )
    leaves, rows, targets, segments = _Tokens(), [], [], []
    base = num_prompt
    if (ROOT, 0) in piece.probes:
        leaves.add_leaf(probe_ids, num_prompt, base)
        base += num_probe
    for r in piece.rationales:
        ids = record.rationales[r].ids
        ends = np.array([_prefix(record, *probe) for probe in piece.probes if probe[0] == r], dtype=np.int32)
        inner_T = np.arange(_branch(record, r, piece.probes), dtype=np.int32)
        # A token comes after all probes that hang on earlier tokens, each as long as the probe.
        passed_T = np.searchsorted(ends, inner_T, side="right") * num_probe
        size = len(inner_T) + len(ends) * num_probe
        rows.append(np.concatenate(([num_prompt - 1], trunk.size + inner_T[: len(ids) - 1])))
        targets.append(ids)
        segments.append(Segment(r, None, len(ids)))
        trunk.add(
            ids[: len(inner_T)], num_prompt + inner_T, base + inner_T + passed_T, np.full(len(inner_T), base + size)
        )
        for j, end in enumerate(ends):
            leaves.add_leaf(probe_ids, num_prompt + int(end), base + int(end) + j * num_probe)
        base += size
    num_grad = sum(len(ids) for ids in targets)
    for j, (r, step) in enumerate(piece.probes):
        stop = piece.num_trunk + (j + 1) * num_probe
        rows.append(np.arange(stop - record.answer_tokens, stop))
        targets.append(record.probe_ids[-record.answer_tokens :])
        segments.append(Segment(r, step, record.answer_tokens))
    ids_T, positions_T, order_T, end_T = [
        np.concatenate(pair).astype(np.int32) for pair in zip(trunk.columns(), leaves.columns(), strict=True)
    ]
    row_N, target_N = np.concatenate(rows).astype(np.int32), np.concatenate(targets).astype(np.int32)
    lengths = (num_prompt, *(_branch(record, r, piece.probes) for r in piece.rationales))
    hung = Counter(r for r, _ in piece.probes)
    hanging = tuple(num_probe * hung[r] for r in (ROOT, *piece.rationales))
    return TokenTree(ids_T, positions_T, order_T, end_T, lengths, hanging, row_N, target_N, num_grad, tuple(segments))


class _Tokens:
    """Growing columns of ids, positions, order and end."""

    def __init__(self, *first: np.ndarray) -> None:
        self._parts = [first] if first else []
        self.size = len(first[0]) if first else 0

    def add(self, *columns: np.ndarray) -> None:
        self._parts.append(columns)
        self.size += len(columns[0])

    def add_leaf(self, ids: Ints, position: int, order: int) -> None:
        inner = np.arange(len(ids), dtype=np.int32)
        self.add(ids, position + inner, order + inner, np.full(len(ids), order + len(ids)))

    def columns(self) -> list[np.ndarray]:
        empty = np.zeros(0, dtype=np.int32)
        return [np.concatenate(column) for column in zip(*self._parts, strict=True)] if self._parts else [empty] * 4
