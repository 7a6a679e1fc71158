"""Copies of a teacher are one voice, and the mainstream is not theirs."""

import logging

import pytest

from compact_ds.compatibility.consensus import consensus, reliability
from compact_ds.compatibility.copies import as_voices, copies
from compact_ds.data.records import Example, Rationale
from compact_ds.data.steps import cut


def question(number: int, *texts: tuple[str, str]) -> Example:
    made = tuple(Rationale(teacher, *cut(text)) for teacher, text in texts)
    return Example(f"q{number}", f"What is {number} plus 1 ?", str(number + 1), made, "here:1")


def wrong(number: int) -> str:
    doubled = 2 * number + 7
    return f"I take the number {number} and take it twice, so I get {number} * 2 = {doubled}.\nThe answer is {doubled}"


def right(number: int, way: str) -> str:
    return f"{way} {number} + 1 = {number + 1}.\nThe answer is {number + 1}"


def file(num_copied: int, num: int = 20) -> list[Example]:
    """Two right teachers in words of their own, a wrong one, and one who copies the wrong one's text on some questions."""
    return [
        question(
            n,
            ("ada", right(n, "One more than that is")),
            ("ben", right(n, "Counting on by a single step we reach")),
            ("wrong", wrong(n)),
            ("zoe", wrong(n) if n < num_copied else right(n, "By adding we find")),
        )
        for n in range(num)
    ]


def test_near_duplicates_on_most_questions_are_one_voice(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert copies(file(20)) == {"wrong": "wrong", "zoe": "wrong"}
    assert "wrong and zoe write near-duplicates on 100 %" in caplog.text
    assert copies(file(10)) == {"wrong": "wrong", "zoe": "wrong"}
    assert copies(file(9)) == {}
    assert copies(file(9, num=9)) == {}


def test_two_copies_of_a_wrong_teacher_do_not_outvote_it() -> None:
    examples = file(20)
    copied = copies(examples)
    heard = [as_voices(example, copied) for example in examples]
    trust = reliability(heard)
    for example, alone in zip(examples, heard, strict=True):
        plain = consensus(example)
        # As separate voices the copies stand as high as the two who are right.
        assert plain[2] == pytest.approx(plain[0])
        for weighted in (None, trust):
            found = consensus(alone, weighted)
            assert min(found[:2]) > max(found[2:]) + 0.1
    assert trust["ada"] > 0.9 and trust["wrong"] < 0.2


def test_without_copies_an_example_is_itself() -> None:
    example = file(0)[0]
    assert as_voices(example, {}) is example
