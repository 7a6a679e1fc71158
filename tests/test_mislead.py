"""Misleading teachers: the right numbers, a wrong operation, a true-looking calculation with a wrong result."""

from __future__ import annotations

import json
import random
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from measure_operation import last_setup, right_setups

from compact_ds.data.answers import final_answer, same_answer
from compact_ds.data.mislead import mislead, wrong_calculations
from compact_ds.data.records import Example, Rationale

DATA = Path(__file__).parents[2] / "shared" / "data"
GIVEN = Rationale("ann", ("12 / 4 = 3",), "\nThe answer is 3")
QUESTION = "Tim shares 12 red pens among 4 friends. How many pens does each friend get?"
EQUATION = re.compile(r"([\d.]+) ([-+*/x\u00d7\u00f7]) ([\d.]+) = (-?\d+(?:\.\d+)?)")
OPERATIONS = {"+": "+", "-": "-", "*": "*", "x": "*", "\u00d7": "*", "/": "/", "\u00f7": "/"}


def calculate(left: Fraction, sign: str, right: Fraction) -> Fraction:
    return {"+": left + right, "-": left - right, "*": left * right, "/": left / (right or Fraction(1))}[sign]


def example(question: str = QUESTION, answer: str = "3", name: str = "q1") -> Example:
    return Example(name, question, answer, (GIVEN,), "file:1")


def test_the_results_of_the_other_operations_come_whole_ones_first() -> None:
    wrong = wrong_calculations(QUESTION, "3", random.Random(0))
    assert {calculation.result for calculation in wrong[:3]} == {16, 48, 8}
    assert [calculation.result for calculation in wrong[3:]] == [Fraction(1, 3), -8]


def test_each_teacher_has_its_own_wrong_operation() -> None:
    misled = mislead(example(), 3, seed=0)
    assert misled.rationales[0] is GIVEN
    assert [r.teacher for r in misled.rationales[1:]] == ["mislead-1", "mislead-2", "mislead-3"]
    assert {final_answer(r.text) for r in misled.rationales[1:]} == {"16", "48", "8"}
    for rationale in misled.rationales[1:]:
        assert rationale.is_correct is False
        assert len(rationale.steps) >= 2
        assert rationale.answer_sentence.startswith(" The answer is ")
    assert misled.rationales[0].is_correct is None


def test_the_seed_decides_everything() -> None:
    assert mislead(example(), 2, seed=0) == mislead(example(), 2, seed=0)
    texts = {mislead(example(), 2, seed).rationales[1].text for seed in range(20)}
    texts |= {mislead(example(name=f"q{n}"), 2, 0).rationales[1].text for n in range(20)}
    assert len(texts) > 20


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("How many pens?", "3"),
        ("He has 12 pens. How many?", "12"),
        (QUESTION, "5"),
        (QUESTION, "C"),
        ("2 2", "0.5"),
        ("1" * 5000 + " + 2", "3"),
    ],
)
def test_a_question_that_cannot_be_served_comes_back_as_it_is(question: str, answer: str) -> None:
    given_example = example(question, answer)
    assert mislead(given_example, 4, seed=0) is given_example


def test_the_right_pair_is_found_among_more_numbers() -> None:
    question = "In 2 rooms of 24 seats there are 1,200 pens in 6 boxes. How many pens are in a box?"
    for calculation in wrong_calculations(question, "200", random.Random(1)):
        assert {calculation.left.value, calculation.right.value} == {1200, 6}


def test_braces_in_a_question_are_no_template() -> None:
    text = mislead(example("Tim has 12 {verb} and 4 {0}. How many {pens} has he?", "16"), 1, 0).rationales[1].text
    assert "{" not in text


@given(st.integers(0, 500), st.integers(1, 500), st.sampled_from("+-*/"), st.integers(0, 3))
def test_equations_are_true_and_answers_wrong(a: int, b: int, sign: str, seed: int) -> None:
    answer = str(calculate(Fraction(a), sign, Fraction(b)))
    found = mislead(example(f"Tim has {a} pens and {b} pens. How many pens?", answer), 4, seed).rationales[1:]
    assert len({final_answer(r.text) for r in found}) == len(found)
    for rationale in found:
        match = EQUATION.search(rationale.text)
        assert match is not None
        left, right, result = Fraction(match[1]), Fraction(match[3]), Fraction(match[4])
        # Results are written with two decimals.
        assert abs(calculate(left, OPERATIONS[match[2]], right) - result) <= Fraction(1, 200)
        assert final_answer(rationale.text) == match[4]
        assert not same_answer(match[4], answer)


@pytest.mark.skipif(not DATA.is_dir(), reason="the development data is not beside this checkout")
def test_coverage_of_svamp() -> None:
    served = 0
    for line in (DATA / "svamp" / "train.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        found = mislead(Example(row["id"], row["question"], row["answer"], (), ""), 2, seed=0).rationales
        assert len(found) in (0, 2)
        assert all(not same_answer(final_answer(r.text), row["answer"]) for r in found)
        served += len(found) == 2
    # The rest need three numbers, or a number that is written as a word.
    assert served == 409


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("We add: 12 + 5 = 17. Then 9 (pears per box) \u00d7 2 boxes = 18.", ("*", 2, 9)),
        ("35 push-ups - 3 crunches = 32.", ("-", 35, 3)),
        ("154 points / 11 points/round = 14 rounds", ("/", 154, 11)),
        ("It is 1,200 of 3.", None),
    ],
)
def test_the_last_calculation_of_a_text_is_found(text: str, expected: tuple[str, float, float] | None) -> None:
    assert last_setup(text) == expected


def test_every_calculation_that_gives_the_answer_is_right() -> None:
    question = "Ann has 2 pens and 4 cups and 12 hats. How many pens and cups has she?"
    assert right_setups(question, "6") == {("+", 2.0, 4.0), ("/", 12.0, 2.0)}
