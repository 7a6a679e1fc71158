"""From a state dict to a plain Hugging Face model: for evaluation during training and for `final/`.

Owns the way out. What is evaluated and what is saved is the same object: the architecture of the student without anything
of ours in it, adapters merged.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from torch import Tensor
from transformers import AutoModelForCausalLM

from compact_ds.sections import StudentConfig
from compact_ds.student.end_tokens import end_tokens
from compact_ds.student.load import with_adapters


def plain_config(lm: Any, tokenizer: Any, student: StudentConfig) -> Any:
    """The config of `plain_model`: the student's, with the special tokens that its texts were trained with.

    A family's defaults are ids of another vocabulary. A pretrained student keeps its own ends of a text, and the one that the
    tokenizer puts after a rationale is among them. transformers makes the generation config from these.
    """
    config = deepcopy(lm.config)
    ends = [tokenizer.eos_token_id] if student.scratch is not None else end_tokens(lm, tokenizer)
    config.eos_token_id = ends if len(ends) > 1 else next(iter(ends), None)
    if student.scratch is not None:
        config.bos_token_id, config.pad_token_id = tokenizer.bos_token_id, tokenizer.pad_token_id
    return config


def plain_model(lm_config: Any, state: dict[str, Tensor], student: StudentConfig) -> Any:
    """A transformers model with the given parameters (names as in the student's LM), adapters merged into the base."""
    # A config holds the attention implementation: two models on one config would share it.
    lm_config = deepcopy(lm_config)
    with init_empty_weights(include_buffers=False):
        lm = AutoModelForCausalLM.from_config(
            lm_config, dtype=next(iter(state.values())).dtype, attn_implementation="sdpa"
        )
        if student.lora is not None:
            lm = with_adapters(lm, student)
    missing, unexpected = lm.load_state_dict(state, strict=False, assign=True)
    base = lm.get_base_model() if student.lora is not None else lm
    base.tie_weights()
    left = [name for name, parameter in lm.named_parameters() if parameter.is_meta]
    assert not left and not unexpected, f"parameters lost on the way out: {left or unexpected} (missing {missing})"
    return (lm.merge_and_unload() if student.lora is not None else lm).eval()


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write weights (safetensors), config and tokenizer so that `from_pretrained(folder)` loads them."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_adapter(lm: Any, state: dict[str, Tensor], folder: Path) -> None:
    """Write the adapter alone, as peft loads it. `lm` is the peft model, `state` its parameters."""
    # No vocabulary is changed here; left to guess, peft would ask the hub for the base model's config.
    lm.save_pretrained(folder, state_dict=state, save_embedding_layers=False)
