"""All that an optimizer's step changes on this rank, as named tensors: to copy, to put back, to average.

Owns where DeepSpeed keeps parameters, their fp32 masters and the moments at each ZeRO stage. Frozen parameters are not in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

_MASTERS = ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition")

_BLOCK = 1 << 20
"""Elements of which a mean is taken at once."""

Copy = dict[str, Tensor]
"""A copy of the state by name, on the device of each tensor."""


class TrainedState:
    """The trained state of one DeepSpeed engine; copies of it may be put back at any time between steps."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    @torch.no_grad()
    def copy(self) -> Copy:
        """The state as it is now."""
        return {name: tensor.clone() for name, tensor in self._tensors()}

    @torch.no_grad()
    def put(self, copy: Copy) -> None:
        """Make the state what it was; moments that did not exist then become zero, which is how an optimizer begins."""
        self._release()
        for name, tensor in self._tensors():
            if name in copy:
                tensor.copy_(copy[name])
            else:
                tensor.zero_()

    def _release(self) -> None:
        """Give up what ZeRO-3 keeps whole beside the shards, as it does with small parameters: it is gathered anew when used."""
        for p in self._engine.module.parameters():
            if p.requires_grad and hasattr(p, "ds_tensor") and p.numel() == p.ds_numel:
                p.partition()

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for i, p in enumerate(p for p in self._engine.module.parameters() if p.requires_grad):
            yield f"shard {i}", p.ds_tensor.data if hasattr(p, "ds_tensor") else p.data
        optimizer = self._engine.optimizer
        for kind in _MASTERS:
            for i, master in enumerate(getattr(optimizer, kind, ())):
                yield f"{kind} {i}", master.data
        inner = getattr(optimizer, "optimizer", optimizer)
        # ZeRO-3 empties the groups outside of its step, so the moments are found by their own order of coming.
        for i, moments in enumerate(inner.state.values()):
            for key, value in sorted(moments.items()):
                if isinstance(value, Tensor):
                    yield f"{key} {i}", value


@torch.no_grad()
def mean(copies: Sequence[Copy]) -> Copy:
    """The mean of several copies, tensor by tensor, in the type of each; sums are taken in float64, a block at a time."""
    return {name: _mean([copy[name] for copy in copies]) for name in copies[0]}


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    # A flat master is as long as the whole shard: in float64 it would weigh twice what it does, for every copy.
    found = torch.empty_like(tensors[0], memory_format=torch.contiguous_format)
    blocks = [tensor.reshape(-1).split(_BLOCK) for tensor in (found, *tensors)]
    for out, first, *others in zip(*blocks, strict=True):
        total = first.double()
        for block in others:
            total += block
        out.copy_(total.div_(len(tensors)))
    return found
