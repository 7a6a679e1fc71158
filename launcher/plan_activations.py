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


def activations(shape: Shape, batch: MicroBatch, bytes_each: int, checkpointing: bool, on_gpu: bool) -> Activations:
    """Activations of one micro-batch, with one layer's worth recomputed at a time when `checkpointing`."""
    whole, trunk = batch.tokens, batch.trunk_tokens
    d, f, b = shape.hidden, shape.inner, bytes_each
    layer = _layer(shape, batch, b, on_gpu)
    # Branch by branch there is one mask of numbers for all layers. Over whole rows each layer keeps one, made from flags.
    masks, copies = 0, 0
    if not on_gpu:
        masks = batch.scores * (4 if batch.branch_keys else 1)
        copies = 0 if batch.branch_keys else shape.layers * batch.scores * b
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
        mask=masks + copies,
    )


def _layer(shape: Shape, batch: MicroBatch, b: int, on_gpu: bool) -> int:
    """Bytes that one layer saves.

    A linear layer saves its input, of trunk and probes, which those that read the same input share; an adapter its own middle
    besides. RMSNorm computes in fp32 and keeps its input there; with frozen weights it keeps the input alone. Attention branch
    by branch saves queries, keys, values and its output, which is the next layer's input.
    """
    whole, trunk = batch.tokens, batch.trunk_tokens
    d, f, q, k = shape.hidden, shape.inner, shape.query, shape.key
    trains = shape.lora is None
    norm = d * (4 + b if b == 2 else 2 * b) if trains else d * 4
    norms = 2 * norm * whole
    if shape.head_norms:
        norms += (q + k) * whole * (4 + b if b == 2 else 2 * b) if trains else (q + k) * whole * 4
    if batch.branch_keys and not on_gpu:
        attention = (q + 2 * k) * whole * b + whole * shape.heads * 4
    else:
        # Grouped keys and values are repeated for dense attention, and those copies are kept.
        attention = (q + 2 * (k if on_gpu else q)) * whole * b + trunk * q * b + trunk * shape.heads * 4
    product = 3 * f * whole * b
    inputs = (2 * d + q + f) * whole * b
    if not trains:
        inputs += shape.adapted * (shape.lora or 0) * whole * b
    return int(norms + attention + product + inputs)
