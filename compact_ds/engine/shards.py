"""Whole parameters out of ZeRO's shards.

Owns the gathering for evaluation and export. All ranks call, in the same order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_GROUP_ELEMENTS = 1 << 27
"""Parameters are gathered in groups of about so many elements, so that no rank holds two copies at once."""


@torch.no_grad()
def full_state(module: nn.Module, keep: bool, prefix: str = "lm.") -> dict[str, Tensor]:
    """All parameters by name without `prefix`, whole, on CPU; empty where `keep` is false. A collective under ZeRO-3."""
    state: dict[str, Tensor] = {}
    for group in _groups(list(module.named_parameters())):
        with _gathered([p for _, p in group]):
            if keep:
                state |= {name.removeprefix(prefix): p.detach().to("cpu", copy=True) for name, p in group}
    return state


def _gathered(parameters: list[nn.Parameter]) -> Any:
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters, enabled=any(hasattr(p, "ds_id") for p in parameters))


def _groups(named: list[tuple[str, nn.Parameter]]) -> list[list[tuple[str, nn.Parameter]]]:
    groups: list[list[tuple[str, nn.Parameter]]] = [[]]
    size = 0
    for name, parameter in named:
        elements = int(getattr(parameter, "ds_numel", parameter.numel()))
        if size + elements > _GROUP_ELEMENTS and groups[-1]:
            groups.append([])
            size = 0
        groups[-1].append((name, parameter))
        size += elements
    return groups
