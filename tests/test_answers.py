"""Answers: found in the last answer sentence, compared as numbers, choices or text."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compact_ds.data.answers import final_answer, same_answer, through_answer, votes
from compact_ds.evaluation.samples import majority

DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 7\nThe answer is 7", "7"),
        ("The answer is 7.", "7"),
        ("So the answer is: 7.", "7"),
        ("The answer is $1,234.50.", "1,234.50"),
        ("#### 7", "7"),
        ("####7\n", "7"),
        ("Answer: 7 apples.", "7 apples"),
        ("**Final Answer:** **7**", "7"),
        ("The answer is \\boxed{7}.", "7"),
        ("3 + 4 = \\boxed{7}", "7"),
        ("The answer is 40 + 50 = 90.", "90"),
        ("The answer is x = 3 + 4 = 7", "7"),
        ("The answer is the total cost = 5 * 3 = $15.", "15"),
        ("The answer is as follows: 3 + 4 = 7", "7"),
        ("The answer is 40 apples + 50 apples = 90 apples.", "90 apples"),
        ("The answer is (3 + 4) * 2 = 14", "14"),
        ("The answer is f(x, y) = 2x", "2x"),
        (r"The answer is \frac{\sqrt{9}}{2} = 1.5", "1.5"),
        ("The answer is x >= 5", "x >= 5"),
        ("The answer is 20 minutes (1 hour = 60 minutes).", "20 minutes (1 hour = 60 minutes)"),
        ("The answer is 4 * 5 = 20 minutes (1 hour = 60 minutes).", "20 minutes (1 hour = 60 minutes)"),
        ("The answer is $18, as 1 dozen = 12 eggs.", "18, as 1 dozen = 12 eggs"),
        ("The answer is 12 apples and each box = 4 apples.", "12 apples and each box = 4 apples"),
        ("The answer is B because F = ma.", "B because F = ma"),
        ("The answer is (B) F = ma.", "(B) F = ma"),
        ("The answer is 2. No, the answer is 3.", "3"),
        ("The answer is 7. He is happy about it.", "7"),
        ("The answer is 7\n\nQuestion: another one", "7"),
        ("The answer is (C) a case.", "(C) a case"),
        ("The correct choice is C", "C"),
        ("Therefore the answer must be B, given the choices.", "B, given the choices"),
        ("The answer is -7", "-7"),
        ("The answer is not here", None),
        ("The answer is", None),
        ("It is 7.", None),
        ("", None),
    ],
)
def test_final_answer(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("found", "gold"),
    [
        ("7", "7"),
        ("7.0", "7"),
        ("7.00", "$7"),
        ("$1,000", "1000"),
        ("1000", "1,000"),
        ("50%", "50"),
        ("-7", "-7"),
        ("\u22127", "-7"),
        ("$-7", "-7"),
        ("-$7", "-7"),
        ("7 apples", "7"),
        ("about 7 apples", "7"),
        ("x = 7", "7"),
        ("20 minutes (1 hour = 60 minutes)", "20"),
        ("$18, as 1 dozen = 12 eggs", "18"),
        ("12 apples, since each box = 4 apples", "12"),
        ("B because F = ma", "B"),
        ("(B) F = ma", "B"),
        ("1/2", "0.5"),
        ("0.5", "1/2"),
        ("1 1/2 hours", "1.5"),
        (".5", "0.5"),
        ("1e3", "1000"),
        ("100000000000000000001", "100,000,000,000,000,000,001"),
        ("c", "C"),
        ("(C)", "C"),
        ("C) a case", "C"),
        ("(c) case", "C"),
        ("option C", "C"),
        ("C because it holds", "C"),
        ("The Blue whale", "blue whale."),
        ("yes", "Yes"),
        ("Yes, because it floats", "yes"),
        ("**True**, it floats", "Yes."),
        ("false", "no"),
        ("no", "No, it sinks"),
        ("no child", "No child"),
        ("well known", "well-known"),
        ("New York, NY.", "new york NY"),
        ("Paris - the capital", "Paris, capital"),
        ("the **blue** whale", "blue whale"),
        ("(B) a bank", "B. bank"),
        ("b) foo", "B) Foo"),
        ("mid\u20131990s", "mid-1990s"),
        (r"\(x^2 + 1\)", "$x^2+1$."),
        (r"\left(3,\, 4\right)", "(3, 4)"),
        (r"2 \sqrt{3}", r"2\sqrt{3}"),
        ("\u2212x", "-x"),
        ("50", r"50\%"),
        (r"\frac{7}{2}", "3.5"),
        ("0.75", r"\dfrac34"),
        (r"-7\frac{1}{2}", "-7.5"),
        (r"\sqrt{4} = 2", "2"),
    ],
)
def test_same(found: str, gold: str) -> None:
    assert same_answer(found, gold)


@pytest.mark.parametrize(
    ("found", "gold"),
    [
        (None, "7"),
        ("", "7"),
        ("8", "7"),
        ("7.1", "7"),
        ("70", "7"),
        ("-7", "7"),
        ("7 + 2", "7"),
        ("1/7", "1"),
        ("1/0", "1"),
        ("0.3333333333333333", "1/3"),
        ("100000000000000000001", "100000000000000000000"),
        ("seven", "7"),
        ("18" * 5000, "18"),
        ("D", "C"),
        ("a case", "A"),
        ("A bank", "A"),
        ("cat", "C"),
        ("I think so", "I"),
        ("no", "Yes"),
        ("It is not true", "no"),
        ("not yes", "yes"),
        ("No, a man", "No child"),
        ("whale", "blue whale"),
        (r"-\frac{3}{4}", r"\frac{3}{4}"),
        ("x^2+1", "x^2-1"),
        ("x^2", "x 2"),
        (r"-2\sqrt{3}", r"2\sqrt{3}"),
        ("(3,-4)", "(3, 4)"),
        ("[3,4]", "(3, 4)"),
        ("[1,2)", "(1,2]"),
        ("1 2/3 x", "12/3 x"),
        ("x > 5", "x < 5"),
        ("x ≥ 5", "x ≤ 5"),
        (r"-\pi", r"\pi"),
        ("-\u03c0", "\u03c0"),
        ("\u22125 m", "5 m"),
        (".5 m", "5 m"),
        ("√3 m", "3 m"),
        (r"\frac{7}{2}", "7"),
        (r"7\frac{1}{2}", "7"),
        (r"2\sqrt{3}", "2"),
        (r"\sqrt[3]{2}", "2"),
        ("\u221a2", "2"),
        (r"2\pi", "2"),
        ("2 \u03c0", "2"),
    ],
)
def test_different(found: str | None, gold: str) -> None:
    assert not same_answer(found, gold)


@pytest.mark.parametrize("gold", [r"\frac{3}{4}", "x^2-1", r"2\sqrt{3}", "(3, 4)", "(1,2]", "x < 5", r"\pi"])
@pytest.mark.parametrize("found", [r"-\frac{3}{4}", "x^2+1", r"-2\sqrt{3}", "(3,-4)", "[1,2)", "x > 5", r"-\pi"])
def test_different_expressions_get_no_common_vote(found: str, gold: str) -> None:
    assert votes(["one", "other"], [found, gold]) == [1, 1]
    assert majority([found, gold, gold]) == 1


@given(st.integers(-(10**20), 10**20), st.integers(0, 6))
def test_every_spelling_of_a_decimal_is_the_same_number(digits: int, places: int) -> None:
    value = Fraction(digits, 10**places)
    whole, part = divmod(abs(digits), 10**places)
    sign = "-" if digits < 0 else ""
    tail = f".{part:0{places}d}" if places else ""
    for spelling in (f"{sign}{whole}{tail}", f"{sign}${whole:,}{tail}", f"{sign}{whole:,}{tail} dollars"):
        assert same_answer(spelling, f"{sign}{whole}{tail}0" if places else f"{sign}{whole}")
        assert same_answer(spelling, f"{value.numerator}/{value.denominator}")
        assert not same_answer(spelling, str(whole + 1))


@given(st.text(max_size=60))
def test_any_text_can_be_judged(text: str) -> None:
    answer = final_answer(f"{text}\nThe answer is {text}")
    assert answer is None or answer.strip() == answer != ""
    assert same_answer(text, "7") in (True, False)
    assert same_answer("7", text) in (True, False)


@pytest.mark.skipif(not DATA.is_dir(), reason="the development data is not beside this checkout")
def test_verdicts_of_the_source_are_reproduced() -> None:
    verdicts = 0
    for line in (DATA / "gsm8k_gpt3" / "train.jsonl").open(encoding="utf-8"):
        example = json.loads(line)
        for rationale in example["rationales"]:
            assert same_answer(final_answer(rationale["text"]), example["answer"]) == rationale["is_correct"]
            verdicts += 1
    assert verdicts == 3600


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 7\n\n## Answer\n7 apples", "7 apples"),
        ("**Final Answer**\n\n\\[\n\\boxed{280}\n\\]\n", "280"),
        ("So \\(x = \\boxed{\\frac{\\sqrt{3}}{2}}\\).", "\\frac{\\sqrt{3}}{2}"),
        ("The answer is\n$$x = 12$$", "12"),
    ],
)
def test_an_answer_under_a_heading_or_in_a_box(text: str, answer: str) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("I add. The answer is 3.", None),
        ("The answer is 3.5", None),
        ("I add. The answer is 3. The next", "I add. The answer is 3."),
        ("The answer is 40 + 50 = 90. Good", "The answer is 40 + 50 = 90."),
        ("The answer is A. Bank", None),
        ("The answer is A. Bank\nNext", "The answer is A. Bank"),
        ("The answer is\n\n5", None),
        ("The answer is:\n\n5 apples\n", "The answer is:\n\n5 apples"),
        ("## Answer\n42\n", "## Answer\n42"),
        ("**Answer:** 5\nx", "**Answer:** 5"),
        ("#### Step 1\nadd", None),
        ("#### 0\nadd", "#### 0"),
        ("no conclusion. At all. ", None),
    ],
)
def test_a_text_up_to_the_end_of_its_answer_sentence(text: str, end: str | None) -> None:
    assert through_answer(text) == end
