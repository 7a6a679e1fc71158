"""Texts of a batch that shrinks against texts written one at a time, token by token, the whole sequence computed anew."""

from __future__ import annotations

from copy import copy
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from compact_ds.evaluation.decoding import Decoding, decode
from compact_ds.sections import StudentConfig
from compact_ds.student.load import load_tokenizer

TOKENIZER = load_tokenizer(StudentConfig(model="scratch", tokenizer="task:arithmetic"))
PROMPTS = [torch.tensor(ids) for ids in ([5, 9, 11, 4, 7], [6], [8, 4, 5, 5, 6, 9, 12], [10, 11])]
KEYS = (11, 12, 13, 14)


@pytest.fixture(scope="module", params=["llama", "sliding"])
def lm(request: pytest.FixtureRequest) -> Any:
    """A random student that writes different words in different places, with full attention and with windows of 4 tokens."""
    torch.manual_seed(1)
    shape = {
        "vocab_size": len(TOKENIZER), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.5,
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    windows = {"sliding_window": 4} if request.param == "sliding" else {}
    config = AutoConfig.for_model("mistral" if windows else "llama", **shape, **windows)
    return AutoModelForCausalLM.from_config(config).double().eval()


@torch.no_grad()
def alone(lm: Any, prompt: torch.Tensor, decoding: Decoding, key: int, sample: int = 0) -> str:
    """One text without a cache, a batch or a stop: `decoding.max_new_tokens` tokens or up to the end of text."""
    draw = np.random.default_rng([decoding.seed, key, sample])
    ids: list[int] = []
    while len(ids) < decoding.max_new_tokens:
        logits = lm(input_ids=torch.tensor([[*prompt.tolist(), *ids]])).logits[0, -1].numpy()
        if decoding.temperature == 0:
            token = int(logits.argmax())
        else:
            chances = np.exp((logits - logits.max()) / decoding.temperature)
            token = int((chances.cumsum() / chances.sum() <= draw.random()).sum())
        if token == TOKENIZER.eos_token_id:
            break
        ids.append(token)
    return str(TOKENIZER.decode(ids, skip_special_tokens=True))


def test_samples_do_not_depend_on_their_batch(lm: Any) -> None:
    decoding = Decoding(9, stops_at_answer=False, temperature=0.7, samples=3, seed=5)
    expected = [[alone(lm, p, decoding, key, s) for s in range(3)] for p, key in zip(PROMPTS, KEYS, strict=True)]
    assert decode(lm, TOKENIZER, PROMPTS, decoding, KEYS) == expected
    assert [decode(lm, TOKENIZER, [p], decoding, [key])[0] for p, key in zip(PROMPTS, KEYS, strict=True)] == expected
    assert len({text for own in expected for text in own}) > 9


def test_a_text_that_stops_leaves_the_others_as_they_are(lm: Any) -> None:
    whole = [alone(lm, p, Decoding(14), key) for p, key in zip(PROMPTS, KEYS, strict=True)]
    # A word that most texts have, at different places.
    stop = max(sorted({word for text in whole for word in text.split()}), key=lambda w: sum(w in t for t in whole))
    expected = [text.split(stop)[0] for text in whole]
    assert len({len(text.split()) for text in expected}) > 1
    found = decode(lm, TOKENIZER, PROMPTS, Decoding(14, stops_at_answer=False, stop=(stop,)), KEYS)
    assert [own[0] for own in found] == expected


class Successor:
    """A model that writes after each word the one that follows it here, and notes how many rows each call had."""

    WORDS = ("What The answer is 7 . 4 3 2 0", "does 5 plus times max make makes 0 1 6 8")

    def __init__(self, lm: Any) -> None:
        self.config, self.generation_config = lm.config, copy(lm.generation_config)
        self.device = torch.device("cpu")
        self.num_rows: list[int] = []
        ids = [TOKENIZER(line)["input_ids"] for line in self.WORDS]
        self._after = {one: after for line in ids for one, after in pairwise(line)}

    def __call__(self, input_ids: torch.Tensor, **_: Any) -> Any:
        self.num_rows.append(len(input_ids))
        logits = torch.zeros(len(input_ids), 1, len(TOKENIZER))
        for row, last in enumerate(input_ids[:, -1].tolist()):
            logits[row, -1, self._after[last]] = 1.0
        return SimpleNamespace(logits=logits)


def test_an_answer_sentence_ends_a_text_as_soon_as_another_has_begun(lm: Any) -> None:
    model = Successor(lm)
    asked = [torch.tensor(TOKENIZER(text)["input_ids"]) for text in ("What", "7 does")]
    found = decode(model, TOKENIZER, asked, Decoding(8), KEYS[:2])
    assert found == [["The answer is 7 ."], ["5 plus times max make makes 0 1"]]
    # "4" tells that the sentence is over; the other text has its eight words after eight calls.
    assert model.num_rows == [2] * 6 + [1] * 2
    assert decode(Successor(lm), TOKENIZER, asked, Decoding(8, stops_at_answer=False), KEYS[:2])[0] == [
        "The answer is 7 . 4 3 2"
    ]


@pytest.mark.parametrize("listed", [True, False])
def test_a_text_ends_where_the_model_ends_its_turn(lm: Any, listed: bool) -> None:
    model = Successor(lm)
    turn_end = TOKENIZER.convert_tokens_to_ids("4")
    model.generation_config.eos_token_id = [TOKENIZER.eos_token_id, turn_end] if listed else turn_end
    asked = [torch.tensor(TOKENIZER(text)["input_ids"]) for text in ("What", "7 does")]
    found = decode(model, TOKENIZER, asked, Decoding(9, stops_at_answer=False), KEYS[:2])
    assert found == [["The answer is 7 ."], ["5 plus times max make makes 0 1 6"]]


class Reader:
    """A byte-level tokenizer's stand-in, a token a byte, that notes how many tokens each call had; token 256 is not shown."""

    all_special_ids, pad_token_id, eos_token_id = (256, 257), 257, 257

    def __init__(self) -> None:
        self.read: list[int] = []

    def decode(self, ids: Any, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        self.read.append(len(ids))
        return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")


class Dictation:
    """A model that writes one text after any prompt, a byte at a time."""

    def __init__(self, lm: Any, tokens: list[int]) -> None:
        self.config, self.generation_config = lm.config, SimpleNamespace(eos_token_id=257)
        self.device = torch.device("cpu")
        self._tokens = iter(tokens)

    def __call__(self, input_ids: torch.Tensor, **_: Any) -> Any:
        logits = torch.zeros(len(input_ids), 1, 258)
        logits[:, -1, next(self._tokens, 257)] = 1.0
        return SimpleNamespace(logits=logits)


STOP = "—nächste Frage"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["Käse kostet 3 €. " * 20, "The answer is 7. Then"], "Käse kostet 3 €. " * 20 + "The answer is 7."),
        (["a" * 31, "### Answer\n7\nThus"], "a" * 31 + "### Answer\n7"),
        ([f"No option fits. {'b ' * 99}", "#### 12\nx"], f"No option fits. {'b ' * 99}#### 12"),
        (["c " * 99, STOP, "The answer is 1. So"], "c " * 99),
        (["d " * 99, "The answer is 1", STOP], "d " * 99 + "The answer is 1"),
        (["e " * 99], "e " * 99),
    ],
)
def test_a_text_ends_where_the_whole_of_it_says(lm: Any, written: list[str], expected: str) -> None:
    """With a special token after every byte, which the text does not show."""
    tokens = [token for byte in "".join(written).encode() for token in (byte, 256)]
    found = decode(Dictation(lm, tokens), Reader(), [torch.tensor([1])], Decoding(2000, stop=(STOP,)), [0])
    assert found == [[expected]]


def test_the_work_grows_with_the_text_and_not_with_its_square(lm: Any) -> None:
    tokens, reader = list(b"one more word " * 100), Reader()
    decode(Dictation(lm, tokens), reader, [torch.tensor([1])], Decoding(1400, stop=("stop",)), [0])
    assert sum(reader.read) <= 32 * 1400 + 1400
