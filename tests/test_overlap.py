"""Overlap of texts against sets of words built by hand."""

from hypothesis import given
from hypothesis import strategies as st

from compact_ds.data.overlap import contaminated, doubled_questions, likeness, near_duplicates, ngrams
from compact_ds.data.records import Example, Rationale

TEN = "one two three four five six seven eight nine ten"


def example(name: str, question: str, *texts: tuple[str, str]) -> Example:
    return Example(name, question, "1", tuple(Rationale(t, (text,), "") for t, text in texts), "here:1")


def test_ngrams_ignore_case_and_punctuation() -> None:
    assert ngrams("One, two; three!", 2) == ngrams("one two three", 2)
    assert len(ngrams(TEN, 8)) == 3 and len(ngrams("one two", 8)) == 1 and not ngrams(" .,! ", 8)


@given(st.text(), st.text(), st.integers(1, 6))
def test_likeness_is_a_share(one: str, other: str, n: int) -> None:
    a, b = ngrams(one, n), ngrams(other, n)
    assert 0 <= likeness(a, b) == likeness(b, a) <= 1
    assert likeness(a, a) == (1.0 if a else 0.0)


def test_near_duplicates_are_of_different_teachers() -> None:
    found = example(
        "a", "q", ("ada", TEN), ("ben", TEN.upper() + " !"), ("ben", TEN), ("cleo", "eleven " * 9)
    ).rationales
    assert near_duplicates(found) == [(0, 1), (0, 2)]


def test_near_is_a_share_of_the_grams() -> None:
    # 5-grams of 24 words are 20; the last word changed spoils one of each side: 19 of 21 are shared.
    words = [f"w{i}" for i in range(24)]
    changed = " ".join([*words[:-1], "other"])
    assert likeness(ngrams(" ".join(words), 5), ngrams(changed, 5)) == 19 / 21
    assert near_duplicates(example("a", "q", ("x", " ".join(words)), ("y", changed)).rationales) == [(0, 1)]


def test_doubled_questions() -> None:
    assert doubled_questions([example("a", "How many ?"), example("b", "Else"), example("c", "how  MANY")]) == [
        ["a", "c"]
    ]


def test_contamination_names_the_test_question() -> None:
    train = [
        example("t1", TEN),
        example("t2", "something else entirely that is long enough to have grams of its own"),
        example("t3", "two plus two"),
    ]
    test = [example("e1", "Well, " + TEN + " eleven"), example("e2", "two plus two"), example("e3", "two plus three")]
    assert contaminated(train, test) == [
        {"id": "t1", "test_id": "e1", "share": 1.0},
        {"id": "t3", "test_id": "e2", "share": 1.0},
    ]
    half = example("t4", " ".join(TEN.split()[:9]) + " a b c d e f g")
    assert contaminated([half], test, share=0.1)[0]["share"] == 2 / 9 and contaminated([half], test) == []
