"""A built tree against the definition: who descends from whom, told by a naive walk over explicit paths."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_records import record

from compact_ds.kernels.tree_attention import ancestor_mask
from compact_ds.tree.build import ROOT, Piece, build, plan_pieces, probed_steps
from compact_ds.tree.tokenise import Ints, Record


def _paths(rec: Record, piece: Piece) -> list[tuple[int, int | None, Ints]]:
    """The sequence of ids from the root to the end of every rationale and probe."""
    whole: list[tuple[int, int | None, Ints]] = [
        (r, None, np.concatenate((rec.prompt_ids, rec.rationales[r].ids))) for r in piece.rationales
    ]
    for r, step in piece.probes:
        prefix = rec.rationales[r].ids[: rec.rationales[r].step_ends[step - 1]] if r != ROOT else rec.prompt_ids[:0]
        whole.append((r, step, np.concatenate((rec.prompt_ids, prefix, rec.probe_ids))))
    return whole


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 6))
def test_every_head_row_sees_its_path_and_nothing_else(seed: int, num_rationales: int, max_probes: int) -> None:
    rec = record(np.random.default_rng(seed), num_rationales)
    (piece,) = plan_pieces(rec, list(range(num_rationales)), "tree", 10**6, max_probes)
    tree = build(rec, piece, "tree")
    assert len(tree.ids_T) == piece.num_tokens and tree.num_trunk == piece.num_trunk
    mask = ancestor_mask(torch.tensor(tree.order_T)[None], torch.tensor(tree.end_T)[None])[0, 0].numpy()
    assert not mask[: tree.num_trunk, tree.num_trunk :].any()
    start = 0
    for segment, (r, step, path) in zip(tree.segments, _paths(rec, piece), strict=True):
        assert (segment.rationale, segment.probe_step) == (r, step)
        rows = range(start, start + segment.num_rows)
        start = rows.stop
        for offset, n in enumerate(reversed(rows)):
            seen = np.flatnonzero(mask[tree.row_N[n]])
            seen = seen[np.argsort(tree.positions_T[seen])]
            length = len(path) - 1 - offset
            np.testing.assert_array_equal(tree.ids_T[seen], path[:length])
            np.testing.assert_array_equal(tree.positions_T[seen], np.arange(length))
            assert tree.target_N[n] == path[length]
    assert start == len(tree.row_N)
    assert tree.num_grad == sum(len(rec.rationales[r].ids) for r in piece.rationales)


@given(st.integers(1, 40), st.integers(1, 12))
def test_probes_are_spread_and_the_last_step_has_one(num_steps: int, max_probes: int) -> None:
    steps = probed_steps(num_steps, max_probes)
    assert steps[-1] == num_steps and len(steps) == min(num_steps, max_probes)
    assert steps == sorted(set(steps)) and steps[0] >= 1


def test_a_tree_over_budget_is_cut_between_rationales() -> None:
    rec = record(np.random.default_rng(3), 5)
    pieces = plan_pieces(rec, list(range(5)), "tree", 35, 4)
    assert len(pieces) > 1
    assert [r for piece in pieces for r in piece.rationales] == list(range(5))
    assert sum((ROOT, 0) in piece.probes for piece in pieces) == 1
    assert all(piece.num_tokens <= 35 for piece in pieces)
