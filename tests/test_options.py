"""Options found in questions as two data sets write them, and their likelihoods by one option at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_student import TOKENISER, tiny_student

from compact_ds.data.readers import read
from compact_ds.data.records import Example
from compact_ds.errors import DataError
from compact_ds.evaluation.options import checked_options, options_of, score_options
from compact_ds.sections import DataConfig

SHARED = Path(__file__).parents[2] / "shared" / "data"


def test_options_by_hand() -> None:
    listed = "Q: Fog is around: Answer choices: A: a marsh, or so, B: a tundra, C: the plains, D: a desert"
    assert options_of(listed) == {"A": "a marsh, or so", "B": "a tundra", "C": "the plains", "D": "a desert"}
    assert options_of("Where? Answer Choices:\nA. bank\nB. new york") == {"A": "bank", "B": "new york"}
    assert options_of("Options: (A) 3, (B) 4") == {"A": "3", "B": "4"}
    assert options_of("Plan A: none. What is 3 plus 4?") == {}


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the data sets in ../shared/data")
@pytest.mark.parametrize(("name", "num"), [("openbookqa", 4), ("commonsenseqa", 5)])
def test_every_question_of_two_data_sets_has_its_options(name: str, num: int) -> None:
    source = str(SHARED / name / "test.jsonl")
    for example in read(source, DataConfig(train=source), 0):
        options = checked_options(example)
        assert len(options) == num and all(options.values()), example.question


def test_a_question_without_options_is_refused() -> None:
    with pytest.raises(DataError, match=r"f:1: found answer '7', options none; expected a question that lists options"):
        checked_options(Example("e", "What is 3 plus 4?", "7", (), "f:1"))


@pytest.fixture(scope="module")
def lm() -> Any:
    return tiny_student()


# The words of the built-in task are the only ones that its tokenizer knows.
QUESTIONS = (
    Example("a", "What is 3 plus 4 ? choices: A: 7 times 1 B: 5 C: 4 2 0 makes 9", "A", (), "f:1"),
    Example("b", "? choices: A: max B: 8 8", "B", (), "f:2"),
)


@torch.no_grad()
def likelihood(lm: Any, question: str, option: str) -> float:
    ids = [*TOKENISER.prompt(question), *TOKENISER.probe(option, "")[0]]
    log_p = torch.log_softmax(lm(input_ids=torch.tensor([ids])).logits[0], -1)
    size = len(option.split())
    return float(sum(log_p[place - 1, ids[place]] for place in range(len(ids) - size, len(ids))))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_likelihoods_are_those_of_each_option_alone(lm: Any, batch_size: int) -> None:
    rows = {row["id"]: row for row in score_options(lm, TOKENISER, QUESTIONS, batch_size, "text", progress=False)}
    for example in QUESTIONS:
        row = rows[example.id]
        expected = {
            letter: likelihood(lm, example.question, text) / len(text.encode())
            for letter, text in options_of(example.question).items()
        }
        # Logits are rounded to fp32 at some tens of nats.
        assert row["options"] == pytest.approx(expected, abs=1e-5)
        best = max(expected, key=lambda letter: expected[letter])
        assert (row["found"], row["right"]) == (best, best == example.answer)
        chances = np.exp(list(expected.values()))
        assert row["gold_probability"] == pytest.approx(chances["AB".index(example.answer)] / chances.sum(), abs=1e-5)


def test_letters_share_a_row_and_have_the_same_likelihoods(lm: Any) -> None:
    digits = [Example("d", "What ? choices: A: 7 B: 5", "A", (), "f:1")]
    rows = score_options(lm, TOKENISER, [*digits, *QUESTIONS[:0]], 4, "letter", progress=False)
    # The task's tokenizer knows no letters: both are the unknown word.
    assert rows[0]["options"] == pytest.approx(
        {letter: likelihood(lm, digits[0].question, letter) for letter in "AB"}, abs=1e-5
    )
