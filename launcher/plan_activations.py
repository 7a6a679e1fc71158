"""Bytes that a forward pass keeps for the backward pass, and what passes through on the way.

Owns the count for decoder layers of the Llama kind (RMSNorm, rotary grouped attention, gated feed-forward) inside `student`:
trunk tokens train, probe tokens ride along. It follows what each operation saves, not a rule of thumb; where the count and the
allocator were compared is in docs/planning.md.

Legend of names: `whole` = trunk and probe tokens of the micro-batch, `trunk` = trunk tokens alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from compact_ds.launcher.plan_shape import Shape
from compact_ds.launcher.plan_workload import MicroBatch

TILE_BYTES = 4 * 1024 * 1024
"""The head's tile of logits on a CPU; Triton's are in registers."""


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes: `saved` for the backward pass by all layers, the last layer's passing tensors in the forward and in the backward
    pass, the head's own, and the tree's mask (with the copies of it that dense attention keeps)."""

    saved: int
    forward_peak: int
    backward_peak: int
    head: int
    mask: int


def activations(
    shape: Shape, batch: MicroBatch, bytes_each: int, checkpointing: bool, on_gpu: bool, zero_stage: int
) -> Activations:
    """Activations of one micro-batch, with one layer's worth recomputed at a time when `checkpointing`."""
    whole, trunk = batch.tokens, batch.trunk_tokens
    d, f, b = shape.hidden, shape.inner, bytes_each
    layer = _layer(shape, batch, b, on_gpu, zero_stage)
    # Dense attention takes a mask of numbers, which it keeps; the flags themselves are made once.
    copies = 0 if on_gpu else shape.layers * batch.scores * b
    dense = 0 if on_gpu else batch.scores
    saved, inputs = shape.layers * layer, whole * d * b
    if checkpointing:
        saved = shape.layers * inputs + layer
        copies = copies // shape.layers
    norm = whole * d * (b + 4 if b == 2 else 8)
    head = norm + batch.head_rows * d * (b if b == 4 else b + 4) + (0 if on_gpu else TILE_BYTES // 4)
    return Activations(
        saved=saved,
        forward_peak=(whole * f + 2 * whole * d) * b,
        backward_peak=(3 * whole * f + whole * d - trunk * f) * b,
        head=head,
        mask=dense + copies,
    )


def _layer(shape: Shape, batch: MicroBatch, b: int, on_gpu: bool, zero_stage: int) -> int:
    """Bytes that one layer saves.

    A linear layer saves its input: the trunk's part, which is a copy as soon as there are several rows. RMSNorm computes in
    fp32 and keeps its input there; with frozen weights it keeps the input alone. A frozen linear layer keeps nothing, except
    at stage 3, where DeepSpeed's own linear function keeps its input whatever the weight is.
    """
    whole, trunk = batch.tokens, batch.trunk_tokens
    d, f, q, k = shape.hidden, shape.inner, shape.query, shape.key
    copied = batch.rows > 1 and batch.probe > 0
    trains = shape.lora is None
    norm = d * (4 + b if b == 2 else 2 * b) if trains else d * 4
    norms = 2 * norm * whole
    if shape.head_norms:
        norms += (q + k) * whole * (4 + b if b == 2 else 2 * b) if trains else (q + k) * whole * 4
    # Grouped keys and values are repeated for dense attention, and those copies are kept.
    kept_k = k if on_gpu else q
    attention = (q + 2 * kept_k) * whole * b + trunk * q * b + trunk * shape.heads * 4
    if not on_gpu:
        # Each branch's keys and values lie behind a copy of the root's.
        attention += 2 * q * batch.branch_keys * b
    product = (3 * f) * whole * b
    if trains:
        inputs = (5 * d + q + f) * trunk * b if copied else (2 * d + q + f) * whole * b
    else:
        # An adapter saves the layer's input and its own middle.
        own, shared = shape.adapted_in, min(shape.adapted_in, 2 * d + q + f)
        if zero_stage == 3:
            own, shared = own + 5 * d + q + f, 2 * d + q + f
        inputs = (own * trunk if copied else shared * whole) * b
        inputs += shape.adapted * (shape.lora or 0) * trunk * b
    return int(norms + attention + product + inputs)
