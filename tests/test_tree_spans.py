"""Attention branch by branch against one dense mask over the row, on packed trees of random records."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from random_records import record
from random_trees import queries_keys_values
from torch import Tensor

from compact_ds.kernels.tree_attention import Ancestry, tree_attention
from compact_ds.kernels.tree_spans import BUNDLE, FILL, TreePlace, make_bundles
from compact_ds.tree.batch import Batch, assemble
from compact_ds.tree.build import plan_pieces

# fp32 over at most 30 ancestors and 8 features in another order; measured 6e-7.
TOLERANCE = 1e-5


def packed(max_probes: int) -> Batch:
    """Five trees in two rows of unequal length."""
    rng = np.random.default_rng(1)
    records = [record(rng, k, f"r{k}") for k in (3, 1, 2, 4, 1)]
    pieces = [plan_pieces(r, list(range(len(r.rationales))), "tree", 200, max_probes) for r in records]
    return assemble(records, pieces, [[(0, 0), (1, 0)], [(2, 0), (3, 0), (4, 0)]], "tree")


@pytest.mark.parametrize(("window", "softcap"), [(None, None), (4, None), (None, 2.0), (5, 1.5)])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2)])
@pytest.mark.parametrize("max_probes", [0, 3])
def test_values_and_gradients_equal_the_dense_mask(
    max_probes: int, heads: int, groups: int, window: int | None, softcap: float | None
) -> None:
    _assert_equal_to_the_dense_mask(max_probes, heads, groups, window, softcap, value_size=8)


@pytest.mark.parametrize("value_size", [4, 16])
def test_values_may_have_another_size_than_queries(value_size: int) -> None:
    _assert_equal_to_the_dense_mask(3, 6, 2, None, None, value_size)


def _assert_equal_to_the_dense_mask(
    max_probes: int, heads: int, groups: int, window: int | None, softcap: float | None, value_size: int
) -> None:
    batch = packed(max_probes)
    assert len(batch.places) == 5 and len(batch.ids_BL) == 2
    torch.manual_seed(0)
    query_BHLE, key_BGLE, value_BGLE = queries_keys_values(2, heads, groups, batch.ids_BL.shape[1], 8)
    if value_size != value_BGLE.shape[3]:
        value_BGLE = torch.randn(*value_BGLE.shape[:3], value_size)
    inputs = [x.requires_grad_() for x in (query_BHLE, key_BGLE, value_BGLE)]
    told = (batch.order_BL, batch.end_BL, batch.positions_BL, batch.num_trunk)
    real_BL = batch.order_BL < batch.ids_BL.shape[1]
    assert not real_BL.all()
    upstream, found = torch.randn(*query_BHLE.shape[:3], value_size), []
    for tree in (Ancestry(*told, batch.places), Ancestry(*told)):
        out = tree_attention(inputs[0], inputs[1], inputs[2], tree, "sdpa", scale=0.3, window=window, softcap=softcap)
        kept = torch.where(real_BL[:, None, :, None], out, 0.0)
        found.append((kept, *torch.autograd.grad((kept * upstream).sum(), inputs)))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=TOLERANCE, rtol=0)
    assert found[0][1].abs().max() > 0.1
    assert not found[0][1][:, :, batch.num_trunk :].any()


def test_masks_grow_with_the_trees_and_not_with_the_row() -> None:
    """Thirty trees of one shape, then of many: the mask over the row has ten times the numbers, and more as rows grow."""
    for shapes in ([(20, 40, 40)] * 30, [(20 + n, 40 - n, 30 + 2 * n) for n in range(30)]):
        places, start = [], 0
        for lengths in shapes:
            places.append(TreePlace(0, start, lengths, 0, (0, 0, 0)))
            start += sum(lengths)
        found = make_bundles(places, (1, start), all_seen, torch.device("cpu"))
        sizes = [bundle.mask_NS1K.shape for bundle in found.trunk]
        needed = [n**2 if n == root else n * (root + n) for root, *branches in shapes for n in (root, *branches)]
        assert sum(size[0] for size in sizes) == len(needed)
        held = sum(size.numel() for size in sizes)
        assert sum(needed) <= held <= sum(needed) + FILL * len(needed)
        assert all(size[0] == 1 or size.numel() <= BUNDLE for size in sizes)
        for bundle in found.trunk:
            hidden_NSK = (bundle.query_NS < start)[:, :, None] & (bundle.key_NK == start)[:, None]
            assert ((bundle.mask_NS1K[:, :, 0] == -torch.inf) == hidden_NSK).all()
        assert held < start**2 / 10 and len(sizes) < len(needed) / 3


def all_seen(query_NS: Tensor, key_NK: Tensor) -> Tensor:
    return torch.ones((*query_NS.shape, key_NK.shape[1]), dtype=torch.bool)


def test_each_token_is_a_query_once_and_a_key_of_each_span_that_sees_it() -> None:
    batch = packed(3)
    tree = Ancestry(batch.order_BL, batch.end_BL, batch.positions_BL, batch.num_trunk, batch.places)
    found = tree.bundles(None)
    assert tree.bundles(None) is found
    length = batch.ids_BL.shape[1]
    num_tokens = batch.ids_BL.numel()
    seen_T, own_T = np.zeros(num_tokens, dtype=int), np.zeros(num_tokens, dtype=int)
    for place in batch.places:
        for runs in place.trunk_runs():
            for start, stop in runs:
                seen_T[place.row * length + start : place.row * length + stop] += 1
        for kind, start, lengths in ((1, place.start, place.lengths), (2, place.leaf_start, place.leaf_lengths)):
            own_T[place.row * length + start : place.row * length + start + sum(lengths)] = kind
    listed = torch.cat([torch.tensor([num_tokens])] + [b.query_NS.flatten() for b in found.trunk + found.leaves])
    assert [int(listed[slot]) if slot else None for slot in found.query_slot_T] == [
        token if own else None for token, own in enumerate(own_T)
    ]
    assert ((found.trunk_slot_T > 0).numpy() == (own_T == 1)).all()
    keys = torch.cat([bundle.key_NK.flatten() for bundle in found.trunk])
    ends = [*found.key_offsets_T[1:].tolist(), len(found.key_slots)]
    for token, (start, stop) in enumerate(zip(found.key_offsets_T.tolist(), ends, strict=True)):
        assert keys[found.key_slots[start:stop]].tolist() == [token] * seen_T[token]
