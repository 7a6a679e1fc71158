"""Settings of `optimizer` and `engine`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from compact_ds.sections.section import Section

Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Section):
    """AdamW and its schedule."""

    lr: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """Decay of the moments."""
    eps: float = Field(1e-8, gt=0)
    """Term in the denominator."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled decay, on matrices only."""
    warmup_steps: int = Field(0, ge=0)
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Shape after the warm-up, down to `min_lr` times `lr` at `max_steps`."""
    min_lr: float = Field(0.1, ge=0, le=1)
    """Last learning rate as a share of `lr`."""
    grad_clip: float = Field(1.0, ge=0)
    """Largest global gradient norm; 0 switches clipping off."""


class EngineConfig(Section):
    """DeepSpeed."""

    zero_stage: Literal[0, 1, 2, 3] = 3
    """ZeRO stage."""
    deepspeed: Path | None = None
    """A DeepSpeed JSON laid over what the other keys give; its `zero_optimization.stage` wins over `zero_stage`."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Type of weights and activations; the optimizer's copy is fp32 either way. A CPU without instructions for bf16 imitates it,
    several times slower than fp32, and a run says so."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """How fp32 products may round their factors, as `torch.set_float32_matmul_precision` takes it: `highest` not at all, `high`
    to TF32 on GPUs, `medium` to bf16 where the processor multiplies that faster. Sums and what is stored stay fp32."""
    timeout_seconds: int = Field(600, ge=5)
    """After so long without an answer from a rank the others give up."""
    heartbeat_seconds: float = Field(2.0, ge=0.1, le=60)
    """How often every rank writes where it is to `heartbeat/rank-N.json`; one on another node that misses four is gone."""
