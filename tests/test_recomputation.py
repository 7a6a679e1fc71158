"""Checkpointed layers compute their activations again, wherever the student's weights came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from compact_ds.config import load
from compact_ds.student.load import load_lm, load_tokenizer

WORDS = [
    "student.scratch.hidden_size=32",
    "student.scratch.intermediate_size=64",
    "student.scratch.num_hidden_layers=2",
]
LORA = ["student.lora.r=4"]


def passes(lm: Any) -> tuple[list[int], dict[str, torch.Tensor]]:
    """How often each layer's feed-forward part runs in a forward and backward pass, and the gradients."""
    layers = lm.get_decoder().layers if not hasattr(lm, "peft_config") else lm.get_base_model().get_decoder().layers
    counts = [0] * len(layers)

    def count(i: int) -> Any:
        def hook(*_: Any) -> None:
            counts[i] += 1

        return hook

    for i, layer in enumerate(layers):
        # Before, not after: the second run ends with the last activation that is missing.
        layer.mlp.register_forward_pre_hook(count(i))
    ids = torch.arange(1, 9)[None]
    lm(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return counts, {name: p.grad for name, p in lm.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("adapters", [[], LORA], ids=["all weights", "adapters"])
def test_a_saved_student_recomputes_as_one_from_scratch_does(tmp_path: Path, adapters: list[str]) -> None:
    scratch = load("arithmetic", WORDS)
    tokenizer = load_tokenizer(scratch.student)
    load_lm(scratch, len(tokenizer)).save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    saved = [f"student.model={tmp_path / 'student'}", "student.scratch=null", "student.tokenizer=null", *adapters]
    found = {}
    for switch in ("true", "false"):
        config = load("arithmetic", [*saved, f"student.gradient_checkpointing={switch}"])
        found[switch] = passes(load_lm(config, len(tokenizer)))
    assert found["false"][0] == [1, 1]
    assert found["true"][0] == [2, 2]
    assert found["true"][1].keys() == found["false"][1].keys()
    for name, gradient in found["true"][1].items():
        # The same operations in the same order.
        assert torch.equal(gradient, found["false"][1][name]), name
