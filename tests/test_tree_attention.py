"""Tree attention by a dense mask against a loop over ancestors, the choice of an implementation, and what a model hands over."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from random_records import VOCABULARY
from random_trees import forest, naive_attention, queries_keys_values
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, masking_utils

from compact_ds.errors import ConfigError
from compact_ds.kernels import tree_attention as subject
from compact_ds.kernels.choice import Kernels
from compact_ds.kernels.tree_attention import Ancestry, Backend, choose, tree_attention
from compact_ds.student import attention, measure, prefix

# fp32 over at most 40 ancestors and 8 features; measured 5e-7 on values, 2e-6 on gradients of size 6.
TOLERANCE = 1e-5


@pytest.mark.parametrize(
    ("window", "softcap", "scale"), [(None, None, None), (3, None, 0.7), (None, 2.0, None), (4, 1.5, 0.3)]
)
@pytest.mark.parametrize(("heads", "groups"), [(2, 2), (6, 2)])
@pytest.mark.parametrize("num_trunk", [25, 40])
def test_values_and_gradients_equal_a_loop_over_ancestors(
    num_trunk: int, heads: int, groups: int, window: int | None, softcap: float | None, scale: float | None
) -> None:
    torch.manual_seed(0)
    parents, tree = forest(1, 2, 40, num_trunk)
    inputs = [x.requires_grad_() for x in queries_keys_values(2, heads, groups, 40, 8)]
    doubles = [x.detach().double().requires_grad_() for x in inputs]
    options: dict[str, Any] = {"scale": scale, "window": window, "softcap": softcap}
    got = tree_attention(inputs[0], inputs[1], inputs[2], tree, "sdpa", **options)
    want = naive_attention(doubles[0], doubles[1], doubles[2], parents, num_trunk, **options)
    torch.testing.assert_close(got.double(), want, atol=TOLERANCE, rtol=0)
    upstream = torch.randn_like(got)
    gradients = torch.autograd.grad((got * upstream).sum(), inputs)
    for mine, theirs in zip(gradients, torch.autograd.grad((want * upstream).sum(), doubles), strict=True):
        torch.testing.assert_close(mine.double(), theirs, atol=TOLERANCE, rtol=0)
        assert not mine[:, :, num_trunk:].any()


def test_a_dense_mask_is_made_once_for_each_window(monkeypatch: pytest.MonkeyPatch) -> None:
    _, tree = forest(2, 2, 30, 20)
    first = tree.dense(None), tree.dense(4)
    monkeypatch.setattr(subject, "ancestor_mask", None)
    monkeypatch.setattr(subject, "window_mask", None)
    assert tree.dense(None) is first[0] and tree.dense(4) is first[1]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    choose.cache_clear()
    caplog.set_level(logging.INFO, logger=subject.__name__)
    yield caplog
    choose.cache_clear()


@pytest.mark.parametrize(
    ("kernels", "device", "head_size", "expected"),
    [
        ("auto", "cpu", 64, "sdpa"), ("torch", "cpu", 64, "sdpa"), ("triton", "cpu", 64, "sdpa"),
        ("auto", "cuda", 64, "flex"), ("torch", "cuda", 64, "sdpa"), ("triton", "cuda", 64, "flex"),
        ("auto", "cuda", 8, "sdpa"), ("auto", "cuda", 512, "sdpa"), ("auto", "cuda", 80, "flex"),
    ],
)  # fmt: skip
def test_the_choice_is_made_and_logged_once(
    log: pytest.LogCaptureFixture, kernels: Kernels, device: str, head_size: int, expected: Backend
) -> None:
    assert [choose(kernels, device, head_size) for _ in range(3)] == [expected] * 3
    (line,) = log.messages
    assert f"tree attention: {expected} (kernels={kernels}, {device})" in line
    assert ("no backward pass" in line) == (device == "cpu" and kernels != "torch")
    assert ("head size" in line) == (head_size in (8, 512))


def test_other_ranks_say_nothing(log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    choose("auto", "cpu", 64)
    assert not log.messages


def test_flex_where_it_cannot_run_is_refused_on_a_gpu(log: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match=r"kernels: found triton; .*head size.*set kernels=auto"):
        choose("triton", "cuda", 8)


def test_a_model_hands_over_rows_heads_tokens_features(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[Any, ...]] = []

    def spy(query: Tensor, key: Tensor, value: Tensor, tree: Ancestry, backend: Backend, **options: Any) -> Tensor:
        shapes.append((*(tuple(x.shape) for x in (query, key, value)), backend, options))
        return tree_attention(query, key, value, tree, backend, **options)

    def asks_the_device(*_: Any) -> Any:
        raise AssertionError("a mask is being built, which waits for the device and which nobody reads")

    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", asks_the_device)
    monkeypatch.setattr(attention, "tree_attention", spy)
    config = AutoConfig.for_model(
        "gemma2", vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, head_dim=6,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=5, query_pre_attn_scalar=9, pad_token_id=0,
    )  # fmt: skip
    lm = AutoModelForCausalLM.from_config(config).eval()
    tree_pass = prefix.TreePass()
    attention.install(lm, tree_pass, "triton")
    _, tree = forest(3, 3, 7, 7)
    tree_pass.begin(tree)
    lm(input_ids=torch.ones(3, 7, dtype=torch.long), position_ids=tree.positions_BL, use_cache=False)
    common = {"scale": 9**-0.5, "softcap": 50.0}
    assert [s[:4] for s in shapes] == [((3, 4, 7, 6), (3, 2, 7, 6), (3, 2, 7, 6), "sdpa")] * 2
    assert [s[4] for s in shapes] == [common | {"window": 5}, common | {"window": None}]
    assert tree_pass.kernels == "triton" and tree_pass.attention_calls == 2


def test_the_student_passes_its_setting_on() -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2
    )
    student = measure.Student(AutoModelForCausalLM.from_config(config), "tree", kernels="torch")
    assert student._tree_pass.kernels == "torch"


@pytest.mark.gpu
def test_on_a_gpu_gradients_of_a_row_that_comes_often_add_up_in_one_order() -> None:
    draw = torch.Generator().manual_seed(1)
    index_N = torch.randint(5, (4096,), generator=draw).cuda()
    upstream_ND = torch.randn(4096, 64, generator=draw).cuda().bfloat16()

    def gradient() -> Tensor:
        hidden_TD = torch.zeros(5, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        measure.taken(hidden_TD, index_N).backward(upstream_ND)
        assert hidden_TD.grad is not None
        return hidden_TD.grad

    first = gradient()
    assert all(torch.equal(gradient(), first) for _ in range(20))
