"""Linear layers that train on a prefix of the tokens: probe tokens pass through the same call without a gradient.

Owns the one idea that makes probes cheap. Probes lie behind the trunk in every row; each linear layer multiplies both
parts in one module call (so ZeRO-3 gathers its weight once), but only the trunk's part enters the autograd graph.
A second no-grad forward pass would cost ZeRO-3 another gather of all parameters and its prefetch trace.

Legend: B rows, L tokens of a row, D and F features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from compact_ds.kernels.choice import Kernels
from compact_ds.kernels.tree_attention import Ancestry


class TreePass:
    """What the layers must know about the micro-batch that is passing through them.

    It stays set through the backward pass, where checkpointed layers run again.
    """

    def __init__(self) -> None:
        self.tree: Ancestry | None = None
        self.kernels: Kernels = "auto"
        self.attention_calls = 0

    def begin(self, tree: Ancestry) -> None:
        """A new micro-batch starts."""
        self.tree = tree
        self.attention_calls = 0

    @property
    def num_trunk(self) -> int:
        """Tokens of a row that train; those behind them only measure."""
        return 0 if self.tree is None else self.tree.num_trunk


class PrefixLinear(nn.Linear):
    """An `nn.Linear` whose tokens from `tree_pass.num_trunk` on take no part in the backward pass."""

    tree_pass: TreePass

    def forward(self, input: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, F]."""
        num_trunk = self.tree_pass.num_trunk
        if input.ndim != 3 or input.shape[1] <= num_trunk or not torch.is_grad_enabled():
            return functional.linear(input, self.weight, self.bias)
        trunk = self._multiply(input[:, :num_trunk])
        with torch.no_grad():
            probes = self._multiply(input[:, num_trunk:])
        return torch.cat((trunk, probes), dim=1)

    def _multiply(self, input: Tensor) -> Tensor:
        # A frozen weight times a slice that is no whole block of memory goes to the batched product, at half the speed.
        flat = functional.linear(input.reshape(-1, input.shape[-1]), self.weight, self.bias)
        return flat.view(*input.shape[:2], -1)


def train_on_prefix(model: nn.Module, tree_pass: TreePass) -> int:
    """Turn every plain linear layer into a PrefixLinear in place (same parameters, same names); how many there were."""
    count = 0
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = PrefixLinear
            module.tree_pass = tree_pass  # type: ignore[assignment]
            count += 1
    return count
