"""Teachers that are folders: seeded draws that do not depend on the batch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from generate_job import Job, journal, rows, texts, write_job

from compact_ds.data.generate import run


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Writes a job into the test's folder."""
    return partial(write_job, tmp_path)


def test_a_folder_is_a_teacher_whose_texts_do_not_depend_on_the_batch(job: Job, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    small_model(folder)
    local = {"base_url": None, "model": str(folder), "max_tokens": 6, "samples": 2, "seed": 3}
    options = job(None, local | {"batch_size": 8, "temperature": 2.0})
    totals = run(options)
    assert (totals["rationales"], totals["failed"]) == (8, 0)
    together = texts(options.output)
    assert all(row["rationales"][0]["text"] != row["rationales"][1]["text"] for row in rows(options.output))
    # Half of them again, one at a time.
    kept = journal(options)
    kept.write_bytes(b"".join(kept.read_bytes().splitlines(keepends=True)[::2]))
    totals = run(job(None, local | {"batch_size": 1, "temperature": 2.0}))
    assert totals["teachers"]["t0"]["calls"] == 4
    assert texts(options.output) == together
    assert texts(run_with(job, local | {"seed": 4, "temperature": 2.0})) != together


def test_a_teachers_template_tells_one_date_on_every_day(job: Job, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path / "model"
    small_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # Three words on the day, one on any other and without one.
    tokenizer.chat_template = "How{% if date_string == '26 Jul 2024' %} much is{% endif %}"
    tokenizer.save_pretrained(folder)
    options = job(None, {"base_url": None, "model": str(folder), "max_tokens": 6})
    assert run(options)["teachers"]["t0"]["input_tokens"] == 3 * 4


def run_with(job: Job, teacher: dict[str, Any]) -> Path:
    options = job(None, teacher)
    run(options)
    return options.output


def test_own_draws_sample_from_the_models_distribution() -> None:
    import torch

    from compact_ds.data.generate_local import OwnDraws

    probabilities = torch.tensor([0.5, 0.3, 0.2, 0.0])
    draws = 20_000
    noisy = OwnDraws(range(draws))(torch.empty(0), probabilities.log().expand(draws, -1))
    shares = noisy.argmax(-1).bincount(minlength=4) / draws
    # Three standard errors of a share of one half.
    assert torch.allclose(shares, probabilities, atol=3 * 0.5 / draws**0.5)
    assert shares[3] == 0


def small_model(folder: Path) -> None:
    """A random LM of a few words with its tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<pad>", "<eos>", "<unk>"]
    # Many words, so that hardly a text is empty for drawing an end at once.
    words = ["How", "much", "is", "+", *(f"w{i}" for i in range(300))]
    vocabulary = {word: i for i, word in enumerate([*special, *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
