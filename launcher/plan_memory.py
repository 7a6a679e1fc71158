"""Memory of one rank, by part, for ZeRO stages 0 to 3, offloading and adapters.

Owns what DeepSpeed keeps where. Three moments decide: the backward pass of the largest micro-batch, the optimizer's step and, on
several CPU ranks under ZeRO-3, the first layers of the forward pass, by which all that ZeRO-3 may gather ahead is under way.
Where gradients are held as shards there are two more: a further pass, and the mix; where branches merge one more, and where
something is evaluated, which is `plan_evaluation`'s. The parts are those of the moment that needs most. Activations are
`plan_activations`', sizes `plan_shape`'s, the number of gradients `plan_mixing`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compact_ds.config import deepspeed_file
from compact_ds.errors import ConfigError
from compact_ds.launcher.plan_activations import activations
from compact_ds.launcher.plan_evaluation import evaluation, plain
from compact_ds.launcher.plan_mixing import further_passes, held
from compact_ds.launcher.plan_shape import Shape
from compact_ds.launcher.plan_workload import MicroBatch, Workload
from compact_ds.sections import Config

FRAGMENTATION = 0.08
"""Share of what comes and goes that the caching allocator of a GPU cannot hand out again: assumed."""

_GRAM_BLOCK = 1 << 20
"""Elements of every shard that inner products take at once, in float64 (`mixer.gradient_mode`)."""

CONTEXT_BYTES = 1 << 30
"""CUDA's context, kernels and NCCL's channels on a GPU: assumed."""


@dataclass(frozen=True, slots=True)
class ZeroSettings:
    """What the DeepSpeed file says, its own defaults filled in; sizes in elements."""

    stage: int
    reduce_bucket: int
    prefetch: int
    persistence: int
    max_live: int
    sub_group: int
    overlaps: bool
    contiguous: bool
    offloads_optimizer: bool
    offloads_parameters: bool


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one rank by part; `moment` says which it is, `host` what is offloaded or passes there."""

    parts: Mapping[str, int]
    moment: str
    host: int

    @property
    def total(self) -> int:
        """The peak."""
        return sum(self.parts.values())


def zero_settings(config: Config) -> ZeroSettings:
    """ZeRO as the run will have it. Raises ConfigError for a file that cannot be read."""
    found: dict[str, Any] = {}
    if config.engine.deepspeed is not None:
        try:
            file = deepspeed_file(config.engine.deepspeed)
            found = {**json.loads(file.read_text(encoding="utf-8")).get("zero_optimization", {})}
        except (OSError, ValueError, TypeError, AttributeError):
            expected = "a readable JSON file, an object whose zero_optimization is one too"
            raise ConfigError("engine.deepspeed", str(config.engine.deepspeed), expected, "check the file") from None
    # As files for transformers' Trainer have it: DeepSpeed then takes its default.
    found = {key: value for key, value in found.items() if value != "auto"}
    stage = int(found.get("stage", config.engine.zero_stage))
    return ZeroSettings(
        stage=stage,
        reduce_bucket=int(found.get("reduce_bucket_size", 5e8)),
        prefetch=int(found.get("stage3_prefetch_bucket_size", 5e7)),
        persistence=int(found.get("stage3_param_persistence_threshold", 1e5)),
        max_live=int(min(found.get("stage3_max_live_parameters", 1e9), found.get("stage3_max_reuse_distance", 1e9))),
        sub_group=int(found.get("sub_group_size", 1e9)),
        overlaps=bool(found.get("overlap_comm", stage == 3)),
        contiguous=bool(found.get("contiguous_gradients", True)),
        offloads_optimizer=found.get("offload_optimizer", {}).get("device", "none") != "none",
        offloads_parameters=found.get("offload_param", {}).get("device", "none") != "none",
    )


def memory(config: Config, shape: Shape, work: Workload, world_size: int, on_gpu: bool) -> Memory:
    """The peak of a rank."""
    zero, bytes_each = zero_settings(config), 2 if config.engine.precision == "bf16" else 4
    state, kept = _States(shape, zero, bytes_each, world_size), held(config, work, world_size)
    shard = 0 if zero.offloads_optimizer else state.gradient_shard
    resting = {
        "parameters": state.parameters, "optimizer": state.optimizer, "buckets": state.resting_buckets,
        "gradient shards": kept.between * shard, "branches": work.branches * state.copy,
    }  # fmt: skip
    with_gloo = world_size > 1 and not on_gpu
    update = {"gradients": state.gradients_at_update, "update": state.update(on_gpu)}
    if with_gloo and zero.stage in (1, 2) and zero.contiguous:
        # The last bucket of gradients may be its threads' still: so says the size of what was measured (docs/planning.md).
        update["buckets"] = zero.reduce_bucket * bytes_each
    moments = [("update", resting | update)]
    if work.branches:
        # A copy more than rests: their mean, and before it a branch's new copy beside the one before.
        moments.append(("merge", resting | {"branches": (work.branches + 1) * state.copy}))
    for moment, parts in _pass(config, state, work.micro_batches, on_gpu):
        moments.append((moment, resting | parts))
    if kept.most:
        mixing = resting | {"gradient shards": kept.most * shard}
        for batches in further_passes(config, work):
            moments += [("further pass", mixing | parts) for _, parts in _pass(config, state, batches, on_gpu)]
        gram = 8 * kept.most * min(shard // 4, _GRAM_BLOCK)
        moments.append(("mixing", mixing | {"gradients": state.gradients_at_update, "passing through": gram}))
    if work.evaluated is not None:
        moments.append(("evaluation", resting | evaluation(shape, work.evaluated, bytes_each)))
    moment, parts = max(moments, key=lambda one: sum(one[1].values()))
    if on_gpu:
        moving = sum(size for name, size in parts.items() if name not in ("parameters", "optimizer"))
        parts = parts | {"fragmentation": int(FRAGMENTATION * moving), "context": CONTEXT_BYTES}
    host = state.host + (kept.most * state.gradient_shard if zero.offloads_optimizer else 0)
    if on_gpu and work.evaluated is not None:
        # The whole student is read to the host, and goes to the GPU from there.
        host += plain(shape) * bytes_each
    if work.branches:
        host += (work.branches + 1) * state.host_copy
    return Memory({name: int(size) for name, size in parts.items() if size}, moment, host)


def _pass(
    config: Config, state: _States, batches: Sequence[MicroBatch], on_gpu: bool
) -> Iterator[tuple[str, dict[str, int]]]:
    """The moments of a pass, and what each needs beside what rests."""
    # Gloo receives into memory of its own, and holds it until the layer that waits for the gather has come.
    received = state.gather_copy if state.world > 1 and not on_gpu else 0
    if received:
        parts = {"gathered parameters": state.gathered, "passing through": state.gathered + received}
        yield "forward", parts | {"gradients": state.gradients(False)}
    for number, batch in enumerate((*batches[:1], *set(batches[1:]))):
        found = activations(state.shape, batch, state.b, config.student.gradient_checkpointing, on_gpu)
        parts = {
            "gathered parameters": state.gathered,
            "gradients": state.gradients(number > 0),
            "activations": found.saved,
            "passing through": max(
                found.forward_peak + 2 * received, found.backward_peak, found.head, state.gather_copy
            ),
            "head's gradient": state.head_gradient,
            "tree mask": found.mask,
            "buckets": state.resting_buckets + state.passing_buckets,
        }
        yield "backward", parts


class _States:
    """What ZeRO keeps of parameters, gradients and moments, in bytes on one rank."""

    def __init__(self, shape: Shape, zero: ZeroSettings, bytes_each: int, world_size: int) -> None:
        self.shape, self.zero, self.b, self.world = shape, zero, bytes_each, world_size
        self.shard = -(-shape.trained // world_size)

    @property
    def parameters(self) -> int:
        """At stage 3 a shard, and all of what is too small to share out."""
        if self.zero.stage < 3:
            return self.shape.total * self.b
        small = sum(p.numel for p in self.shape.parameters if p.numel <= self.zero.persistence)
        whole = small * self.b if self.world > 1 else 0
        return (0 if self.zero.offloads_parameters else self.shape.total * self.b // self.world) + whole

    @property
    def gathered(self) -> int:
        """Parameters that are whole for a while at stage 3."""
        if self.zero.stage < 3 or (self.world == 1 and not self.zero.offloads_parameters):
            return 0
        largest = max(self.shape.layer, max(p.numel for p in self.shape.parameters))
        return min(self.shape.total, self.zero.max_live + largest + self.zero.prefetch) * self.b

    @property
    def gather_copy(self) -> int:
        """What a gather received, beside the parameters that are cut out of it: a prefetched bucket and what follows."""
        if not self.gathered:
            return 0
        largest = max(p.numel for p in self.shape.parameters)
        return min(self.shape.total, self.zero.prefetch + largest) * self.b

    @property
    def optimizer(self) -> int:
        """Both moments in fp32, and from stage 1 on fp32 parameters beside those that compute, in fp32 too."""
        if self.zero.stage == 0:
            return 8 * self.shape.trained
        if self.zero.offloads_optimizer:
            return 0
        return 12 * self.shard

    @property
    def host(self) -> int:
        """Offloaded: moments, fp32 parameters and gradients; parameters."""
        found = 16 * self.shard if self.zero.offloads_optimizer else 0
        return found + (self.shape.total * self.b // self.world if self.zero.offloads_parameters else 0)

    @property
    def copy(self) -> int:
        """What `engine.trained_state` copies: trained parameters, a shard of each at stage 3, and all that is `optimizer`'s."""
        shared_out = self.zero.stage == 3
        own = 0 if self.zero.offloads_parameters else self.b * (self.shard if shared_out else self.shape.trained)
        return own + self.optimizer

    @property
    def host_copy(self) -> int:
        """And what it copies there of what is offloaded; gradients are no part of it."""
        own = self.b * self.shard if self.zero.offloads_parameters else 0
        return own + (12 * self.shard if self.zero.offloads_optimizer else 0)

    @property
    def head_gradient(self) -> int:
        """The head's gradient, whole, before it is reduced: the first of the backward pass."""
        return 0 if self.shape.lora is not None else self.shape.vocabulary * self.shape.hidden * self.b

    def gradients(self, several: bool) -> int:
        """Where activations are at their peak: those of earlier micro-batches, and the shards."""
        stage = self.zero.stage
        if stage == 3:
            return 0 if self.zero.offloads_optimizer else 4 * self.shard
        if stage == 2:
            return 4 * self.shard if several and not self.zero.offloads_optimizer else 0
        fp32_sums = 4 * self.shape.trained if stage == 1 and self.b == 2 else 0
        return fp32_sums + (self.b * self.shape.trained if several and not fp32_sums else 0)

    @property
    def gradients_at_update(self) -> int:
        """What the step begins with."""
        return 0 if self.zero.offloads_optimizer else self.gradient_shard

    @property
    def gradient_shard(self) -> int:
        """One gradient as `engine.gradient_shards` reads it, in fp32: whole where every rank holds all of it."""
        whole = self.zero.stage == 0 or (self.zero.stage == 1 and self.b == 2)
        return 4 * (self.shape.trained if whole else self.shard)

    def update(self, on_gpu: bool) -> int:
        """The flat gradient of the group at hand and AdamW's temporaries: two on a CPU, one where `foreach` runs."""
        times = 1 if on_gpu else 2
        if self.zero.stage == 0:
            largest = self.shape.trained if on_gpu else max(p.numel for p in self.shape.parameters if p.trained)
            return 4 * times * largest
        if self.zero.offloads_optimizer:
            return 0
        group = max(self.shape.groups) // self.world
        if self.zero.stage == 3:
            group = min(group, self.zero.sub_group)  # no other stage updates a group in pieces
        return 4 * (1 + times) * group

    @property
    def resting_buckets(self) -> int:
        """Stage 3 keeps its reduction bucket."""
        return self.zero.reduce_bucket * self.b if self.zero.stage == 3 and self.zero.contiguous else 0

    @property
    def passing_buckets(self) -> int:
        """Buckets of the backward pass."""
        if self.zero.stage in (0, 3):
            return 0
        return self.zero.reduce_bucket * self.b * (1 + self.zero.overlaps) if self.zero.contiguous else 0
