"""Evaluation of a student against one question at a time: greedy text token by token, answer losses by transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from compact_ds.data.arithmetic import examples
from compact_ds.data.records import Example
from compact_ds.errors import DataError
from compact_ds.evaluation import generation
from compact_ds.evaluation.decoding import Decoding
from compact_ds.evaluation.generation import answer_losses, evaluate, generate, losses_after_steps, summary, write_rows
from compact_ds.sections import DataConfig, StudentConfig
from compact_ds.student.load import load_tokenizer
from compact_ds.tree.tokenise import Tokeniser

TOKENISER = Tokeniser(
    load_tokenizer(StudentConfig(model="scratch", tokenizer="task:arithmetic")), DataConfig(train="task:arithmetic").cue
)
# Questions of 9, 3, 12 and 1 words, and answers of one to three.
QUESTIONS = ("What does 4 plus 2 plus 9 make ?", "7 max 3", "What does 1 times 1 times 1 times 5 make ? .", "?")
ANSWERS = ("5", "7 7", "4 . 2", "makes 0")
EXAMPLES = [
    Example(f"e{i}", question, answer, (), f"f:{i + 1}")
    for i, (question, answer) in enumerate(zip(QUESTIONS, ANSWERS, strict=True))
]


def student(seed: int) -> Any:
    """A random Llama that is sure enough of itself to write different words in different places."""
    torch.manual_seed(seed)
    size = len(TOKENISER.tokenizer)
    config = AutoConfig.for_model(
        "llama", vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.5, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).double().eval()


@torch.no_grad()
def greedy(lm: Any, question: str, max_new_tokens: int) -> list[int]:
    """The most likely next token again and again, the whole sequence computed anew each time."""
    ids = TOKENISER.prompt(question).tolist()
    new: list[int] = []
    while len(new) < max_new_tokens and (not new or new[-1] != TOKENISER.tokenizer.eos_token_id):
        new.append(int(lm(input_ids=torch.tensor([ids + new])).logits[0, -1].argmax()))
    return new


def written(lm: Any, asked: Sequence[Example], max_new_tokens: int) -> list[str]:
    """The greedy text of each question, written as one batch."""
    texts = generate(lm, TOKENISER, asked, Decoding(max_new_tokens, stops_at_answer=False))
    assert all(len(own) == 1 for own in texts)
    return [own[0] for own in texts]


@pytest.fixture(scope="module")
def lm() -> Any:
    return student(0)


@pytest.mark.parametrize("seed", range(4))
def test_a_padded_batch_writes_what_each_question_alone_gets(seed: int) -> None:
    lm = student(seed)
    alone = [greedy(lm, question, 12) for question in QUESTIONS]
    assert len({tuple(ids) for ids in alone}) == len(alone)
    texts = [TOKENISER.tokenizer.decode(ids, skip_special_tokens=True) for ids in alone]
    assert written(lm, EXAMPLES, 12) == texts
    assert [written(lm, [example], 12)[0] for example in EXAMPLES] == texts


def test_text_ends_with_the_end_of_text_token(lm: Any) -> None:
    with torch.no_grad():
        head = lm.lm_head.weight
        kept = head.clone()
        # The end of text comes where "makes" would have come.
        makes, end = TOKENISER.tokenizer.convert_tokens_to_ids(["makes", "<eos>"])
        head[end] = head[makes] * 1.01
    alone = [greedy(lm, question, 20) for question in QUESTIONS]
    texts = written(lm, EXAMPLES, 20)
    with torch.no_grad():
        head.copy_(kept)
    lengths = [len(ids) for ids in alone]
    assert min(lengths) < 20 and len(set(lengths)) > 1
    assert texts == [TOKENISER.tokenizer.decode(ids, skip_special_tokens=True) for ids in alone]


def test_what_the_models_folder_says_about_generation_does_not_count() -> None:
    lm = student(1)
    plain = written(lm, EXAMPLES, 12)
    brought = {
        "do_sample": True, "temperature": 5.0, "top_k": 3, "top_p": 0.5, "repetition_penalty": 3.0, "num_beams": 3,
        "no_repeat_ngram_size": 1, "max_length": 5, "max_new_tokens": 2,
    }  # fmt: skip
    for name, value in brought.items():
        lm = student(1)
        setattr(lm.generation_config, name, value)
        assert written(lm, EXAMPLES, 12) == plain, name


def test_answer_losses_are_those_of_transformers(lm: Any) -> None:
    expected = []
    for example in EXAMPLES:
        ids = torch.tensor([[*TOKENISER.prompt(example.question), *TOKENISER.probe(example.answer, "")[0]]]).long()
        labels = ids.clone()
        labels[:, : -len(example.answer.split())] = -100
        expected.append(float(lm(input_ids=ids, labels=labels).loss.detach()))
    # The logits are rounded to fp32 at losses of up to some tens of nats.
    assert answer_losses(lm, TOKENISER, [(e, None) for e in EXAMPLES]) == pytest.approx(expected, abs=1e-5)
    assert [answer_losses(lm, TOKENISER, [(e, None)])[0] for e in EXAMPLES] == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 0.1


def test_losses_after_steps_are_those_of_transformers_over_a_right_rationale(lm: Any) -> None:
    held_out = [*islice(examples("arithmetic", "eval", seed=0), 4), replace(EXAMPLES[0], rationales=())]
    expected: list[Any] = []
    for example in held_out:
        losses = []
        for rationale in example.rationales:
            if rationale.is_correct:
                prompt = TOKENISER.prompt(example.question)
                steps = TOKENISER.tokenizer("".join(rationale.steps))["input_ids"]
                ids = torch.tensor([[*prompt, *steps, *TOKENISER.probe(example.answer, "")[0]]]).long()
                labels = ids.clone()
                labels[:, : -len(example.answer.split())] = -100
                losses.append(float(lm(input_ids=ids, labels=labels).loss.detach()))
        expected.append(pytest.approx(losses[crc32(example.id.encode()) % len(losses)], abs=1e-5) if losses else None)
    assert losses_after_steps(lm, TOKENISER, held_out) == expected
    assert expected[-1] is None and None not in expected[:-1]


def test_steps_that_do_not_arrive_at_the_right_answer_are_not_asked_after(lm: Any) -> None:
    example = next(examples("arithmetic", "eval", seed=0))
    right = next(r for r in example.rationales if r.is_correct)
    asks = replace(right, steps=("so 502 - 90 = ? ",))
    assert losses_after_steps(lm, TOKENISER, [replace(example, rationales=(asks,))]) == [None]
    both = losses_after_steps(lm, TOKENISER, [replace(example, rationales=(asks, right))])
    assert both == losses_after_steps(lm, TOKENISER, [replace(example, rationales=(right,))]) != [None]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_every_question_has_its_own_row(lm: Any, monkeypatch: pytest.MonkeyPatch, batch_size: int) -> None:
    held_out = list(islice(examples("arithmetic", "eval", seed=0), 5))
    said = {e.question: f"so the answer is {e.answer if i % 2 else 'max'} ." for i, e in enumerate(held_out)}
    sizes = []

    def said_to(_lm: Any, _tokeniser: Any, asked: list[Example], decoding: Decoding) -> list[list[str]]:
        assert decoding.max_new_tokens == 6
        sizes.append(len(asked))
        return [[said[example.question]] for example in asked]

    monkeypatch.setattr(generation, "generate", said_to)
    mixed = [held_out[0], EXAMPLES[3], *held_out[1:]]
    said[EXAMPLES[3].question] = "0"
    rows = {row["id"]: row for row in evaluate(lm, TOKENISER, mixed, batch_size, Decoding(6), progress=False)}
    assert (sum(sizes), max(sizes)) == (6, min(batch_size, 6))
    assert set(rows) == {e.id for e in mixed}
    for i, example in enumerate(held_out):
        row = rows[example.id]
        assert (row["gold"], row["text"]) == (example.answer, said[example.question])
        assert (row["found"], row["right"]) == ((example.answer, True) if i % 2 else ("max", False))
        assert row["answer_loss"] == pytest.approx(answer_losses(lm, TOKENISER, [(example, None)])[0], abs=1e-5)
    assert (rows["e3"]["found"], rows["e3"]["right"]) == (None, False)


def test_summary_and_rows_by_hand(tmp_path: Path) -> None:
    rows = [
        {"id": f"e{i}", "right": i == 2, "answer_loss": loss, "answer_loss_after_steps": after, "text": "€"}
        for i, (loss, after) in enumerate(((0.5, None), (1.0, 0.25), (3.0, 0.75), (1.5, None)))
    ]
    assert summary(rows) == {"accuracy": 0.25, "answer_loss": 1.5, "answer_loss_after_steps": 0.5, "n": 4}
    assert summary(rows[:1])["answer_loss_after_steps"] is None
    write_rows(rows, tmp_path / "rows.jsonl")
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows and '"€"' in lines[0]
    with pytest.raises(DataError, match=r"data\.eval: found no questions; expected at least one held-out question"):
        summary([])
