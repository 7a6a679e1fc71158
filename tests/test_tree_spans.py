"""Attention branch by branch against one dense mask over the row, on packed trees of random records."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from random_records import record
from random_trees import queries_keys_values

from compact_ds.kernels.tree_attention import Ancestry, tree_attention
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
    batch = packed(max_probes)
    assert len(batch.places) == 5 and len(batch.ids_BL) == 2
    torch.manual_seed(0)
    inputs = [x.requires_grad_() for x in queries_keys_values(2, heads, groups, batch.ids_BL.shape[1], 8)]
    told = (batch.order_BL, batch.end_BL, batch.positions_BL, batch.num_trunk)
    real_BL = batch.order_BL < batch.ids_BL.shape[1]
    assert not real_BL.all()
    upstream, found = torch.randn(inputs[0].shape), []
    for tree in (Ancestry(*told, batch.places), Ancestry(*told)):
        out = tree_attention(inputs[0], inputs[1], inputs[2], tree, "sdpa", scale=0.3, window=window, softcap=softcap)
        kept = torch.where(real_BL[:, None, :, None], out, 0.0)
        found.append((kept, *torch.autograd.grad((kept * upstream).sum(), inputs)))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=TOLERANCE, rtol=0)
    assert found[0][1].abs().max() > 0.1
    assert not found[0][1][:, :, batch.num_trunk :].any()


def test_masks_grow_with_the_trees_and_not_with_the_row() -> None:
    batch = packed(3)
    tree = Ancestry(batch.order_BL, batch.end_BL, batch.positions_BL, batch.num_trunk, batch.places)
    kept = sum(span.mask_S1K.numel() for span in tree.spans(None))
    by_hand = 0
    for place in batch.places:
        root, *branches = place.lengths
        leaves = place.leaves[1] - place.leaves[0]
        by_hand += root**2 + sum(n * (root + n) for n in branches) + leaves * (sum(place.lengths) + leaves)
    assert kept == by_hand < tree.dense(None).numel() / 2
    assert tree.spans(None) is tree.spans(None)
