"""The module that the engine wraps: a micro-batch of trees in, log-sum-exp and target logits out.

Owns one forward pass of the student. Knows rows and targets; what a row means is in `tree.batch`, what the numbers mean in
`compatibility`.

Legend: B rows, L tokens, D hidden size, N rows of the head, R rationales, X examples, P probes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compact_ds.kernels.choice import Kernels
from compact_ds.kernels.segment_scores import segment_scores
from compact_ds.kernels.tree_attention import Ancestry
from compact_ds.phases import phase
from compact_ds.student import attention, head, prefix
from compact_ds.tree.batch import Batch

LARGEST_RANK = 100
"""Ranks are clipped here (arXiv 2601.14249): how far down the list a token stands says little beyond."""


class Student(nn.Module):
    """A causal LM (with adapters or without) fitted with tree attention, prefix training and a scoring head."""

    def __init__(
        self,
        lm: Any,
        layout: Literal["tree", "rows"],
        probes: Literal["beside", "inside"] = "beside",
        kernels: Kernels = "auto",
        ranks_targets: bool = False,
    ) -> None:
        """`ranks_targets`: tell the rank of every rationale token too, at the price of its logits once more."""
        super().__init__()
        self.lm = lm
        self._ranks_targets = ranks_targets
        self._beside = layout == "tree" and probes == "beside"
        self._tree_pass = prefix.TreePass()
        self._checked = layout == "rows"
        base = _base(lm)
        head.install(base, kernels)
        if layout == "tree":
            attention.install(base, self._tree_pass, kernels)
        if self._beside:
            prefix.train_on_prefix(lm, self._tree_pass)
            if hasattr(lm, "peft_config"):
                # peft takes a second to load, which students without adapters need not wait for.
                from compact_ds.student import adapters

                adapters.join(lm, self._tree_pass)

    def forward(self, batch: Batch) -> tuple[Tensor, ...]:
        """`(lse[N], z[N, 1])` of the batch's head rows, fp32, in nats; then, when asked for, `rank[num_grad]`."""
        base = _base(self.lm)
        num_trunk = batch.num_trunk if self._beside else batch.ids_BL.shape[1]
        if batch.layout == "tree":
            places = batch.places if self._beside else ()
            self._tree_pass.begin(Ancestry(batch.order_BL, batch.end_BL, batch.positions_BL, num_trunk, places))
        hidden_BLD = base.get_decoder()(
            input_ids=batch.ids_BL, position_ids=batch.positions_BL, use_cache=False
        ).last_hidden_state
        if not self._checked:
            attention.check_taken(self._tree_pass, base.config)
            self._checked = True
        hidden_ND = taken(hidden_BLD.flatten(0, 1), batch.index_N)
        num_ranked = batch.num_grad if self._ranks_targets else 0
        with phase("head"):
            scored: tuple[Tensor, ...] = base.get_output_embeddings()(
                hidden_ND, batch.target_N[:, None], grad_rows=batch.num_grad, num_ranked=num_ranked
            )
        return scored


def taken(hidden_TD: Tensor, index_N: Tensor) -> Tensor:
    """Rows by index, of which a question's last one comes once for every rationale; their gradients add up in a fixed order.

    Of torch's two ways each is so on one device alone: `index_select` adds atomically on a GPU, indexing may on a CPU.
    """
    return hidden_TD[index_N] if hidden_TD.is_cuda else hidden_TD.index_select(0, index_N)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the student makes of a micro-batch, fp32.

    `token_loss_R` is L_k in nats per token, differentiable; `probed` is None when the batch has no probes, `rank_R` (the sum of
    the tokens' ranks, none above `LARGEST_RANK`) when the student was not asked for them.
    """

    token_loss_R: Tensor
    probed: Probed | None
    rank_R: Tensor | None = None

    @property
    def gains(self) -> tuple[Tensor, Tensor] | None:
        """What adaptability is made of: total PMI and largest jump per rationale."""
        return None if self.probed is None else (self.probed.total_R, self.probed.jump_R)


@dataclass(frozen=True, slots=True)
class Probed:
    """What the probes show, in nats per answer token, without a gradient.

    `gold0_R` and `gold_P` are g_k[0] and g_k[s]; `total_R` is the PMI after the last step, `jump_R` the largest rise between
    consecutive probes and `epiphany_R` its place among the rationale's probes (0, 0 and -1 without any).
    """

    gold0_R: Tensor
    gold_P: Tensor
    total_R: Tensor
    jump_R: Tensor
    epiphany_R: Tensor


def measure(lse_N: Tensor, z_N1: Tensor, batch: Batch, kernels: Kernels, rank_N: Tensor | None = None) -> Measurement:
    """Per-rationale losses and per-probe gold log-likelihoods from the head's rows; `rank_N` are those of rationale tokens."""
    scores = segment_scores(lse_N, z_N1, batch.plan, kernels=kernels)
    token_loss_R = scores.mean_S[: batch.num_rationales]
    rank_R = None if rank_N is None else _rank_sums(rank_N, batch)
    if not batch.num_probes:
        return Measurement(token_loss_R, None, rank_R)
    gold_S = -scores.mean_S.detach()[batch.num_rationales :]
    gold0_R = gold_S[: batch.num_examples].index_select(0, batch.example_R)
    gains = (scores.total_C, scores.jump_C, scores.step_C)
    return Measurement(token_loss_R, Probed(gold0_R, gold_S[batch.num_examples :], *gains), rank_R)


def _rank_sums(rank_N: Tensor, batch: Batch) -> Tensor:
    """Sum of each rationale's ranks, [R]; integers, so that it is exact in any order."""
    clipped_N = rank_N.clamp(max=LARGEST_RANK)
    total_N1 = torch.cat([clipped_N.new_zeros(1), clipped_N.cumsum(0)])
    end_R = batch.plan.offsets_S1[1 : batch.num_rationales + 1]
    return total_N1[end_R] - total_N1[batch.plan.offsets_S1[: batch.num_rationales]]


def _base(lm: Any) -> Any:
    """The transformers model inside peft's wrapper, or the model itself."""
    return lm.get_base_model() if hasattr(lm, "peft_config") else lm
