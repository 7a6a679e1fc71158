"""Shapes of shipped students against what their makers publish, and adapters against peft's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from compact_ds.config import load
from compact_ds.errors import ConfigError
from compact_ds.launcher.plan_shape import shape, shipped_shapes
from compact_ds.student.load import load_lm, load_weights

# Counted by their makers' own checkpoints.
PUBLISHED = {
    "Llama-3.2-1B": 1_235_814_400,
    "Llama-3.2-3B": 3_212_749_824,
    "Llama-3.1-8B": 8_030_261_248,
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-1.7B": 1_720_574_976,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "SmolLM2-135M-Instruct": 134_515_008,
}
SMALL = "student.scratch={hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 4}"


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_published(name: str) -> None:
    found = shape(load("arithmetic", [f"student.model=meta-llama/{name}", "student.scratch=null"]))
    assert found.total == found.trained == PUBLISHED[name]


def test_every_shipped_shape_is_checked() -> None:
    assert set(shipped_shapes()) == set(PUBLISHED)


@pytest.mark.parametrize("targets", ["all-linear", "[q_proj, down_proj]", "'.*layers.0.*_proj'"])
def test_adapters_are_those_that_peft_makes(targets: str) -> None:
    config = load("arithmetic", [SMALL, f"student.lora={{r: 4, target_modules: {targets}}}"])
    lm = load_lm(config, 101)
    found = shape(config, 101)
    assert found.total == sum(p.numel() for p in lm.parameters())
    assert found.trained == sum(p.numel() for p in lm.parameters() if p.requires_grad)


def test_a_student_that_is_nowhere_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"student\.model: found /nowhere/Llama-3\.2-1X.*did you mean 'Llama-3\.2-1B'"
    ):
        shape(load("arithmetic", ["student.model=/nowhere/Llama-3.2-1X", "student.scratch=null"]))


@pytest.mark.parametrize("content", [
    "{", "[1]", '{"hidden_size": 3}', '{"model_type": "nothing"}', '{"model_type": "llama", "hidden_size": "large"}',
    '{"model_type": "llama", "hidden_size": 65, "num_attention_heads": 4}',
])  # fmt: skip
def test_a_folder_whose_config_is_none_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"student\.model: found .*config\.json \(.*expected a config\.json of trans"):
        shape(load("arithmetic", [f"student.model={tmp_path}", "student.scratch=null"]))


@pytest.mark.parametrize(
    ("shape_of_it", "lack"),
    [
        ('{"model_type": "gpt2"}', "gpt2, with no intermediate_size"),
        ('{"model_type": "mamba"}', "mamba, with no num_attention_heads"),
        ('{"model_type": "bert"}', r"bert, with no parameters of a name with \.layers\.0\."),
        ('{"model_type": "clip"}', "clip, with no causal LM in transformers"),
        ('{"model_type": "mixtral"}', "mixtral, with 2 experts a token"),
        ('{"model_type": "olmoe"}', "olmoe, with 8 experts a token"),
    ],
)
def test_a_student_of_other_layers_is_refused_and_not_counted_as_none(
    tmp_path: Path, shape_of_it: str, lack: str
) -> None:
    (tmp_path / "config.json").write_text(shape_of_it, encoding="utf-8")
    words = (
        rf"student\.model: found {lack}; expected decoder layers of the Llama kind; plan a shape of like size.*SmolLM2"
    )
    with pytest.raises(ConfigError, match=words):
        shape(load("arithmetic", [f"student.model={tmp_path}", "student.scratch=null"]))


def test_a_student_whose_config_has_a_wrong_size_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": "large"}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"student\.model: found .*'hidden_size'.*expected int, got str"):
        load_weights(str(tmp_path), "student.model")
