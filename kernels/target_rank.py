"""The rank of each row's target among all words, by its logit, without storing the logits of all rows.

Owns the count, in blocks of rows. Knows no teacher. Legend: N rows, B rows of a block, V vocabulary, D hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compact_ds.kernels.products import add_product

BLOCK = 256
"""Rows whose logits stand in memory at a time: 50 MB in fp32 at 49,152 words."""


@torch.no_grad()
def target_rank(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, bias_V: Tensor | None = None) -> Tensor:
    """1 + the number of words with a larger logit than the target's, int64, [N].

    Any scale above 0 and any soft cap keep the order, so none is applied. Raises what `torch.mm` raises.
    """
    ranks = []
    for hidden_BD, target_B in zip(hidden_ND.split(BLOCK), target_N.split(BLOCK), strict=True):
        # Summed in fp32 and not rounded: words that are close would tie in 16 bits, and ties do not count.
        logit_BV = hidden_BD.new_zeros((hidden_BD.shape[0], weight_VD.shape[0]), dtype=torch.float32)
        add_product(logit_BV, hidden_BD, weight_VD.T)
        if bias_V is not None:
            logit_BV += bias_V.float()
        ranks.append((logit_BV > logit_BV.gather(1, target_B[:, None])).sum(1) + 1)
    return torch.cat(ranks) if ranks else target_N.new_zeros(0)
