"""The scoring head against the logits that each family of transformers makes of the same hidden states."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from compact_ds.errors import ConfigError
from compact_ds.student.head import install

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "granite": {"logits_scaling": 4.0},
    "hyperclovax": {"logits_scaling": 4.0},
    "minicpm3": {},
    "cohere": {"logit_scale": 0.25},
    "falcon_h1": {
        "lm_head_multiplier": 4.0, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8,
    },
    "gemma2": {"final_logit_softcapping": 5.0, "head_dim": 8},
    "recurrent_gemma": {"logits_soft_cap": 5.0, "lru_width": 32},
}  # fmt: skip


def _lm(family: str) -> Any:
    torch.manual_seed(0)
    shape = {
        "vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.5,
    }  # fmt: skip
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(shape | FAMILIES[family]))).eval()


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_family_is_scored_by_its_own_logits(family: str) -> None:
    lm, ids_1N, targets_N1 = _lm(family), torch.tensor([[3, 4, 5, 6]]), torch.tensor([[1], [2], [3], [4]])
    own_NV = lm(input_ids=ids_1N, use_cache=False).logits[0]
    hidden_ND = lm.get_decoder()(input_ids=ids_1N, use_cache=False).last_hidden_state[0]
    lse_N, z_N1 = install(lm, "torch")(hidden_ND, targets_N1)
    torch.testing.assert_close(lse_N, own_NV.logsumexp(1), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(z_N1, own_NV.gather(1, targets_N1), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_family_that_does_more_to_its_logits_is_refused(dtype: torch.dtype) -> None:
    lm = _lm("llama").to(dtype)
    forward = lm.forward

    def doubled(*given: Any, **named: Any) -> Any:
        out = forward(*given, **named)
        out.logits = 2 * out.logits
        return out

    lm.forward = doubled
    with pytest.raises(ConfigError, match=r"student\.model: found llama, which does more to its logits"):
        install(lm, "torch")


def test_a_family_whose_head_passes_for_its_decoder_is_refused() -> None:
    shape = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    config = AutoConfig.for_model("modernbert-decoder", **shape, **special)
    with pytest.raises(ConfigError, match=r"student\.model: found modernbert-decoder, whose decoder is its head"):
        install(AutoModelForCausalLM.from_config(config), "torch")


@torch.no_grad()
def test_the_model_computes_as_before() -> None:
    lm, ids_1N = _lm("gemma2"), torch.tensor([[3, 4, 5, 6]])
    before_NV = lm(input_ids=ids_1N, use_cache=False).logits
    install(lm, "torch")
    assert torch.equal(lm(input_ids=ids_1N, use_cache=False).logits, before_NV)
