"""Low-rank adapters of peft computed in one product with the layer that they adapt.

Owns the class swap of peft's linear layers, whose parameters and names stay. Its own forward pass scales and adds outputs as
wide as the layer's, each in a pass of its own over memory, and calls four modules, each of which ZeRO-3 follows; here the
layer itself reads their weights, which ZeRO-3 gathers for it, and there is one call. The product is `prefix`'s.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

from compact_ds.student.prefix import PrefixLinear, TreePass, prefix_product


class AdaptedLinear(Linear):
    """peft's layer around a PrefixLinear, with one adapter in use."""

    tree_pass: TreePass

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[B, L, D] -> [B, L, F]."""
        if x.ndim != 3 or self.disable_adapters or self.merged or not torch.is_grad_enabled():
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        base: PrefixLinear = self.base_layer  # type: ignore[assignment]
        down: nn.Linear = self.lora_A[name]  # type: ignore[assignment]
        up: nn.Linear = self.lora_B[name]  # type: ignore[assignment]
        adapter = down.weight, up.weight, self.scaling[name]
        return prefix_product(x, base.weight, base.bias, self.tree_pass.num_trunk, adapter)


def join(model: nn.Module, tree_pass: TreePass) -> None:
    """Make AdaptedLinear of the model's adapted PrefixLinears in place, but of those whose adapter does more than multiply."""
    for module in model.modules():
        if type(module) is Linear and type(module.base_layer) is PrefixLinear and _is_plain(module):
            module.__class__ = AdaptedLinear
            module.tree_pass = tree_pass  # type: ignore[assignment]


def _is_plain(layer: Linear) -> bool:
    """Whether the layer has one adapter, of two matrices and no more: no dropout, bias, or variant such as DoRA."""
    if len(layer.lora_A) != 1 or layer.lora_variant or layer.fan_in_fan_out:
        return False
    (name,) = layer.lora_A
    parts = layer.lora_A[name], layer.lora_B[name]
    return isinstance(layer.lora_dropout[name], nn.Identity) and all(p.bias is None for p in parts)
