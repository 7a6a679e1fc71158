"""Tree attention inside a transformers model, and the refusal of models that cannot take it.

Owns how the tree reaches the attention layers: as a registered attention implementation, so that no model file is touched
and families differ only in what they ask for (sliding window, soft cap). The mathematics, and the choice of what computes
it, are in `kernels.tree_attention`.

Legend: B rows, H query heads, L tokens of a row, E head size.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig, PreTrainedModel

from compact_ds.errors import ConfigError
from compact_ds.kernels.choice import Kernels
from compact_ds.kernels.tree_attention import choose, tree_attention
from compact_ds.student.prefix import TreePass

NAME = "compact_tree"
_KINDS = {"full_attention", "sliding_attention"}


def install(model: PreTrainedModel, tree_pass: TreePass, kernels: Kernels) -> None:
    """Make every attention layer of the model read the tree from `tree_pass`. Raises ConfigError for an unfit family.

    What computes attention follows `kernels` and the device of the first forward pass, see `kernels.tree_attention.choose`.
    """
    reason = refusal(model)
    if reason is not None:
        found = model.config.model_type
        raise ConfigError("student.model", found, f"a family that takes a tree mask ({reason})", "set tree.layout=rows")
    AttentionInterface.register(NAME, _attend)
    # No mask is registered under the name: transformers then builds none, and does not ask the device what it would hold.
    model.set_attn_implementation(NAME)
    tree_pass.kernels = kernels
    for module in model.modules():
        module.tree_pass = tree_pass  # type: ignore[assignment]


def refusal(model: PreTrainedModel) -> str | None:
    """Why this model cannot take a tree mask, or None when it can."""
    config: PretrainedConfig = model.config.get_text_config()
    others = sorted(set(getattr(config, "layer_types", None) or ()) - _KINDS)
    if others:
        return f"layers of type {', '.join(others)} do not attend to a chosen set of tokens"
    if getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt"):
        return "ALiBi reads distances from the layout, not from positions"
    if not getattr(model, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    return None


def check_taken(tree_pass: TreePass, config: PretrainedConfig) -> None:
    """After a forward pass: every layer must have come here for its attention. Raises ConfigError."""
    layers = config.get_text_config().num_hidden_layers
    if tree_pass.attention_calls < layers:
        expected = f"tree attention in all {layers} layers, {tree_pass.attention_calls} asked for it"
        raise ConfigError("student.model", config.model_type, expected, "set tree.layout=rows")


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    tree_pass: TreePass = module.tree_pass  # type: ignore[assignment]
    if s_aux is not None or (dropout and module.training):
        raise ConfigError(
            "student.model", type(module).__name__, "attention without sinks or dropout", "set tree.layout=rows"
        )
    assert tree_pass.tree is not None
    tree_pass.attention_calls += 1
    backend = choose(tree_pass.kernels, query.device.type, query.shape[-1])
    out_BHLE = tree_attention(
        query, key, value, tree_pass.tree, backend, scale=scaling, window=sliding_window, softcap=softcap
    )
    return out_BHLE.transpose(1, 2).contiguous(), None
