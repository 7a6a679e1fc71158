"""What leaves training: a plain model whose configs name the tokens that end its texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from compact_ds.config import load
from compact_ds.sections import Config
from compact_ds.student import export
from compact_ds.student.load import load_lm, load_tokenizer

SMALL = ["student.scratch={hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2}"]
# `<pad>`, `<eos>`, `<unk>` are the first words of the built-in task's vocabulary.
PAD, EOS = 0, 1


def saved(config: Config, folder: Path) -> Any:
    """The student as a run writes it, loaded as its model card says."""
    tokenizer = load_tokenizer(config.student)
    lm = load_lm(config, len(tokenizer))
    state = lm.state_dict()
    export.save(
        export.plain_model(export.plain_config(lm, tokenizer, config.student), state, config.student), tokenizer, folder
    )
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_student_from_scratch_has_its_tokenizers_special_tokens(tmp_path: Path, family: str) -> None:
    found = saved(load("arithmetic", [*SMALL, f"student.scratch.family={family}"]), tmp_path)
    for config in (found.config, found.generation_config):
        assert (config.eos_token_id, config.pad_token_id, config.bos_token_id) == (EOS, PAD, None)


@pytest.mark.parametrize(
    ("own", "expected"), [([7, EOS], [7, EOS]), ([7], [7, EOS]), (7, [7, EOS]), (EOS, EOS), (None, EOS)]
)
def test_a_pretrained_student_keeps_its_ends_beside_the_tokenizers(tmp_path: Path, own: Any, expected: Any) -> None:
    scratch = load("arithmetic", SMALL)
    base, tokenizer = load_lm(scratch, len(load_tokenizer(scratch.student))), load_tokenizer(scratch.student)
    # Gemma and Phi name the end of a turn in the generation config alone.
    base.config.eos_token_id, base.generation_config.eos_token_id = 9, own
    export.save(base, tokenizer, tmp_path / "base")
    given = [f"student.model={tmp_path / 'base'}", "student.scratch=null", "student.tokenizer=null"]
    found = saved(load("arithmetic", given), tmp_path / "final")
    assert found.config.eos_token_id == found.generation_config.eos_token_id == expected
    assert AutoTokenizer.from_pretrained(tmp_path / "final").eos_token_id == EOS
