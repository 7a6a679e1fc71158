"""The student's head as a module that returns log-sum-exp and target logits instead of logits.

Owns the class swap of `lm_head`, and what a family does to the product besides. The primitive runs inside the module that owns
the weight, so that ZeRO-3 gathers it for the forward pass and again for the recomputation in the backward pass, tied or untied.

Legend: N rows, D hidden size, K target slots.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

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

    Raises ConfigError when it is no plain linear layer, or when its logits are made otherwise than here.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        raise ConfigError(
            "student.model", type(head).__name__, "a model whose head is nn.Linear", "use another student"
        )
    config = model.config.get_text_config()
    if model.get_decoder() is head:
        # ModernBERT's decoders name their head so, which works on hidden states of its own.
        found = f"{config.model_type}, whose decoder is its head"
        raise ConfigError(
            "student.model", found, "a decoder that gives the head's hidden states", "use another student"
        )
    head.__class__ = ScoringHead
    scoring: ScoringHead = head  # type: ignore[assignment]
    scoring.kernels = kernels
    scoring.softcap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)
    scoring.scale = _scale(config)
    _check(model, scoring)
    return scoring


def _scale(config: Any) -> float:
    """What a family multiplies its logits by, before any cap."""
    multiplier = getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None) or 1.0
    scaling = getattr(config, "logits_scaling", None) or 1.0
    # Granite divides by the setting of which HyperCLOVA X makes a factor.
    return float(multiplier * scaling if config.model_type == "hyperclovax" else multiplier / scaling)


@torch.no_grad()
def _check(model: Any, head: ScoringHead) -> None:
    """Compare with the model's own logits of one hidden state: a family that does more to them would be trained on others.

    Raises ConfigError.
    """
    word_D = max(head.weight[:64], key=lambda word_D: float(word_D.float().norm()))
    # So long that a cap shows.
    hidden_11D = (word_D * (100 / word_D.float().square().sum().clamp(min=1e-12)))[None, None]
    decoder = model.get_decoder()
    decoder.forward = lambda *_, **__: BaseModelOutputWithPast(last_hidden_state=hidden_11D)
    try:
        own_V = model(input_ids=torch.zeros(1, 1, dtype=torch.int64, device=hidden_11D.device)).logits[0, 0].double()
    except (AttributeError, TypeError, KeyError, IndexError):
        return  # It asks its decoder for more than hidden states: nothing to compare with.
    finally:
        del decoder.forward
    logit_V = nn.Linear.forward(head, hidden_11D)[0, 0].double() * head.scale
    if head.softcap is not None:
        logit_V = head.softcap * torch.tanh(logit_V / head.softcap)
    # 16-bit products differ by less than a hundredth; a factor or a cap does not. What is no number is found by the first step.
    atol = 0.05 * float(logit_V.nan_to_num().abs().max())
    if not torch.allclose(own_V, logit_V, rtol=0, atol=atol, equal_nan=True):
        found = f"{model.config.model_type}, which does more to its logits than scale and cap them as its config says"
        raise ConfigError("student.model", found, "logits that are known", "use another student")
