"""Settings of `mixer`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from compact_ds.errors import ConfigError, nearest
from compact_ds.plugins import added
from compact_ds.sections.section import Section

SOLVERS = ("sum", "pcgrad", "cagrad", "mgda", "nash")


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
    solver: str = "sum"
    """What `gradient` mode makes of the teachers' gradients: `sum` (the update of `loss` mode), `pcgrad`, `cagrad`, `mgda`,
    `nash`, or one that an extension registered."""
    cagrad_radius: float = Field(0.4, ge=0, lt=1)
    """How far CAGrad may go from the mean gradient, as a share of its norm."""
    groups: dict[str, list[str]] = Field(default_factory=dict)
    """Teachers that share one gradient, by a name of the group; a teacher in no group is one of its own. Weights stay per
    (question, teacher)."""
    merge_every: int = Field(25, ge=1)
    """Optimizer steps between merges of the teachers' branches under `method: mot`."""
    max_bad: int = Field(3, ge=0)
    """A teacher whose gradient is not finite (in `gradient` mode), or a guarding retention batch, is left out of that step and
    named; after more than so many steps in a row the run stops with a checkpoint."""
    diagnose_every: int = Field(250, ge=0)
    """Measure what the teachers' gradients do to one another every so many steps, one extra pass a teacher and reference; 0
    never. At such a step each rank holds an fp32 shard of the gradient a teacher and reference, and one of the update."""
    probe_questions: int = Field(8, ge=0)
    """Held-out questions whose gold-answer gradient the diagnostics compare the teachers with; 0 for none. Every rank takes as
    many: the number is rounded up to a multiple of the ranks, or down where there are too few questions."""
    retain: RetainConfig | None = None
    """A retention batch to measure against and, with `guard`, to protect."""

    @field_validator("solver")
    @classmethod
    def _is_known(cls, solver: str) -> str:
        known = (*SOLVERS, *added("solver"))
        if solver not in known:
            raise ConfigError("mixer.solver", solver, "a solver", nearest(solver, known))
        return solver
