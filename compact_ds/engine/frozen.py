"""Hashes of parameters that are not trained, so that a checkpoint can tell whether it stands on the same ones.

Owns the hash. DeepSpeed's form for another number of ranks leaves frozen parameters out and says nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import nn


@torch.no_grad()
def frozen_hashes(module: nn.Module) -> dict[str, str]:
    """A SHA-256 of type, shape and bytes for every frozen parameter, by name. Before ZeRO partitions the module."""
    frozen = ((name, p.detach().cpu().contiguous()) for name, p in module.named_parameters() if not p.requires_grad)
    found = {}
    for name, value in frozen:
        digest = hashlib.sha256(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
        found[name] = digest.hexdigest()
    return found


def differing(was: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Names of parameters that are not the same, or frozen in one of the two alone; sorted."""
    return sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
