"""Adapters inside the product of their layer against peft's own layers, with probes behind the trunk."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear
from torch import nn

from compact_ds.config import load
from compact_ds.errors import ConfigError
from compact_ds.kernels.tree_attention import Ancestry
from compact_ds.student import adapters
from compact_ds.student.adapters import AdaptedLinear
from compact_ds.student.export import plain_model
from compact_ds.student.load import load_lm
from compact_ds.student.prefix import TreePass, train_on_prefix

ROWS, LENGTH, NUM_TRUNK = 2, 7, 5


def adapted(bias: bool, **options: Any) -> PeftModel:
    """peft around one linear layer, its adapter away from 0."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8, bias=bias))
    found = get_peft_model(model, LoraConfig(r=3, lora_alpha=5, target_modules=["0"], **options))
    for name, parameter in found.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return found


def joined(model: PeftModel) -> PeftModel:
    found, tree_pass = copy.deepcopy(model), TreePass()
    zeros = torch.zeros(ROWS, LENGTH, dtype=torch.int64)
    tree_pass.begin(Ancestry(zeros, zeros, zeros, NUM_TRUNK))
    train_on_prefix(found, tree_pass)
    adapters.join(found, tree_pass)
    return found


def layer(model: nn.Module) -> Linear:
    return next(m for m in model.modules() if isinstance(m, Linear))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_outputs_and_the_trunks_gradients_are_those_of_peft(bias: bool, frozen: bool) -> None:
    theirs = adapted(bias)
    for parameter in theirs.parameters():
        parameter.requires_grad_(parameter.requires_grad or not frozen)
    mine = joined(theirs)
    assert type(layer(mine)) is AdaptedLinear
    inputs = [torch.randn(ROWS, LENGTH, 6, requires_grad=True)]
    inputs.append(inputs[0].detach().clone().requires_grad_())
    upstream = torch.randn(ROWS, LENGTH, 8)
    outs = [model(x) for model, x in zip((mine, theirs), inputs, strict=True)]
    torch.testing.assert_close(*outs, atol=2e-6, rtol=0)
    (outs[0] * upstream).sum().backward()
    (outs[1] * upstream)[:, :NUM_TRUNK].sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, atol=5e-6, rtol=0)
    assert inputs[0].grad is not None
    assert not inputs[0].grad[:, NUM_TRUNK:].any() and inputs[0].grad[:, :NUM_TRUNK].abs().max() > 1
    want = dict(theirs.named_parameters())
    assert [name for name, p in mine.named_parameters() if p.grad is not None]
    for name, parameter in mine.named_parameters():
        if want[name].grad is None:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, want[name].grad, atol=2e-5, rtol=0)


def test_an_adapter_switched_off_adds_nothing() -> None:
    mine = joined(adapted(True))
    x = torch.randn(ROWS, LENGTH, 6)
    base = layer(mine).base_layer
    assert isinstance(base, nn.Linear)
    with mine.disable_adapter():
        torch.testing.assert_close(mine(x), nn.functional.linear(x, base.weight, base.bias))


@pytest.mark.parametrize("options", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}])
def test_an_adapter_that_does_more_than_multiply_stays_pefts(options: dict[str, Any]) -> None:
    assert type(layer(joined(adapted(True, **options)))) is Linear


def test_autocast_reaches_the_adapter() -> None:
    mine, x = joined(adapted(True)), torch.randn(ROWS, LENGTH, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = mine(x)
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16 and x.grad is not None and x.grad.dtype == torch.float32
    torch.testing.assert_close(out.float(), mine(x), atol=0.1, rtol=0.02)


@pytest.mark.parametrize(
    ("target", "is_tied", "refused"),
    [("embed_tokens", True, "word embedding"), ("embed_tokens", False, None), ("lm_head", False, "its head")],
)
def test_what_is_saved_is_what_was_trained_or_the_adapter_is_refused(
    target: str, is_tied: bool, refused: str | None
) -> None:
    config = load(
        "arithmetic",
        [
            f"student.scratch.tie_word_embeddings={str(is_tied).lower()}",
            f"student.lora={{r: 4, target_modules: [q_proj, {target}]}}",
        ],
    )
    if refused is not None:
        with pytest.raises(ConfigError, match=rf"student\.lora\.target_modules.*without .*{refused}"):
            load_lm(config, 40)
        return
    lm = load_lm(config, 40)
    for name, parameter in lm.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.arange(10)[None]
    plain = plain_model(lm.config, {name: p.detach().clone() for name, p in lm.named_parameters()}, config.student)
    torch.testing.assert_close(plain(input_ids=ids).logits, lm(input_ids=ids).logits, atol=1e-4, rtol=1e-4)
