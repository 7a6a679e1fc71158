"""A micro-batch against a plain list of sequences: every row of the head, its past, its target and whose it is."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_records import record
from torch import Tensor

from compact_ds.kernels.tree_spans import TreePlace
from compact_ds.tree.batch import Batch, assemble
from compact_ds.tree.build import ROOT, Piece, plan_pieces, probed_steps
from compact_ds.tree.plan import split_into_micro_batches
from compact_ds.tree.tokenise import RationaleTokens, Record

Layout = pytest.mark.parametrize("layout", ["tree", "rows"])
SOME = given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(0, 4))


def labelled(rng: np.random.Generator, name: str) -> Record:
    """A random record whose rationales come from mixed teachers and carry mixed labels."""
    plain = record(rng, int(rng.integers(1, 5)), name)
    relabel = [
        replace(r, teacher=int(rng.integers(4)), consensus=int(rng.integers(9)) / 8, verdict=int(rng.integers(-1, 2)),
                answer_right=int(rng.integers(2)))
        for r in plain.rationales
    ]  # fmt: skip
    return replace(plain, rationales=tuple(relabel))


def batch_of(
    records: list[Record], layout: Literal["tree", "rows"], row_tokens: int, max_probes: int
) -> tuple[Batch, list[list[Piece]]]:
    """All rationales of the records as one micro-batch, packed into rows as training packs them."""
    chosen = [list(range(len(r.rationales))) for r in records]
    pieces = [plan_pieces(r, c, layout, row_tokens, max_probes) for r, c in zip(records, chosen, strict=True)]
    (plan,) = split_into_micro_batches(pieces, list(range(len(records))), layout, row_tokens, 10**6)
    return assemble(records, pieces, plan.rows, layout), pieces


def sequences(records: list[Record], max_probes: int) -> list[tuple[list[int], int]]:
    """(ids, how many last ones are scored) for rationales, then the questions' probes, then the other probes."""
    whole, roots, inner = [], [], []
    for rec in records:
        prompt, probe = rec.prompt_ids.tolist(), rec.probe_ids.tolist()
        if max_probes:
            roots.append((prompt + probe, rec.answer_tokens))
        for r in rec.rationales:
            whole.append((prompt + r.ids.tolist(), len(r.ids)))
            for step in probed_steps(len(r.step_ends), max_probes) if max_probes else []:
                inner.append((prompt + r.ids[: r.step_ends[step - 1]].tolist() + probe, rec.answer_tokens))
    return whole + roots + inner


def past(batch: Batch, token: int) -> list[int]:
    """Ids that a token of the flattened batch sees, itself included, by position: those whose subtree it lies in."""
    b, i = divmod(token, batch.ids_BL.shape[1])
    order, end = batch.order_BL[b].tolist(), batch.end_BL[b].tolist()
    seen = [j for j in range(len(order)) if order[j] <= order[i] < end[j]]
    positions = batch.positions_BL[b].tolist()
    seen.sort(key=positions.__getitem__)
    assert [positions[j] for j in seen] == list(range(len(seen)))
    return batch.ids_BL[b, seen].tolist()


@Layout
@settings(max_examples=25, deadline=None)
@SOME
def test_every_head_row_is_a_token_of_its_sequence(
    layout: Literal["tree", "rows"], seed: int, num_records: int, max_probes: int
) -> None:
    rng = np.random.default_rng(seed)
    records = [labelled(rng, f"r{i}") for i in range(num_records)]
    batch, _ = batch_of(records, layout, 200, max_probes)
    expected = sequences(records, max_probes)
    offsets = batch.plan.offsets_S1.tolist()
    assert offsets == [0, *np.cumsum([count for _, count in expected])]
    for s, (ids, count) in enumerate(expected):
        for n, length in zip(range(offsets[s], offsets[s + 1]), range(len(ids) - count, len(ids)), strict=True):
            assert batch.target_N[n] == ids[length]
            assert past(batch, int(batch.index_N[n])) == ids[:length]
    num_rationales = sum(len(r.rationales) for r in records)
    assert batch.num_grad == offsets[num_rationales]
    assert batch.num_probes == len(expected) - num_rationales
    assert len(batch.index_N) == len(batch.target_N) == offsets[-1]


@Layout
@settings(max_examples=25, deadline=None)
@SOME
def test_rationales_and_probes_know_whose_they_are(
    layout: Literal["tree", "rows"], seed: int, num_records: int, max_probes: int
) -> None:
    rng = np.random.default_rng(seed)
    records = [labelled(rng, f"r{i}") for i in range(num_records)]
    batch, _ = batch_of(records, layout, 200, max_probes)
    rows: list[tuple[int, int, int, float, int]] = []
    probes = []
    for e, rec in enumerate(records):
        for r, rationale in enumerate(rec.rationales):
            right = rationale.answer_right if rationale.verdict == -1 else rationale.verdict
            probes += [(len(rows), s) for s in probed_steps(len(rationale.step_ends), max_probes) if max_probes]
            rows.append((e, r, rationale.teacher, rationale.consensus, right))
    found = (batch.example_R, batch.teacher_R, batch.consensus_R, batch.right_R)
    assert [(e, r) for e, r, *_ in rows] == list(batch.places_R)
    assert [[e, t, c, y] for e, _, t, c, y in rows] == torch.stack([x.double() for x in found], dim=1).tolist()
    assert probes == list(zip(batch.rationale_P.tolist(), batch.step_P.tolist(), strict=True))
    assert (batch.num_examples, batch.num_rationales) == (num_records, len(rows))


@Layout
@settings(max_examples=25, deadline=None)
@SOME
def test_padding_sees_itself_alone_and_trunks_come_first(
    layout: Literal["tree", "rows"], seed: int, num_records: int, max_probes: int
) -> None:
    rng = np.random.default_rng(seed)
    batch, pieces = batch_of([labelled(rng, f"r{i}") for i in range(num_records)], layout, 60, max_probes)
    order, end = batch.order_BL[:, :, None], batch.end_BL[:, :, None]
    sees = (order.mT <= order) & (order < end.mT)
    # A token that nobody sees but itself and that sees nobody else is padding.
    alone = (sees.sum(1) == 1) & (sees.sum(2) == 1)
    num_tokens = sum(p.num_tokens for own in pieces for p in own)
    assert int(alone.sum()) == batch.ids_BL.numel() - num_tokens
    assert not batch.ids_BL[alone].any() and not batch.positions_BL[alone].any()
    assert not sees[:, : batch.num_trunk, batch.num_trunk :].any()
    assert not alone.flatten()[batch.index_N].any()
    for b in range(len(alone)):
        trunk, leaves = alone[b, : batch.num_trunk], alone[b, batch.num_trunk :]
        assert trunk.tolist() == sorted(trunk.tolist()) and leaves.tolist() == sorted(leaves.tolist())
    assert not alone[:, : batch.num_trunk].all(0).any() and not alone[:, batch.num_trunk :].all(0).any()


def by_hand() -> tuple[list[Record], list[list[Piece]]]:
    def ints(*ids: int) -> np.ndarray:
        return np.array(ids, dtype=np.int32)

    first = RationaleTokens(3, ints(21, 22), ints(1), 0.25, -1, 1)
    second = RationaleTokens(0, ints(31, 32), ints(), 0.5, 0, 1)
    long = Record("a", "f:1", ints(10, 11), ints(18, 19), 1, (first,))
    short = Record("b", "f:2", ints(12), ints(17, 16), 1, (second,))
    probes = ((ROOT, 0), (0, 1))
    return [long, short], [[Piece((0,), probes, 3, 2)], [Piece((0,), probes[:1], 2, 1)]]


def test_two_rows_by_hand() -> None:
    records, pieces = by_hand()
    batch = assemble(records, pieces, [[(0, 0)], [(1, 0)]], "tree")
    # The last tokens, 22, 32, 19 and 16, are predicted and predict nothing.
    assert batch.ids_BL.tolist() == [[10, 11, 21, 18, 18], [12, 31, 0, 17, 0]]
    assert batch.positions_BL.tolist() == [[0, 1, 2, 2, 3], [0, 1, 0, 1, 0]]
    # Walk of the first: 10, 11, the question's probe, 21, its probe. Padding of the second stands behind, at 5 on.
    assert batch.order_BL.tolist() == [[0, 1, 3, 2, 4], [0, 2, 7, 1, 9]]
    assert batch.end_BL.tolist() == [[5, 5, 5, 3, 5], [3, 3, 8, 2, 10]]
    assert batch.num_trunk == 3
    assert batch.places == (TreePlace(0, 0, (2, 1), 3, (1, 1)), TreePlace(1, 0, (1, 1), 3, (1, 0)))
    # The rationales' rows, the questions' probes, the probe after 21.
    assert batch.index_N.tolist() == [1, 2, 5, 6, 3, 8, 4]
    assert batch.target_N.tolist() == [21, 22, 31, 32, 19, 16, 19]
    assert (batch.plan.offsets_S1.tolist(), batch.num_grad) == ([0, 2, 4, 5, 6, 7], 4)
    assert (batch.teacher_R.tolist(), batch.right_R.tolist()) == ([3, 0], [1.0, 0.0])


def test_two_trees_in_a_row_by_hand() -> None:
    batch = assemble(*by_hand(), [[(1, 0), (0, 0)]], "tree")
    assert batch.ids_BL.tolist() == [[12, 31, 10, 11, 21, 17, 18, 18]]
    assert batch.order_BL.tolist() == [[0, 2, 3, 4, 6, 1, 5, 7]]
    assert batch.end_BL.tolist() == [[3, 3, 8, 8, 8, 2, 6, 8]]
    assert batch.places == (TreePlace(0, 0, (1, 1), 5, (1, 0)), TreePlace(0, 2, (2, 1), 6, (1, 1)))
    # The order is the records', not the row's.
    assert batch.target_N.tolist() == [21, 22, 31, 32, 19, 16, 19]


def test_a_stand_in_has_the_same_tensors_and_does_not_count() -> None:
    batch = assemble(*by_hand(), [[(0, 0)], [(1, 0)]], "tree")
    stand_in = batch.as_stand_in()
    assert (batch.counts, stand_in.counts) == (True, False)
    assert all(getattr(stand_in, f.name) is getattr(batch, f.name) for f in fields(batch) if f.name != "counts")
    moved = stand_in.to(torch.device("meta"))
    assert not moved.counts
    tensors = [getattr(moved, f.name) for f in fields(moved) if isinstance(getattr(batch, f.name), Tensor)]
    assert len(tensors) == 12 and moved.plan.row_M.is_meta and all(t.is_meta for t in tensors)
