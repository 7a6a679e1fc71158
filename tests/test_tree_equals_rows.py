"""Laws 1, 2 and 6 within one process: losses, probes and gradients do not depend on layout, packing or micro-batches."""

import copy
from typing import Any, Literal

import numpy as np
import pytest
import torch
from random_records import VOCABULARY, record
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from compact_ds.config import load
from compact_ds.errors import ConfigError
from compact_ds.student.load import load_lm
from compact_ds.student.measure import Student, measure
from compact_ds.tree.batch import assemble
from compact_ds.tree.build import plan_pieces
from compact_ds.tree.plan import split_into_micro_batches
from compact_ds.tree.tokenise import Record

# fp32 over at most 40 tokens and 2 layers; measured 2.4e-7 on gradients of size 1.3.
TOLERANCE = 5e-6

Key = tuple[int | str, ...]
Found = tuple[dict[Key, float], dict[str, Tensor], int]

FAMILIES: dict[str, dict[str, int]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": 5},
    "gemma2": {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8},
    "gemma3_text": {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8},
    "phi": {},
    "olmo2": {},
    # Queries of 8 + 4 features over values of 8; both layers dense.
    "deepseek_v3": {
        "num_key_value_heads": 4, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "q_lora_rank": 16,
        "kv_lora_rank": 16, "first_k_dense_replace": 2,
    },
}  # fmt: skip


def _lm(family: str, **more: Any) -> Any:
    torch.manual_seed(0)
    shape = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    config = AutoConfig.for_model(family, **(shape | FAMILIES[family] | more))
    # Gemma's cap on attention scores needs eager attention where transformers does it.
    eager = getattr(config, "attn_logit_softcapping", None) is not None
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager" if eager else "sdpa").eval()


def _run(
    lm: Any,
    records: list[Record],
    layout: Literal["tree", "rows"],
    row_tokens: int,
    rows: int,
    probes: Literal["beside", "inside"] = "beside",
) -> Found:
    """Losses by (example, rationale), probes by (example, rationale, step) and gradients under uneven weights."""
    student = Student(copy.deepcopy(lm), layout, probes)
    chosen = [list(range(len(r.rationales))) for r in records]
    pieces = [plan_pieces(r, c, layout, row_tokens, 3) for r, c in zip(records, chosen, strict=True)]
    losses: dict[Key, float] = {}
    golds: dict[Key, float] = {}
    plans = split_into_micro_batches(pieces, list(range(len(records))), layout, row_tokens, rows)
    for plan in plans:
        place = {e: i for i, e in enumerate(plan.examples)}
        order = [[(place[e], p) for e, p in row] for row in plan.rows]
        batch = assemble([records[e] for e in plan.examples], [pieces[e] for e in plan.examples], order, layout)
        lse_N, z_N1 = student(batch)
        measured = measure(lse_N, z_N1, batch, "auto")
        assert measured.probed is not None
        names = [(plan.examples[e], r) for e, r in batch.places_R]
        weights = torch.tensor([(-1) ** r * (0.1 + e + 0.3 * r) for e, r in names])
        (weights * measured.token_loss_R).sum().backward()
        losses |= {name: float(loss.detach()) for name, loss in zip(names, measured.token_loss_R, strict=True)}
        golds |= {(name[0], "question"): float(g) for name, g in zip(names, measured.probed.gold0_R, strict=True)}
        for r, step, gold in zip(batch.rationale_P, batch.step_P, measured.probed.gold_P, strict=True):
            example, rationale = names[int(r)]
            golds[(example, rationale, int(step))] = float(gold)
    gradients = {name: _gradient(p) for name, p in student.named_parameters()}
    return losses | golds, gradients, len(plans)


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _assert_same(got: Found, want: Found) -> None:
    assert got[0].keys() == want[0].keys()
    for key, value in want[0].items():
        assert abs(got[0][key] - value) < TOLERANCE, key
    for name, gradient in want[1].items():
        difference = (got[1][name] - gradient).abs()
        scale = max(1.0, float(gradient.abs().max()))
        # The mean catches a drift to one side that the maximum would let pass.
        assert difference.max() < TOLERANCE * scale and difference.mean() < TOLERANCE / 5 * scale, name


@pytest.fixture(scope="module")
def records() -> list[Record]:
    rng = np.random.default_rng(0)
    return [record(rng, k, f"r{k}") for k in (3, 1, 2, 4)]


@pytest.mark.parametrize("family", FAMILIES)
def test_tree_equals_rows(family: str, records: list[Record]) -> None:
    lm = _lm(family)
    # Eager Gemma 2 needs its own mask in the rows layout too, which transformers builds: causal, windowed, capped.
    _assert_same(_run(lm, records, "tree", 400, 2), _run(lm, records, "rows", 4000, 1))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("row_tokens", "rows", "probes"), [(60, 1, "beside"), (60, 4, "beside"), (400, 1, "inside")])
def test_the_split_into_micro_batches_and_rows_changes_nothing(
    records: list[Record], row_tokens: int, rows: int, probes: Literal["beside", "inside"], tied: bool
) -> None:
    lm = _lm("llama", tie_word_embeddings=tied)
    whole, split = _run(lm, records, "tree", 400, 1), _run(lm, records, "tree", row_tokens, rows, probes)
    assert split[2] >= whole[2]
    _assert_same(split, whole)


def test_one_teacher_is_plain_fine_tuning(records: list[Record]) -> None:
    lm = _lm("llama")
    alone = [r for r in records if len(r.rationales) == 1]
    losses, gradients, _ = _run(lm, alone, "tree", 400, 1)
    ids = torch.from_numpy(np.concatenate((alone[0].prompt_ids, alone[0].rationales[0].ids)))[None].long()
    labels = ids.clone()
    labels[:, : len(alone[0].prompt_ids)] = -100
    loss = lm(input_ids=ids, labels=labels).loss
    (0.1 * loss).backward()
    assert abs(losses[(0, 0)] - float(loss.detach())) < TOLERANCE
    for name, parameter in lm.named_parameters():
        torch.testing.assert_close(gradients[f"lm.{name}"], parameter.grad, atol=TOLERANCE, rtol=1e-4)


@pytest.mark.parametrize("family", ["opt", "gpt2"])
def test_a_student_from_scratch_drops_nothing_at_random(family: str, records: list[Record]) -> None:
    # Both drop a tenth of their hidden states by default while they train, GPT-2 of its attention too.
    lm = load_lm(load("arithmetic", [f"student.scratch.family={family}"]), VOCABULARY)
    _assert_same(_run(lm, records, "tree", 400, 2), _run(lm, records, "rows", 4000, 1))


def test_a_family_without_tree_attention_is_refused() -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model("bloom", vocab_size=VOCABULARY, hidden_size=32, n_layer=1, n_head=2)
    with pytest.raises(ConfigError, match=r"tree\.layout=rows"):
        Student(AutoModelForCausalLM.from_config(config), "tree")
