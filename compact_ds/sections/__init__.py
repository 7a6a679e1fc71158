"""Every setting of a run, declared once: name, type, bounds, default, and under each field what it does. A file a section.

Reading files and overrides is `config`.
"""

from __future__ import annotations

from compact_ds.sections.compatibility import CompatibilityConfig
from compact_ds.sections.data import DataConfig
from compact_ds.sections.engine import EngineConfig, OptimizerConfig
from compact_ds.sections.evaluation import EvaluationConfig
from compact_ds.sections.mixer import SOLVERS, MixerConfig, RetainConfig
from compact_ds.sections.run import METHODS, Config
from compact_ds.sections.section import Section
from compact_ds.sections.student import LoraConfig, ScratchConfig, StudentConfig
from compact_ds.sections.tree import TreeConfig

__all__ = [
    "METHODS",
    "SOLVERS",
    "CompatibilityConfig",
    "Config",
    "DataConfig",
    "EngineConfig",
    "EvaluationConfig",
    "LoraConfig",
    "MixerConfig",
    "OptimizerConfig",
    "RetainConfig",
    "ScratchConfig",
    "Section",
    "StudentConfig",
    "TreeConfig",
]
