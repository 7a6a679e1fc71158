"""Figures of a data set against a hand count."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from compact_ds.data.records import Example, Rationale
from compact_ds.data.stats import stats, table

EXAMPLES = [
    Example(
        "q1",
        "?",
        "7",
        (
            Rationale("ann", ("a b c.", " d e."), " The answer is 7"),
            Rationale("bob", ("a.",), " The answer is 7.0"),
            Rationale("cid", ("a.",), " The answer is 8"),
        ),
        "f:1",
    ),
    Example("q2", "?", "5", (Rationale("ann", ("a.",), ""), Rationale("bob", ("a.",), " The answer is 5")), "f:2"),
    Example("q3", "?", "5", (Rationale("ann", ("a.",), " #### 4"), Rationale("ann", ("a b.",), " #### 5")), "f:3"),
    Example("q4", "?", "5", (), "f:4"),
]


def test_figures_by_hand() -> None:
    figures = stats(EXAMPLES)
    assert figures == {
        "questions": 4,
        "rationales": 7,
        "questions_without_rationale": 1,
        "teachers": {
            "ann": {
                "rationales": 4,
                "covered": 3 / 4,
                "mean_words": (9 + 1 + 3 + 4) / 4,
                "p95_words": 9,
                "mean_steps": 5 / 4,
                "right": 2 / 4,
                "no_answer": 1,
                # With bob and cid on q1 once of two, with bob on q2 not: no answer agrees with nothing.
                "agreement": pytest.approx(1 / 3),
                "near_duplicates": 0.0,
                "scripts": {"LATIN": 1.0},
            },
            "bob": {
                "rationales": 2,
                "covered": 2 / 4,
                "mean_words": 5.0,
                "p95_words": 5,
                "mean_steps": 1.0,
                "right": 1.0,
                "no_answer": 0,
                "agreement": pytest.approx(1 / 3),
                "near_duplicates": 0.0,
                "scripts": {"LATIN": 1.0},
            },
            "cid": {
                "rationales": 1,
                "covered": 1 / 4,
                "mean_words": 5.0,
                "p95_words": 5,
                "mean_steps": 1.0,
                "right": 0.0,
                "no_answer": 0,
                "agreement": 0.0,
                "near_duplicates": 0.0,
                "scripts": {"LATIN": 1.0},
            },
        },
    }
    assert json.loads(json.dumps(figures)) == figures


def test_a_teacher_alone_has_no_agreement() -> None:
    alone = [Example("q", "?", "5", (Rationale("ann", ("a.",), " #### 5"),), "f:1")]
    assert json.dumps(stats(alone)["teachers"]).count('"agreement": null') == 1
    assert next(iter(table(stats(alone)).columns[-2].cells)) == "-"


def test_copied_texts_and_foreign_letters_show() -> None:
    text = "one two three four five six seven eight nine ten eleven twelve"
    made = [
        Example("q", "?", "5", (Rationale("ann", (text,), ""), Rationale("bob", (text + " \u4e2d\u6587",), "")), "f:1")
    ]
    teachers = stats(made)["teachers"]
    assert isinstance(teachers, dict)
    assert teachers["ann"]["near_duplicates"] == teachers["bob"]["near_duplicates"] == 1.0
    letters = sum(map(str.isalpha, text))
    assert teachers["bob"]["scripts"] == {"LATIN": letters / (letters + 2), "CJK": 2 / (letters + 2)}


def test_estimates_copies_and_overlaps_stand_in_the_table() -> None:
    beside = {"estimated": {"ann": 0.5}, "copies": {"ann": "ann", "bob": "ann"}, "doubled_questions": [["a", "b"]]}
    shown = table(stats(EXAMPLES) | beside | {"contaminated": {"test.jsonl": [{"id": "a"}]}})
    names = [column.header for column in shown.columns]
    assert list(shown.columns[names.index("esti-\nmated")].cells) == ["0.500", "-", "-"]
    for words in ("1 questions asked twice", "1 questions stand in test.jsonl too", "bob and ann are copies"):
        assert words in str(shown.caption)


def test_the_95th_percentile_is_the_nearest_rank() -> None:
    many = [Example(str(n), "?", "5", (Rationale("ann", ("a " * n,), ""),), "f") for n in range(1, 101)]
    figures = stats(many)["teachers"]
    assert isinstance(figures, dict)
    assert figures["ann"]["p95_words"] == 95


def test_the_table_shows_a_teacher_a_row() -> None:
    console = Console(width=120, record=True, quiet=True)
    shown = table(stats(EXAMPLES))
    console.print(shown)
    assert shown.row_count == 3
    assert "4 questions (1 without a rationale), 7 rationales" in str(shown.caption)
    assert [list(column.cells)[1] for column in shown.columns][:4] == ["bob", "2", "0.500", "5.0"]


def test_the_table_fits_80_columns_and_cuts_nothing() -> None:
    names = ("gemini-1.5-flash-002", "[red]llama-3.1-70b-instruct", "bob")
    said = tuple(Rationale(name, ("a " * 12345,), "The answer is 5") for name in names)
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(table(stats([Example("a", "?", "5", said, "f")])))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)
    assert all("12349.0 12349" in line for line in lines if " 1.000 " in line), "numbers stay whole"
    # A name goes on below its beginning; markup in it is text.
    assert "".join(line[:13].strip() for line in lines).count("[red]llama-3.1-70b-instruct") == 1


def test_no_examples_give_an_empty_table() -> None:
    figures = stats([])
    assert figures == {"questions": 0, "rationales": 0, "questions_without_rationale": 0, "teachers": {}}
    assert table(figures).row_count == 0
