"""A student of two layers with random weights in float64, and the built-in task's tokenizer for it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from compact_ds.sections import DataConfig, StudentConfig
from compact_ds.student.load import load_tokenizer
from compact_ds.tree.tokenise import Tokeniser

TOKENISER = Tokeniser(
    load_tokenizer(StudentConfig(model="scratch", tokenizer="task:arithmetic")), DataConfig(train="task:arithmetic").cue
)


def tiny_student() -> Any:
    """Logits far enough apart that every figure shows; the same at every call."""
    torch.manual_seed(2)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(TOKENISER.tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.5, bos_token_id=None, eos_token_id=None,
        pad_token_id=None,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).double().eval()
