"""Every setting of a run, declared once: name, type, bounds, default, and under each field what it does.

Owns the sections and what must fit together between them. Reading files and overrides is `config`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compact_ds.errors import ConfigError, nearest

SOLVERS = ("sum", "pcgrad", "cagrad", "mgda", "nash")
METHODS = ("compact", "consensus", "adaptability", "difficulty", "uniform", "best_of", "first")


class Section(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class DataConfig(Section):
    """Where questions and rationales come from, and how many make a step."""

    train: str
    """A JSONL file in the project's schema, a `datasets` path or hub id, or `task:NAME` for a built-in task."""
    eval: str | None = None
    """Held-out questions, same forms as `train`; a built-in task brings its own when this is empty."""
    split: str = "train"
    """Split to take when `train` is a `datasets` path or id."""
    fields: dict[str, str] = Field(default_factory=dict)
    """Field map for sources with other names: schema field -> their field, for example `{answer: solution}`."""
    batch_size: int = Field(24, ge=1)
    """Questions per optimizer step, over all ranks and micro-batches. Must be a multiple of the world size."""
    cue: str = "\nThe answer is "
    """Text between a prefix of a rationale and the gold answer in a probe; the same cue is searched in generated text."""
    limit: int | None = Field(None, ge=1)
    """Use only the first so many training questions."""
    mislead: int = Field(0, ge=0, le=4)
    """Add so many misleading teachers by rule (a fluent rationale with another operation) to two-number word problems."""
    teachers: list[str] | None = None
    """Keep only these teachers; empty keeps all."""
    max_left_out: float = Field(0.01, ge=0, le=1)
    """Largest share of rationales that may be left out (too long, no answer) before the run refuses to start."""
    cache_dir: Path | None = None
    """Folder of the tokenised Arrow cache; empty means `~/.cache/compact_ds`."""


class ScratchConfig(Section):
    """Shape of a student that starts from random weights."""

    family: str = "llama"
    """`model_type` of transformers."""
    hidden_size: int = 128
    """Width of the residual stream."""
    intermediate_size: int = 512
    """Width of the feed-forward layer."""
    num_hidden_layers: int = 3
    """Number of decoder layers."""
    num_attention_heads: int = 4
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


class TreeConfig(Section):
    """How examples become token trees and trees become rows."""

    layout: Literal["tree", "rows"] = "tree"
    """`tree`: one shared question, tree attention. `rows`: separate rows, for students that cannot take a tree mask."""
    row_tokens: int = Field(2048, ge=8)
    """Token budget of a packed row. A rationale that does not fit with its question and probe is left out and listed."""
    rows: int = Field(1, ge=1)
    """Packed rows in a micro-batch."""
    max_probes: int = Field(8, ge=1)
    """Most probes along one rationale; they are spread over its steps, the last step always has one."""
    probes: Literal["beside", "inside"] = "beside"
    """`beside`: probe tokens ride along without a gradient. `inside`: in the graph like any token (slower, for checks)."""


class CompatibilityConfig(Section):
    """From the three metrics to a weight: w = softmax((alpha C + beta A - gamma D) / tau), mixed with a floor."""

    alpha: float = Field(0.3, ge=0)
    """Weight of consensus C in `compact`. 0 switches it off."""
    beta: float = Field(1.0, ge=0)
    """Weight of adaptability A in `compact`. 0 switches it off, and the probes with it."""
    gamma: float = Field(0.1, ge=0)
    """Weight of difficulty D in `compact`. 0 switches it off."""
    tau: float = Field(0.3, gt=0)
    """Temperature of the softmax; lower is sharper."""
    floor: float = Field(0.0, ge=0, le=1)
    """Share of every weight that stays uniform."""
    warmup: int = Field(20, ge=0)
    """Optimizer steps with uniform weights while the running scales settle."""
    decay: float = Field(0.95, ge=0, lt=1)
    """Decay per step of the running scales and the running mean loss."""
    adaptability: Literal["total", "jump", "mix"] = "total"
    """`total`: PMI after the last step; `jump`: its largest rise between probes; `mix`: their mean."""
    difficulty: Literal["above", "zone"] = "above"
    """`above`: nats per token over the running mean loss; `zone`: distance from `zone` above it."""
    zone: float = 0.0
    """Centre of the preferred zone, in nats per token above the running mean loss."""


class RetainConfig(Section):
    """Questions whose loss the update should not raise: a replay of what the student could do before."""

    train: str
    """Where they come from, same forms as `data.train`, rationales and all; the teachers of a question count alike."""
    split: str = "train"
    """Split to take when `train` is a `datasets` path or id."""
    limit: int | None = Field(None, ge=1)
    """Use only the first so many questions."""
    batch_size: int = Field(8, ge=1)
    """Questions per optimizer step, over all ranks. Must be a multiple of the world size."""
    guard: bool = True
    """Keep every update from going against this batch's gradient, for one more pass a step. When off, the agreement is only
    measured, at `diagnose_every`."""
    margin: float = Field(0.5, ge=0)
    """How far along the batch's gradient r the guarded update must go, as a multiple of r itself: 0 only takes out what
    opposes it (A-GEM), more also repairs what curvature and Adam's state let slip."""


class MixerConfig(Section):
    """How weighted teachers become one update."""

    mode: Literal["loss", "gradient"] = "loss"
    """`loss`: one backward of the globally normalised weighted loss, whatever the number of teachers. `gradient`: one pass a
    teacher (or group), which `solver` mixes; K times the time and the traffic, and K fp32 shards of the gradient in memory."""
    solver: Literal["sum", "pcgrad", "cagrad", "mgda", "nash"] = "sum"
    """What `gradient` mode makes of the teachers' gradients; `sum` gives the update of `loss` mode."""
    cagrad_radius: float = Field(0.4, ge=0, lt=1)
    """How far CAGrad may go from the mean gradient, as a share of its norm."""
    groups: dict[str, list[str]] = Field(default_factory=dict)
    """Teachers that share one gradient, by a name of the group; a teacher in no group is one of its own. Weights stay per
    (question, teacher)."""
    max_bad: int = Field(3, ge=0)
    """A teacher whose gradient is not finite (in `gradient` mode), or a guarding retention batch, is left out of that step and
    named; after more than so many steps in a row the run stops with a checkpoint."""
    diagnose_every: int = Field(250, ge=0)
    """Measure what the teachers' gradients do to one another every so many steps, one extra pass a teacher and reference; 0
    never. At such a step each rank holds an fp32 shard of the gradient a teacher and reference, and one of the update."""
    probe_questions: int = Field(8, ge=0)
    """Held-out questions whose gold-answer gradient the diagnostics compare the teachers with; 0 for none."""
    retain: RetainConfig | None = None
    """A retention batch to measure against and, with `guard`, to protect."""


class OptimizerConfig(Section):
    """AdamW and its schedule."""

    lr: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
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
    """Type of weights and activations; the optimizer's copy is fp32 either way."""
    timeout_seconds: int = Field(600, ge=5)
    """After so long without an answer from a rank the others give up."""


class EvaluationConfig(Section):
    """What is measured on held-out questions, and when."""

    every: int = Field(0, ge=0)
    """Evaluate every so many steps; 0 only at the end."""
    limit: int | None = Field(None, ge=1)
    """Use only the first so many held-out questions."""
    batch_size: int = Field(32, ge=1)
    """Questions generated at a time."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest generated rationale."""


class Config(Section):
    """A whole run."""

    run_dir: Path
    """Folder for everything the run writes."""
    method: str = "compact"
    """`compact`, `consensus`, `adaptability`, `difficulty`, `uniform`, `single:TEACHER`, `best_of` or `first`."""
    max_steps: int = Field(ge=1)
    """Optimizer steps."""
    seed: int = Field(0, ge=0)
    """Seed of sampling and of random weights."""
    checkpoint_every: int = Field(0, ge=0)
    """Write a checkpoint every so many steps; 0 only when interrupted."""
    kernels: Literal["auto", "torch", "triton"] = "auto"
    """What computes the head, its scores and tree attention: `auto` takes Triton on a GPU and PyTorch elsewhere."""
    data: DataConfig
    student: StudentConfig
    tree: TreeConfig = TreeConfig()
    compatibility: CompatibilityConfig = CompatibilityConfig()
    mixer: MixerConfig = MixerConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    engine: EngineConfig = EngineConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if self.method not in METHODS and not (self.method.startswith("single:") and self.method[7:]):
            remedy = nearest(self.method, (*METHODS, "single:TEACHER"))
            raise ConfigError("method", self.method, "a method", remedy)
        if self.mixer.mode == "loss" and self.mixer.solver != "sum":
            raise ConfigError(
                "mixer.solver", self.mixer.solver, "sum, which is what loss mode computes", "set mixer.mode=gradient"
            )
        if (self.student.model == "scratch") != (self.student.scratch is not None):
            found = "scratch" if self.student.scratch else "no student.scratch"
            raise ConfigError(
                "student.scratch", found, "the shape exactly when student.model is scratch", "set both or neither"
            )
        return self
