"""The module that the engine wraps: a micro-batch of trees in, log-sum-exp and target logits out.

Owns one forward pass of the student. Knows rows and targets; what a row means is in `tree.batch`, what the numbers mean in
`compatibility`.

Legend: B rows, L tokens, D hidden size, N rows of the head, R rationales, X examples, P probes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from compact_ds.kernels.choice import Kernels
from compact_ds.kernels.segment_scores import segment_scores
from compact_ds.kernels.tree_attention import Ancestry
from compact_ds.student import attention, head, prefix
from compact_ds.tree.batch import Batch


class Student(nn.Module):
    """A causal LM (with adapters or without) fitted with tree attention, prefix training and a scoring head."""

    def __init__(
        self,
        lm: Any,
        layout: Literal["tree", "rows"],
        probes: Literal["beside", "inside"] = "beside",
        kernels: Kernels = "auto",
    ) -> None:
        super().__init__()
        self.lm = lm
        self._beside = layout == "tree" and probes == "beside"
        self._tree_pass = prefix.TreePass()
        self._checked = layout == "rows"
        base = _base(lm)
        head.install(base, kernels)
        if layout == "tree":
            attention.install(base, self._tree_pass, kernels)
        if self._beside:
            prefix.train_on_prefix(lm, self._tree_pass)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """`(lse[N], z[N, 1])` of the batch's head rows, fp32, in nats."""
        base = _base(self.lm)
        num_trunk = batch.num_trunk if self._beside else batch.ids_BL.shape[1]
        if batch.layout == "tree":
            self._tree_pass.begin(Ancestry(batch.order_BL, batch.end_BL, batch.positions_BL, num_trunk))
        hidden_BLD = base.get_decoder()(
            input_ids=batch.ids_BL, position_ids=batch.positions_BL, use_cache=False
        ).last_hidden_state
        if not self._checked:
            attention.check_taken(self._tree_pass, base.config)
            self._checked = True
        hidden_ND = hidden_BLD.flatten(0, 1).index_select(0, batch.index_N)
        scored: tuple[Tensor, Tensor] = base.get_output_embeddings()(
            hidden_ND, batch.target_N[:, None], grad_rows=batch.num_grad
        )
        return scored


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the student makes of a micro-batch, fp32.

    `token_loss_R` is L_k in nats per token, differentiable; `probed` is None when the batch has no probes.
    """

    token_loss_R: Tensor
    probed: Probed | None

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


def measure(lse_N: Tensor, z_N1: Tensor, batch: Batch, kernels: Kernels) -> Measurement:
    """Per-rationale losses and per-probe gold log-likelihoods from the head's rows (DESIGN section 3)."""
    scores = segment_scores(lse_N, z_N1, batch.plan, kernels=kernels)
    token_loss_R = scores.mean_S[: batch.num_rationales]
    if not batch.num_probes:
        return Measurement(token_loss_R, None)
    gold_S = -scores.mean_S.detach()[batch.num_rationales :]
    gold0_R = gold_S[: batch.num_examples].index_select(0, batch.example_R)
    gains = (scores.total_C, scores.jump_C, scores.step_C)
    return Measurement(token_loss_R, Probed(gold0_R, gold_S[batch.num_examples :], *gains))


def _base(lm: Any) -> Any:
    """The transformers model inside peft's wrapper, or the model itself."""
    return lm.get_base_model() if hasattr(lm, "peft_config") else lm
