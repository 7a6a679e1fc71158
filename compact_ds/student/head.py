"""The student's head as a module that returns log-sum-exp and target logits instead of logits.

Owns the class swap of `lm_head`. The primitive runs inside the module that owns the weight, so that ZeRO-3 gathers it for
the forward pass and again for the recomputation in the backward pass, tied or untied.

Legend: N rows, D hidden size, K target slots.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from compact_ds.errors import ConfigError
from compact_ds.kernels.choice import Kernels
from compact_ds.kernels.lse_gather import lse_gather
from compact_ds.kernels.target_rank import target_rank


class ScoringHead(nn.Linear):
    """An `nn.Linear` head that, given targets, scores them without storing logits."""

    softcap: float | None
    scale: float
    kernels: Kernels

    def forward(  # type: ignore[override]
        self, input: Tensor, targets_NK: Tensor | None = None, grad_rows: int | None = None, num_ranked: int = 0
    ) -> Tensor | tuple[Tensor, ...]:
        """Logits of `input`, or `(lse[N], z[N, K])` when targets are given.

        With `num_ranked` also the first target's rank in each of the first so many rows, `rank[num_ranked]`.
        """
        if targets_NK is None:
            return super().forward(input)
        scored = lse_gather(
            input, self.weight, targets_NK, self.bias, softcap=self.softcap, scale=self.scale, grad_rows=grad_rows,
            kernels=self.kernels,
        )  # fmt: skip
        if not num_ranked:
            return scored
        ranked = (input[:num_ranked], self.weight, targets_NK[:num_ranked, 0], self.bias)
        return *scored, target_rank(*ranked)


def install(model: Any, kernels: Kernels) -> ScoringHead:
    """Turn the model's output embedding into a ScoringHead in place, computed by `kernels`.

    Raises ConfigError when it is no plain linear layer.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        raise ConfigError(
            "student.model", type(head).__name__, "a model whose head is nn.Linear", "use another student"
        )
    config = model.config.get_text_config()
    head.__class__ = ScoringHead
    scoring: ScoringHead = head  # type: ignore[assignment]
    scoring.kernels = kernels
    scoring.softcap = getattr(config, "final_logit_softcapping", None)
    # Granite divides and Cohere multiplies the logits by a constant of the config.
    scoring.scale = float(getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1.0))
    return scoring
