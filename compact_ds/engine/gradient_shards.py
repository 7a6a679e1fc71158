"""This rank's shard of the gradient between a backward pass and the optimizer's step: read it, replace it, forget it.

Owns what each ZeRO stage keeps where. It also owns a promise that DeepSpeed does not give: a parameter that no pass used has no
gradient. ZeRO-3, and every offloaded optimizer, writes a shard only when its parameter was used and would otherwise hand the
last pass's gradient to the next reader.

Legend: N elements of this rank's shard, padding included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor


class GradientShards(Protocol):
    """One fp32 vector of `size` elements a rank; `replicated` where every rank holds the whole gradient.

    `read` is valid after a backward pass and `write` after the last one before the step; all ranks call alike.
    """

    size: int
    replicated: bool
    device: torch.device

    def read(self, out_N: Tensor) -> None:
        """Copy the gradient that the passes since the last `clear` have added up into `out_N`."""

    def write(self, value_N: Tensor) -> None:
        """Make `value_N` what the optimizer will see; its norm is clipped as usual."""

    def clear(self) -> None:
        """Forget all that was added up."""


def gradient_shards(engine: Any, stage: int) -> GradientShards:
    """The shards of a DeepSpeed engine at a ZeRO stage."""
    if stage == 0:
        return _Whole(engine)
    if stage == 3:
        return _Partitioned(engine.optimizer)
    # In bf16 stage 1 has an optimizer of its own, with the fp32 sums of all parameters on every rank.
    return (
        _Sums(engine.optimizer) if hasattr(engine.optimizer, "fp32_groups_gradients_flat") else _Flat(engine.optimizer)
    )


class _Whole:
    """Stage 0: `.grad` of every trained parameter, averaged over ranks by each backward pass."""

    replicated = True

    def __init__(self, engine: Any) -> None:
        self._parameters = [p for p in engine.module.parameters() if p.requires_grad]
        self.size = sum(p.numel() for p in self._parameters)
        self.device = self._parameters[0].device

    def read(self, out_N: Tensor) -> None:
        parts = out_N.split([p.numel() for p in self._parameters])
        for part_N, p in zip(parts, self._parameters, strict=True):
            part_N.zero_() if p.grad is None else part_N.copy_(p.grad.flatten())

    def write(self, value_N: Tensor) -> None:
        parts = value_N.split([p.numel() for p in self._parameters])
        for part_N, p in zip(parts, self._parameters, strict=True):
            p.grad = part_N.view_as(p).to(p.dtype, copy=True)

    def clear(self) -> None:
        for p in self._parameters:
            p.grad = None


class _Sums:
    """Stage 1 in bf16: flat fp32 sums of all parameters, averaged over ranks by the last backward pass."""

    replicated = True

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._flat: list[Tensor] = optimizer.fp32_groups_gradients_flat
        self.size = sum(flat.numel() for flat in self._flat)
        self.device = self._flat[0].device

    def read(self, out_N: Tensor) -> None:
        torch.cat([flat.view(-1) for flat in self._flat], out=out_N)

    def write(self, value_N: Tensor) -> None:
        for part_N, flat in zip(value_N.split([flat.numel() for flat in self._flat]), self._flat, strict=True):
            flat.copy_(part_N.view_as(flat))
        # Its norm takes those parameters only that the last passes used.
        for used in self._optimizer.fp32_groups_has_gradients:
            used[:] = [True] * len(used)

    def clear(self) -> None:
        self._optimizer.zero_grad()


class _Flat:
    """Stages 1 and 2: one flat partition a parameter group, in pieces, or a flat fp32 buffer when offloaded."""

    replicated = False

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._sizes = [int(size) for size in optimizer.partition_size]
        self.size = sum(self._sizes)
        self.device = optimizer.single_partition_of_fp32_groups[0].device

    def read(self, out_N: Tensor) -> None:
        out_N.zero_()
        for part_N, piece in self._pieces(out_N):
            part_N.copy_(piece)

    def write(self, value_N: Tensor) -> None:
        for part_N, piece in self._pieces(value_N):
            piece.copy_(part_N)
        if self._optimizer.cpu_offload:
            self._measure()

    def clear(self) -> None:
        optimizer = self._optimizer
        optimizer.zero_grad(set_to_none=True)
        optimizer.micro_step_id = -1  # the next pass starts a new sum
        # An offloaded optimizer too adds up here when its sums are wider than the weights, as they are in bf16.
        optimizer._release_preflattened_grad_buffers()
        for group in optimizer.averaged_gradients:
            optimizer.averaged_gradients[group] = None
            optimizer.all_grad_tensors[group] = None
        if optimizer.cpu_offload:
            optimizer.reset_cpu_buffers()
            optimizer._offload_accumulated_param_ids.clear()
            for accumulated in optimizer.accumulated_grads_in_cpu.values():
                accumulated.zero_()
            for master in optimizer.single_partition_of_fp32_groups:
                if master.grad is not None:
                    master.grad.zero_()

    def _pieces(self, flat_N: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Matching 1-D views of `flat_N` and of what the optimizer holds; its padding at the end may be missing."""
        for i, part_N in enumerate(flat_N.split(self._sizes)):
            if self._optimizer.cpu_offload:
                yield part_N, self._optimizer.single_partition_of_fp32_groups[i].grad.view(-1)
                continue
            start = 0
            for piece in self._optimizer.averaged_gradients[i]:
                yield part_N[start : start + piece.numel()], piece.view(-1)
                start += piece.numel()

    def _measure(self) -> None:
        """An offloaded optimizer clips by norms that it took when the gradient arrived: take them again."""
        optimizer = self._optimizer
        for i, parameters in enumerate(optimizer.params_in_partition):
            flat_N = optimizer.single_partition_of_fp32_groups[i].grad.view(-1)
            for p in parameters:
                key = optimizer.get_param_id(p)
                _, _, start, size = optimizer.grad_position[key]
                optimizer.norm_for_param_grads[key] = flat_N.narrow(0, int(start), int(size)).double().norm()


class _Partitioned:
    """Stage 3: a shard of every parameter, on the device or in the offloaded optimizer's flat buffers."""

    replicated = False

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._parameters = [p for group in optimizer.fp16_groups for p in group if p.requires_grad]
        self._sizes = [p.ds_tensor.numel() for p in self._parameters]
        self.size = sum(self._sizes)
        self.device = optimizer.fp32_partitioned_groups_flat[0].device

    def read(self, out_N: Tensor) -> None:
        for part_N, p in zip(out_N.split(self._sizes), self._parameters, strict=True):
            part_N.copy_(self._optimizer.get_local_fp32_grad_for_param(p))

    def write(self, value_N: Tensor) -> None:
        for part_N, p in zip(value_N.split(self._sizes), self._parameters, strict=True):
            self._optimizer.set_local_grad_for_param(part_N, p)

    def clear(self) -> None:
        optimizer = self._optimizer
        optimizer.zero_grad()
        optimizer.grad_partitions_flat_buffer.zero_()
        if optimizer.offload_optimizer:
            optimizer._offload_boundary_param_ids.clear()
            optimizer.norm_for_param_grads.clear()
            for master in optimizer.fp32_partitioned_groups_flat:
                if master.grad is not None:
                    master.grad.zero_()
