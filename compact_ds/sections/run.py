"""A whole run: its own settings, its sections, and what must fit together between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from compact_ds.errors import ConfigError, nearest
from compact_ds.plugins import added, imported
from compact_ds.sections.compatibility import CompatibilityConfig
from compact_ds.sections.data import DataConfig
from compact_ds.sections.engine import EngineConfig, OptimizerConfig
from compact_ds.sections.evaluation import EvaluationConfig
from compact_ds.sections.mixer import MixerConfig
from compact_ds.sections.section import Section
from compact_ds.sections.student import StudentConfig
from compact_ds.sections.tree import TreeConfig

METHODS = (
    "compact",
    "compact_without_consensus",
    "compact_without_adaptability",
    "compact_without_difficulty",
    "consensus",
    "adaptability",
    "difficulty",
    "uniform",
    "union",
    "majority",
    "confidence",
    "rsr",
    "mot",
    "verified",
    "best_of",
    "first",
)


class Config(Section):
    """A whole run."""

    run_dir: Path
    """Folder for everything the run writes."""
    method: str = "compact"
    """Ours: `compact`, `compact_without_METRIC`, or one metric alone (`consensus`, `adaptability`, `difficulty`). Baselines:
    `uniform`, `union` (every token alike), `single:TEACHER`, `first` (one rationale, drawn), `majority` (those with the most
    frequent answer), `confidence` (by the student's likelihood), `rsr` (the lowest rank-surprisal ratio), `mot` (a branch a
    teacher, merged every `mixer.merge_every` steps), `verified` (those whose answer is the gold one) and `best_of` (those that
    the file calls right)."""
    max_steps: int = Field(ge=1)
    """Optimizer steps."""
    seed: int = Field(0, ge=0)
    """Seed of sampling and of random weights."""
    checkpoint_every: int = Field(0, ge=0)
    """Write a checkpoint every so many steps and after the last; 0 only when interrupted."""
    checkpoint_keep: int = Field(2, ge=1)
    """Keep so many of the newest checkpoints. With one, damage to it leaves nothing to go on from."""
    checkpoint_keep_every: int = Field(0, ge=0)
    """Keep also every checkpoint at a multiple of so many steps; 0 for none."""
    checkpoint_failure: Literal["stop", "go_on"] = "stop"
    """When a checkpoint cannot be written: end the run, the last one intact, or say so and go on without it."""
    texts_every: int = Field(50, ge=0)
    """Show in TensorBoard, every so many steps, the most and the least compatible rationale of the first rank's questions; 0 for
    none."""
    extensions: list[str] = Field(default_factory=list)
    """Modules of yours that register methods, solvers or metrics. They are imported, that is run, when the config is read."""
    callbacks: list[str] = Field(default_factory=list)
    """Classes of yours with hooks into the run, as `package.module:Class`; imported, and made without arguments, on its first
    rank."""
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

    @model_validator(mode="before")
    @classmethod
    def _extend(cls, raw: Any) -> Any:
        """Import `extensions` first: the other keys may name what they register."""
        modules = raw.get("extensions") if isinstance(raw, dict) else None
        for module in modules if isinstance(modules, list) else ():
            imported("extensions", str(module))
        return raw

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if self.method not in (*METHODS, *added("method")) and not (
            self.method.startswith("single:") and self.method[7:]
        ):
            remedy = nearest(self.method, (*METHODS, *added("method"), "single:TEACHER"))
            raise ConfigError("method", self.method, "a method", remedy)
        if self.mixer.mode == "loss" and self.mixer.solver != "sum":
            raise ConfigError(
                "mixer.solver", self.mixer.solver, "sum, which is what loss mode computes", "set mixer.mode=gradient"
            )
        if self.method == "mot":
            self._merges_where_it_must()
        if (self.student.model == "scratch") != (self.student.scratch is not None):
            found = "scratch" if self.student.scratch else "no student.scratch"
            raise ConfigError(
                "student.scratch", found, "the shape exactly when student.model is scratch", "set both or neither"
            )
        return self

    def _merges_where_it_must(self) -> None:
        """Between merges there are several students: none of them is the one to save or to measure."""
        if self.mixer.mode != "loss" or self.mixer.retain is not None:
            raise ConfigError("method", "mot", "mixer.mode=loss without mixer.retain", "use another method")
        for key, every in (("checkpoint_every", self.checkpoint_every), ("evaluation.every", self.evaluation.every)):
            if every % self.mixer.merge_every:
                expected = f"a multiple of mixer.merge_every={self.mixer.merge_every} under method mot"
                raise ConfigError(key, every, expected, "change one of the two")
