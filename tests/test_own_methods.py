"""A method of the user's own sees in training what it sees in `score`, and can not train on an example that it has nothing of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from compact_ds.compatibility.running import RunningScales
from compact_ds.config import load
from compact_ds.engine.ranks import Ranks
from compact_ds.errors import ConfigError
from compact_ds.methods.evidence import Evidence
from compact_ds.methods.method import Labels, Method, add_method
from compact_ds.optimizer_step.training_set import TrainingSet
from compact_ds.sections import CompatibilityConfig
from compact_ds.student.load import load_tokenizer
from compact_ds.tree.tokenise import Tokeniser


class ByGain(Method):
    def weigh(self, evidence: Evidence, scales: RunningScales, settings: CompatibilityConfig, step: int) -> Tensor:
        return evidence.metrics_MR[1]


class Blind(ByGain):
    uses = ()


class RightAlone(Method):
    def select(self, rationales: Sequence[Labels], draw: np.random.Generator) -> list[int]:
        return [i for i, one in enumerate(rationales) if one.answer_right]


add_method(RightAlone("right_alone_without_selectable"))


def test_what_weighs_has_its_probes_unless_it_says_that_it_looks_at_no_metric() -> None:
    config = CompatibilityConfig(alpha=0.3, beta=1.0, gamma=0.2)
    seeing, blind = ByGain("by_gain"), Blind("blind")
    assert seeing.settings(config) == config
    assert (seeing.probes(config, 8), blind.probes(config, 8)) == (1, 0)
    assert seeing.probes(config.model_copy(update={"adaptability": "jump"}), 8) == 8
    assert RightAlone("right_alone").probes(config, 8) == 0


def test_an_example_of_which_nothing_was_selected_is_named(tmp_path: Path) -> None:
    words = [f"data.cache_dir={tmp_path}", "data.limit=8", "data.batch_size=8", "data.teachers=[ada]"]
    config = load("arithmetic", [*words, "method=right_alone_without_selectable"])
    data = TrainingSet(config, Tokeniser(load_tokenizer(config.student), config.data.cue))
    with pytest.raises(ConfigError, match=r"at least one rationale of 'arithmetic-[^']*'.*override `selectable`"):
        data.step(0, Ranks(0, 1, torch.device("cpu")))
