"""What a run would need and take, without running it: memory by part, traffic, step time, cost, and what would fit.

Owns how the other `plan_*` files come together. Every figure follows from a config, a student's shape, the lengths of the data
and a machine; `Plan.as_json` says of each whether it is counted, measured or assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compact_ds import config as configuration
from compact_ds.errors import UserError
from compact_ds.launcher.plan_activations import activations
from compact_ds.launcher.plan_memory import Memory, ZeroSettings, memory, zero_settings
from compact_ds.launcher.plan_mixing import gradients, passes_of_a_step, whole_step
from compact_ds.launcher.plan_shape import Shape
from compact_ds.launcher.plan_time import Machine, host_calls, latency, link, step_flops
from compact_ds.launcher.plan_traffic import seconds, traffic
from compact_ds.launcher.plan_workload import Lengths, Workload, workload
from compact_ds.sections import Config

USABLE = 0.95
"""Share of an accelerator's memory that a plan may fill: assumed."""

WORLD_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

_MEMORY_RATE_REACHED = 0.7
_PASSES_OVER_ACTIVATIONS = 3
_UPDATE_BYTES = 36
"""Of one trained element: parameters, gradient and both moments, read and written once, in fp32."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One config on so many ranks of a machine."""

    config: Config
    shape: Shape
    machine: Machine
    world_size: int
    work: Workload
    zero: ZeroSettings
    memory: Memory
    traffic: dict[str, int]
    compute_seconds: float
    network_seconds: float

    @property
    def fits(self) -> bool:
        """Whether a rank's peak leaves a margin."""
        return self.memory.total <= USABLE * self.machine.memory

    @property
    def overlapped(self) -> bool:
        """Whether transfers run under computation."""
        return self.machine.on_gpu and (self.zero.overlaps or self.zero.stage == 3)

    @property
    def step_seconds(self) -> float:
        """Of an optimizer step."""
        if self.overlapped:
            return max(self.compute_seconds, self.network_seconds)
        return self.compute_seconds + self.network_seconds

    @property
    def network_bound(self) -> bool:
        """Whether the network takes longer than the computation."""
        return self.network_seconds > self.compute_seconds

    @property
    def tokens_per_second(self) -> float:
        """Trained tokens of all ranks."""
        return self.work.global_tokens / self.step_seconds

    @property
    def cost_per_step(self) -> float:
        """At the machine's price."""
        return self.machine.price * self.world_size * self.step_seconds / 3600

    @property
    def cost_per_million(self) -> float:
        """Of a million trained tokens."""
        return self.cost_per_step / self.work.global_tokens * 1e6

    def as_json(self) -> dict[str, Any]:
        """The figures, and under `basis` where each comes from."""
        return {
            "student": self.shape.name,
            "parameters": self.shape.total,
            "trained": self.shape.trained,
            "machine": self.machine.name,
            "world_size": self.world_size,
            "zero_stage": self.zero.stage,
            "rows": self.work.largest.rows,
            "micro_batches": len(self.work.micro_batches),
            "memory": dict(self.memory.parts),
            "memory_total": self.memory.total,
            "memory_moment": self.memory.moment,
            "host_memory": self.memory.host,
            "fits": self.fits,
            "traffic": self.traffic,
            "compute_seconds": self.compute_seconds,
            "network_seconds": self.network_seconds,
            "step_seconds": self.step_seconds,
            "network_bound": self.network_bound,
            "tokens_per_second": self.tokens_per_second,
            "cost_per_step": self.cost_per_step,
            "cost_per_million_tokens": self.cost_per_million,
            "basis": {
                "memory": "counted; checked against a CPU's allocator",
                "fragmentation, context": "assumed",
                "traffic": "counted; checked against what gloo carried",
                "compute_seconds": "calibrated" if self.machine.calibrated else "assumed efficiency",
                "network_seconds": "calibrated" if self.machine.calibrated else "assumed efficiency",
                "lengths": "assumed",
                "price": "assumed",
            },
        }


def plan(config: Config, shape: Shape, machine: Machine, world_size: int, work: Workload) -> Plan:
    """The plan of a config for the micro-batches of `work`."""
    zero, bytes_each = zero_settings(config), 2 if config.engine.precision == "bf16" else 4
    checkpointing = config.student.gradient_checkpointing
    # Gradient mode and a guard make several passes; a diagnosing step's are one step's in many, and left out of the time.
    step, passes = whole_step(config, work), len(passes_of_a_step(config, work))
    taken, number = gradients(config, work, world_size, diagnosing=False), len(step.micro_batches)
    carried = traffic(shape, zero, bytes_each, checkpointing, number, world_size, passes, taken)
    network = 0.0
    if world_size > 1:
        messages = _messages(shape, zero, number, passes)
        network = seconds(carried, world_size, link(machine, world_size)) + latency(messages, world_size)
    compute = step_flops(shape, step, checkpointing, machine.on_gpu) / (machine.flops * machine.efficiency)
    compute += machine.host_seconds * host_calls(shape, step, checkpointing, zero.stage)
    if machine.on_gpu:
        compute += _passing_seconds(config, shape, machine, step, world_size)
    need = memory(config, shape, work, world_size, machine.on_gpu)
    return Plan(config, shape, machine, world_size, work, zero, need, carried, compute, network)


def largest_rows(config: Config, shape: Shape, machine: Machine, world_size: int, lengths: Lengths) -> int:
    """Most rows of a micro-batch that fit, no more than a rank's share of the batch fills; 0 when not even one does."""
    most = sum(m.rows for m in workload(config, lengths, world_size, 1).micro_batches)
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        work = workload(config, lengths, world_size, middle)
        fits = memory(config, shape, work, world_size, machine.on_gpu).total <= USABLE * machine.memory
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def over_world_sizes(
    config: Config,
    shape: Shape,
    machine: Machine,
    world_size: int,
    lengths: Lengths,
    sizes: Sequence[int] = WORLD_SIZES,
) -> list[Plan]:
    """The same questions on every rank, on more and more ranks."""
    each = config.data.batch_size // world_size
    plans = []
    for size in sizes:
        data = config.data.model_copy(update={"batch_size": each * size})
        grown = config.model_copy(update={"data": data})
        plans.append(plan(grown, shape, machine, size, workload(grown, lengths, size)))
    return plans


def fit(config: Config, shape: Shape, machine: Machine, world_size: int, lengths: Lengths) -> Plan:
    """The fastest way that fits, of ZeRO stages 1 to 3, with and without checkpointing, offloaded if nothing else does.

    Raises UserError when nothing fits.
    """
    found = [
        one
        for offloads in (False, True)
        for stage in ((3,) if offloads else (1, 2, 3))
        for checkpointing in (False, True)
        if (one := _way(config, shape, machine, world_size, lengths, stage, checkpointing, offloads)) is not None
    ]
    kept = [one for one in found if not one.zero.offloads_optimizer] or found
    if not kept:
        need = memory(config, shape, workload(config, lengths, world_size, 1), world_size, machine.on_gpu).total
        expected = f"a way to train in {machine.memory / 1e9:.0f} GB"
        remedy = "give more ranks, a larger accelerator, student.lora or mixer.diagnose_every=0"
        raise UserError("--fit", f"{need / 1e9:.1f} GB", expected, remedy)
    return min(kept, key=lambda one: (one.step_seconds, one.memory.total))


def write_config(found: Plan, file: Path) -> None:
    """A ready config of a plan, in a folder that is made if need be. Raises UserError where nothing can be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        configuration.save(found.config, file)
    except OSError as error:
        raise UserError("--fit", str(error), "a file that can be written", "choose another path") from None


def _way(
    config: Config, shape: Shape, machine: Machine, world_size: int, lengths: Lengths, stage: int, checkpointing: bool,
    offloads: bool,
) -> Plan | None:  # fmt: skip
    file = Path("configs/deepspeed") / ("zero3_offload.json" if offloads else f"zero{stage}.json")
    changed = config.model_copy(
        update={
            "engine": config.engine.model_copy(update={"zero_stage": stage, "deepspeed": file}),
            "student": config.student.model_copy(update={"gradient_checkpointing": checkpointing}),
        }
    )
    rows = largest_rows(changed, shape, machine, world_size, lengths)
    if rows == 0:
        return None
    changed = changed.model_copy(update={"tree": changed.tree.model_copy(update={"rows": rows})})
    return plan(changed, shape, machine, world_size, workload(changed, lengths, world_size))


def _passing_seconds(config: Config, shape: Shape, machine: Machine, work: Workload, world_size: int) -> float:
    """What is bound by memory: activations, read and written a few times, and the update of a shard."""
    bytes_each = 2 if config.engine.precision == "bf16" else 4
    saved = sum(activations(shape, m, bytes_each, False, True).saved for m in work.micro_batches)
    shard = shape.trained / (world_size if zero_settings(config).stage else 1)
    moved = _PASSES_OVER_ACTIVATIONS * saved + _UPDATE_BYTES * shard
    return moved / (machine.memory_rate * _MEMORY_RATE_REACHED)


def _messages(shape: Shape, zero: ZeroSettings, micro_batches: int, passes: int) -> int:
    reduced = -(-shape.trained // max(1, zero.reduce_bucket))
    if zero.stage < 2:
        return (1 + passes) * reduced
    if zero.stage == 2:
        return reduced * (micro_batches + 1)
    return micro_batches * (2 * (shape.layers + 2) + reduced)
