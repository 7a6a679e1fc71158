"""Verdicts on conclusions of many kinds, and the job that writes them."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from compact_ds.data.readers import read
from compact_ds.data.stats import stats
from compact_ds.data.verify import SECONDS, verdict, verify
from compact_ds.sections import DataConfig

pytest.importorskip("math_verify")

SHARED = Path(__file__).resolve().parents[2] / "shared/data"
GPT3 = SHARED / "gsm8k_gpt3/train.jsonl"
BY_HAND = Path(__file__).with_name("hand_checked_verdicts.csv")


@pytest.mark.parametrize(
    ("sentence", "gold", "right"),
    [
        ("The answer is 18.", "18", True),
        ("The answer is $1,000.00", "1000", True),
        ("So the answer is 50%.", "50", True),
        ("The answer is 1/2.", "0.5", True),
        ("The answer is 12 apples.", "12", True),
        ("The answer is 12 apples.", "13", False),
        ("The answer is (B) a bank.", "B", True),
        ("The answer is C", "B", False),
        ("The answer is A because it implies light.", "A", True),
        ("The answer is A bank", "A", False),
        ("The answer is yes, because it floats.", "Yes", True),
        ("The answer is true.", "yes", True),
        ("The answer is no.", "yes", False),
        (r"The answer is \boxed{\frac{3}{4}}", r"\frac{6}{8}", True),
        (r"The answer is $\sqrt{8}$", r"2\sqrt{2}", True),
        (r"The answer is $x^2 + 2x + 1$", r"(x+1)^2", True),
        (r"The answer is $\frac{1}{3}$", r"\frac{2}{3}", False),
        (r"The answer is $-\frac{3}{4}$", r"\frac{3}{4}", False),
        ("The answer is $x^2+1$", "x^2-1", False),
        ("The answer is $1 + x^2$", "x^2+1", True),
        (r"The answer is $-2\sqrt{3}$", r"2\sqrt{3}", False),
        ("The answer is (3,-4)", "(3, 4)", False),
        ("The answer is [1,2)", "(1,2]", False),
        ("The answer is $x > 5$", "x < 5", False),
        ("The answer is $5 < x$", "x > 5", True),
        (r"The answer is $-\pi$", r"\pi", False),
        ("The answer is Paris", "paris", True),
        ("I could not say.", "7", False),
    ],
)
def test_verdicts(sentence: str, gold: str, right: bool) -> None:
    found = verdict(sentence, gold)
    assert found.right is right, found
    assert found.how


def test_no_conclusion_is_no_answer() -> None:
    assert verdict("We add them up.", "7").answer is None


@pytest.mark.parametrize(
    "trap", ["9" * 5000, "^" * 400, "{" * 300 + "1" + "}" * 300, r"\frac{1}{" * 60 + "1" + "}" * 60, "9^9^9^9^9^9"]
)
def test_traps_end_in_time(trap: str) -> None:
    import time

    started = time.perf_counter()
    assert verdict(f"The answer is {trap}", "7").right is False
    # Twice reading and once comparing, each within its limit, and an import of sympy.
    assert time.perf_counter() - started < 3 * SECONDS + 6


def test_the_job_writes_what_the_reader_reads(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "question": "q", "answer": "3", "rationales": [
            {"teacher": "x", "text": "one and two\nThe answer is 3", "is_correct": True},
            {"teacher": "y", "text": "no idea", "is_correct": True},
        ]},
        {"id": "b", "question": "q", "answer": "4",
         "rationales": [{"teacher": "x", "text": "ab. cd. The answer is 5", "steps": ["ab. cd."]}]},
    ]  # fmt: skip
    source, output = tmp_path / "in.jsonl", tmp_path / "new" / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = DataConfig(train=str(source))
    found = verify(read(str(source), data, 0), output, 1, True, None)
    assert found["teachers"]["x"] == {"rationales": 2, "right": 1, "without_answer": 0, "given": 1, "agree": 1}
    assert found["agreement"] == 0.5 and found["differ"][0]["teacher"] == "y"
    again = list(read(str(output), data, 0))
    before = list(read(str(source), data, 0))
    assert [r.is_correct for e in again for r in e.rationales] == [True, False, False]
    assert [r.steps for e in again for r in e.rationales] == [r.steps for e in before for r in e.rationales]
    assert json.loads(output.read_text().splitlines()[0])["rationales"][0]["answer_found"] == "3"


def test_yes_and_no_are_judged_alike_by_the_figures_of_a_file(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    row = {"id": "a", "question": "q", "answer": "Yes",
           "rationales": [{"teacher": "x", "text": "The answer is true, because it floats."}]}  # fmt: skip
    source.write_text(json.dumps(row), encoding="utf-8")
    examples = list(read(str(source), DataConfig(train=str(source)), 0))
    teachers: Any = stats(examples)["teachers"]
    assert teachers["x"]["right"] == verify(examples, None, 1, False, None)["teachers"]["x"]["right"] == 1


def test_the_counts_of_a_single_rationale_are_numbers(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    row = {"id": "a", "question": "q", "answer": "1",
           "rationales": [{"teacher": "x", "text": "The answer is 1", "is_correct": True}]}  # fmt: skip
    source.write_text(json.dumps(row), encoding="utf-8")
    found = verify(read(str(source), DataConfig(train=str(source)), 0), None, 1, False, None)
    counts = '{"rationales": 1, "right": 1, "without_answer": 0, "given": 1, "agree": 1}'
    assert json.dumps(found["teachers"]["x"]) == counts


@pytest.mark.skipif(not GPT3.exists(), reason="the shared data are not here")
def test_the_verdicts_of_a_real_file_are_reproduced() -> None:
    data = DataConfig(train=str(GPT3))
    found = verify(read(str(GPT3), data, 0), None, 1, False, None)
    assert sum(count["given"] for count in found["teachers"].values()) == 3600
    assert found["agreement"] == 1.0


@pytest.mark.parametrize("name", ["svamp", "gsm8k", "openbookqa"])
def test_verdicts_are_those_of_a_reader(name: str) -> None:
    # 200 rationales a file, drawn over all teachers with seed 0; each one's own final answer judged by reading it.
    file = SHARED / name / "train.jsonl"
    if not file.exists():
        pytest.skip("the shared data are not here")
    with BY_HAND.open(encoding="utf-8", newline="") as stream:
        by_hand = {
            (row["id"], row["teacher"]): row["right"] == "1" for row in csv.DictReader(stream) if row["file"] == name
        }
    examples = read(str(file), DataConfig(train=str(file)), 0)
    found = {
        (e.id, r.teacher): verdict(r.answer_sentence, e.answer).right
        for e in examples
        for r in e.rationales
        if (e.id, r.teacher) in by_hand
    }
    assert len(by_hand) == 200
    assert abs(sum(found.values()) - sum(by_hand.values())) <= 1
    assert sum(found[key] == right for key, right in by_hand.items()) >= 199
