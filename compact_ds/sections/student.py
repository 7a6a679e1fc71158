"""Settings of `student`."""

from __future__ import annotations

from pydantic import Field

from compact_ds.sections.section import Section


class ScratchConfig(Section):
    """Shape of a student that starts from random weights."""

    family: str = "llama"
    """`model_type` of transformers."""
    hidden_size: int = Field(128, ge=1)
    """Width of the residual stream."""
    intermediate_size: int = Field(512, ge=1)
    """Width of the feed-forward layer."""
    num_hidden_layers: int = Field(3, ge=1)
    """Number of decoder layers."""
    num_attention_heads: int = Field(4, ge=1)
    """Attention heads; key and value heads are as many."""
    tie_word_embeddings: bool = False
    """Share the embedding matrix with the head."""


class LoraConfig(Section):
    """Low-rank adapters through peft; the base stays frozen."""

    r: int = Field(16, ge=1)
    """Rank."""
    alpha: float = 32.0
    """Scale; the adapter's output is multiplied by `alpha / r`."""
    dropout: float = Field(0.0, ge=0, le=0)
    """Must stay 0: a dropped activation would differ between a tree and its rows (law 2)."""
    target_modules: list[str] | str = "all-linear"
    """Module names that get an adapter, or peft's `all-linear`."""


class StudentConfig(Section):
    """Which causal LM learns, and how it is held in memory."""

    model: str
    """A folder, a hub id, a `.gguf` file, `package:NAME` (a model that an installed package carries) or `scratch`."""
    tokenizer: str | None = None
    """Where the tokenizer comes from when not from `model`; `task:NAME` for a built-in task's."""
    scratch: ScratchConfig | None = None
    """Shape when `model` is `scratch`."""
    lora: LoraConfig | None = None
    """Train adapters only."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless you have read that code."""
