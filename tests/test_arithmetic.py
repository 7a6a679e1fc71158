"""The built-in tasks: what is right, who is right, and that nothing but the mathematics shows it."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from compact_ds.data.answers import final_answer, same_answer
from compact_ds.data.arithmetic import ROLES, TASKS, examples, vocabulary
from compact_ds.data.records import Example, Rationale
from compact_ds.data.steps import cut
from compact_ds.errors import DataError

HARD = list(examples("arithmetic_hard", "train", seed=0))
PLAIN = list(examples("arithmetic", "train", seed=0))
SPECIALISTS = {"ada": "plus", "ben": "times", "cleo": "max"}
STEP = re.compile(r"(\d) (plus|times|max) (\d) (?:makes|and get) (\d)")


def right(left: int, kind: str, other: int) -> int:
    return {"plus": left + other, "times": left * other, "max": max(left, other)}[kind] % 10


def parts(example: Example) -> tuple[int, str, int, int]:
    words = example.question.split()
    return int(words[2]), words[3], int(words[4]), int(words[6])


def of(example: Example, teacher: str) -> Rationale:
    return next(rationale for rationale in example.rationales if rationale.teacher == teacher)


def results(rationale: Rationale) -> list[int]:
    return [int(match[4]) for match in STEP.finditer("".join(rationale.steps))]


def test_gold_answers() -> None:
    for example in HARD:
        a, kind, b, c = parts(example)
        assert int(example.answer) == right(right(a, kind, b), kind, c)


@pytest.mark.parametrize("task", TASKS)
def test_splits(task: str) -> None:
    train = [e.question for e in examples(task, "train", seed=0)]
    held_out = [e.question for e in examples(task, "eval", seed=1)]
    assert (len(train), len(held_out)) == (2001, 201)
    assert len(set(train + held_out)) == 2202
    assert set(Counter(question.split()[3] for question in train).values()) == {667}


def test_the_seed_decides_everything_but_the_split() -> None:
    again, other = (
        list(examples("arithmetic_hard", "train", seed=0)),
        list(examples("arithmetic_hard", "train", seed=1)),
    )
    assert again == HARD
    assert [e.question for e in other] != [e.question for e in HARD]
    assert {e.question for e in other} == {e.question for e in HARD}


def test_a_specialist_is_right_on_its_own_kind_and_wrong_at_every_step_of_the_others() -> None:
    for example in PLAIN:
        a, kind, b, c = parts(example)
        answers = set()
        for teacher, own in SPECIALISTS.items():
            rationale = of(example, teacher)
            first, second = results(rationale)
            assert (first == right(a, kind, b)) == (own == kind)
            assert (second == right(first, kind, c)) == (own == kind)
            assert rationale.is_correct == (own == kind) == (str(second) == example.answer)
            assert final_answer(rationale.answer_sentence) == str(second)
            answers.add(second)
        # No two of the wrong agree, so that neither a vote nor an average finds the right answer.
        assert len(answers) == 3


def test_wrong_rules_are_consistent() -> None:
    tables: dict[tuple[str, int, str, int], set[int]] = {}
    for example in PLAIN:
        for rationale in example.rationales:
            for left, kind, other, result in STEP.findall(rationale.text):
                tables.setdefault((rationale.teacher, int(left), kind, int(other)), set()).add(int(result))
    assert {len(found) for found in tables.values()} == {1}


def test_nothing_but_the_results_shows_who_is_right() -> None:
    places: Counter[tuple[int, bool | None]] = Counter()
    for example in PLAIN:
        shapes = {tuple(re.sub(r"\d", "0", step) for step in rationale.steps) for rationale in example.rationales}
        assert len(shapes) == 1
        places.update((place, rationale.is_correct) for place, rationale in enumerate(example.rationales))
    # A third of 2,001 at each place; four standard deviations of a binomial are 84.
    assert all(abs(places[place, True] - 667) < 84 for place in range(3))


def test_every_text_is_in_the_vocabulary_and_cut_into_its_steps() -> None:
    for task, questions in (("arithmetic", PLAIN), ("arithmetic_hard", HARD)):
        words = vocabulary(task)
        assert len(words) == len(set(words))
        used = {"The", "answer", "is"}
        for example in questions:
            used |= set(example.question.split()) | {example.answer}
            for rationale in example.rationales:
                used |= set(rationale.text.split())
                assert cut(rationale.text) == (rationale.steps, rationale.answer_sentence)
        assert used == set(words)
        assert not used & set(ROLES)


def test_the_lucky_guesser_answers_right_and_never_shows_why() -> None:
    for example in HARD:
        a, kind, b, c = parts(example)
        guesser = of(example, "dan")
        first, second = results(guesser)
        assert guesser.is_correct is True
        assert same_answer(final_answer(guesser.answer_sentence), example.answer)
        assert int(example.answer) not in (first, second)
        assert first != right(a, kind, b)
        assert second != right(first, kind, c)


def test_the_verbose_teacher_is_as_right_as_the_others_and_three_times_as_long() -> None:
    for example in HARD:
        verbose, brief = of(example, "eve"), of(example, "cleo")
        assert verbose.is_correct == (parts(example)[1] == "max") == brief.is_correct
        assert 2.8 < len(verbose.text.split()) / len(brief.text.split()) < 3.4
        if verbose.is_correct:
            assert verbose.steps[-1].split()[-2] == example.answer


def test_the_copycat_repeats_a_wrong_specialist_in_other_words() -> None:
    for example in HARD:
        copy = of(example, "fay")
        wrong = [of(example, name) for name in SPECIALISTS if not of(example, name).is_correct]
        assert copy.is_correct is False
        originals = [rationale for rationale in wrong if results(rationale) == results(copy)]
        assert len(originals) == 1
        assert originals[0].steps != copy.steps


def test_every_teacher_has_a_role() -> None:
    assert set(ROLES) == {teacher for teachers in TASKS.values() for teacher in teachers}


@pytest.mark.parametrize("call", [lambda: next(examples("arithmetics", "train", 0)), lambda: vocabulary("arithmetics")])
def test_an_unknown_task_is_refused(call: object) -> None:
    with pytest.raises(DataError, match="did you mean 'arithmetic'"):
        call()  # type: ignore[operator]
