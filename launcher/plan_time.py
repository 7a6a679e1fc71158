"""Seconds of a rank's step from its arithmetic, its memory traffic and its network, and what they cost.

Owns the roofline and the table of machines. Peaks are the makers' (dense, bf16); what share of them a step reaches is assumed
until a calibration says so. Prices are assumptions to be replaced.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from compact_ds.errors import UserError, nearest
from compact_ds.launcher.plan_shape import Shape
from compact_ds.launcher.plan_workload import MicroBatch, Workload

_HOST_SHARE = 0.25
"""Of `host_seconds` where nothing is gathered: assumed."""

LATENCY_SECONDS = 3e-6
"""Of one hop of a ring: assumed."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One accelerator in its node: flop/s, bytes of memory, bytes/s of memory, of the link inside the node and of the network
    per accelerator; the share of the first that products reach, of the others that transfers reach; price an hour.

    `host_seconds` is the host's time of one parameter in one pass under ZeRO-3's hooks. A GPU hides it while layers are large.
    """

    name: str
    flops: float
    memory: float
    memory_rate: float
    inside: float
    outside: float
    price: float
    per_node: int = 8
    efficiency: float = 0.45
    link_efficiency: float = 0.75
    host_seconds: float = 0.0
    calibrated: bool = False

    @property
    def on_gpu(self) -> bool:
        """Whether it has memory of its own."""
        return self.name != "cpu"


_GB, _T = 1e9, 1e12
MACHINES = {
    m.name: m
    for m in (
        Machine("a100-40", 312 * _T, 40 * _GB, 1.56 * _T, 300 * _GB, 25 * _GB, 1.3),
        Machine("a100", 312 * _T, 80 * _GB, 2.04 * _T, 300 * _GB, 25 * _GB, 1.8),
        Machine("h100", 989 * _T, 80 * _GB, 3.35 * _T, 450 * _GB, 50 * _GB, 2.8),
        Machine("h200", 989 * _T, 141 * _GB, 4.8 * _T, 450 * _GB, 50 * _GB, 3.5),
        Machine("b200", 2250 * _T, 180 * _GB, 8.0 * _T, 900 * _GB, 50 * _GB, 5.5),
        Machine("mi300x", 1307 * _T, 192 * _GB, 5.3 * _T, 448 * _GB, 50 * _GB, 2.8),
        Machine("l40s", 362 * _T, 48 * _GB, 0.86 * _T, 32 * _GB, 12.5 * _GB, 1.0),
        Machine("cpu", 50e9, 16 * _GB, 10 * _GB, 1 * _GB, 1 * _GB, 0.1, efficiency=1.0, link_efficiency=1.0),
    )
}


def machine(name: str, calibration: Path | None = None, price: float | None = None) -> Machine:
    """The machine of that name; a calibration's `flops_per_second`, `link_bytes_per_second` and `host_seconds` replace what is
    assumed.

    Raises UserError.
    """
    if name not in MACHINES:
        raise UserError("--gpu", name, "a known accelerator", nearest(name, MACHINES))
    found = MACHINES[name]
    changed = {f: getattr(found, f) for f in Machine.__slots__}
    if price is not None:
        changed["price"] = price
    if calibration is not None:
        try:
            measured = json.loads(calibration.read_text(encoding="utf-8"))
            changed |= {"flops": float(measured["flops_per_second"]), "efficiency": 1.0, "calibrated": True}
            changed["host_seconds"] = float(measured.get("host_seconds", 0.0))
            if "link_bytes_per_second" in measured:
                rate = float(measured["link_bytes_per_second"])
                changed |= {"inside": rate, "outside": rate / found.per_node, "link_efficiency": 1.0}
        except (OSError, ValueError, KeyError, TypeError) as error:
            expected = "a JSON object with flops_per_second and, if measured, link_bytes_per_second"
            raise UserError("--calibration", f"{calibration}: {error}", expected, "measure again") from None
    return Machine(**changed)


def flops(shape: Shape, batch: MicroBatch, checkpointing: bool, on_gpu: bool) -> float:
    """Multiplications and additions of a micro-batch's forward and backward pass, recomputation included.

    Probe tokens go forward only; frozen matrices take no gradient of their own; a GPU's kernels skip what no token sees.
    """
    matrices = sum(p.numel for p in shape.parameters if p.matrix and ".layers." in p.name)
    trained = sum(p.numel for p in shape.parameters if p.matrix and p.trained and ".layers." in p.name)
    whole, trunk = batch.tokens, batch.trunk_tokens
    passes = 2 * whole * (2 if checkpointing else 1)
    dense = matrices * (passes + 2 * trunk) + trained * 2 * trunk
    seen = batch.scores / max(1, trunk) * (0.5 if on_gpu else 1.0)
    attention = 4 * shape.layers * shape.query * seen * (passes / 2 + 2.5 * trunk)
    word = 2 * shape.vocabulary * shape.hidden
    head = word * (batch.head_rows + (3 if shape.lora is None else 1) * batch.trained_rows)
    return float(dense + attention + head)


def step_flops(shape: Shape, work: Workload, checkpointing: bool, on_gpu: bool) -> float:
    """Of all micro-batches of a rank."""
    return sum(flops(shape, batch, checkpointing, on_gpu) for batch in work.micro_batches)


def host_calls(shape: Shape, work: Workload, checkpointing: bool, zero_stage: int) -> float:
    """Parameters times passes of a step, those without hooks at their share; an adapter's go with those of its layer."""
    passes = len(work.micro_batches) * (3 if checkpointing else 2)
    called = [p for p in shape.parameters if shape.lora is None or not p.trained]
    return len(called) * passes * (1.0 if zero_stage == 3 else _HOST_SHARE)


def link(found: Machine, world_size: int) -> float:
    """Bytes a second that a ring of so many ranks passes on: inside a node its link, beyond it all network cards of a node."""
    rate = found.inside if world_size <= found.per_node else min(found.inside, found.outside * found.per_node)
    return rate * found.link_efficiency


def latency(messages: int, world_size: int) -> float:
    """Seconds of a step's collectives that do not depend on their size: a ring has W - 1 hops."""
    return messages * (world_size - 1) * LATENCY_SECONDS
