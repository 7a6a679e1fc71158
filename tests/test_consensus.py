"""Consensus on hand-made examples, against graph facts by networkx, and measured on real teachers."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compact_ds.compatibility.consensus import START, consensus, explain, graph, reliability
from compact_ds.data.mislead import mislead
from compact_ds.data.records import Example, Rationale
from compact_ds.data.steps import cut

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def example(*rationales: tuple[str, str], question: str = "How many?", answer: str = "9") -> Example:
    made = tuple(Rationale(teacher, *cut(text)) for teacher, text in rationales)
    return Example("e", question, answer, made, "here:1")


def by_number(*rationales: tuple[str, list[int], int]) -> Example:
    """Steps that state numbers, the last one the answer; it is no node, because the question gives it."""
    return example(
        *(
            (t, "".join(f"This makes 1 + 1 = {n}.\n" for n in (*steps, a)) + f"The answer is {a}")
            for t, steps, a in rationales
        ),
        question=f"Which of {' and '.join(str(a) for _, _, a in rationales)} is it?",
    )


def test_an_answer_that_no_own_step_arrives_at_is_no_voice() -> None:
    steps = "3 + 4 = 7.\n7 + 2 = 9.\n"
    guess = example(("ada", f"{steps}The answer is 9"), ("dan", "3 + 4 = 6.\n6 + 2 = 5.\nThe answer is 9"))
    assert graph(guess).graph["paths"][1] == [START, "= 6", "= 5"]
    assert consensus(guess) == [0.0, 0.0]
    assert consensus(example(("ada", f"{steps}The answer is 9"), ("ben", f"{steps}So the answer is $9.00"))) == [
        1.0,
        1.0,
    ]
    # Where the steps or the answer are not about numbers there is nothing to arrive at.
    words = example(("ada", "Rain makes streets wet.\nThe answer is wet"), ("ben", "It pours.\nThe answer is wet"))
    assert consensus(words) == [0.5, 0.5]
    bare = example(("ada", "Rain makes streets wet.\nThe answer is 9"), ("ben", "It pours.\nThe answer is 9"))
    assert consensus(bare) == [0.5, 0.5]


def test_graph_by_hand() -> None:
    built = graph(by_number(("ada", [5, 6], 9), ("ben", [5, 7], 9), ("cleo", [5], 4)))
    assert built.graph["paths"] == [
        [START, "= 5", "= 6", "answer 9"],
        [START, "= 5", "= 7", "answer 9"],
        [START, "= 5", "answer 4"],
    ]
    assert built.nodes["= 5"]["voices"] == {"ada": 1, "ben": 1, "cleo": 1}
    assert built.edges["= 5", "= 6"]["voices"] == {"ada": 1}
    assert {name for name in built if built.out_degree(name) == 0} == {"answer 4", "answer 9"}
    assert built.nodes["answer 9"]["kind"] == "answer" and built.nodes["= 6"]["kind"] == "step"
    assert nx.descendants(built, START) == set(built) - {START}


def test_consensus_by_hand() -> None:
    found = consensus(by_number(("ada", [5, 6], 9), ("ben", [5, 7], 9), ("cleo", [5], 4)))
    # Ada walks one of Ben's three edges and shares his answer, and one of Cleo's two edges without her answer; Ben as
    # Ada; Cleo walks one of three edges of Ada's and of Ben's.
    ada = ((1 / 3 + 1) / 2 + (1 / 2 + 0) / 2) / 2
    cleo = ((1 / 3 + 0) / 2 + (1 / 3 + 0) / 2) / 2
    assert found == pytest.approx([ada, ada, cleo], abs=1e-15)


def test_the_same_text_is_full_consensus_and_a_lone_rationale_none() -> None:
    same = ("It makes 2 + 3 = 5.\nThe answer is 5",)
    assert consensus(example(("ada", *same), ("ben", *same))) == [1.0, 1.0]
    assert consensus(example(("ada", *same))) == [0.0]
    assert consensus(example()) == []


def test_samples_of_one_teacher_are_one_voice_and_do_not_hear_each_other() -> None:
    alone = by_number(*[("ada", [5], 9)] * 5)
    assert consensus(alone) == [0.0] * 5
    once = by_number(("ada", [5], 9), ("ben", [6], 9), ("cleo", [5], 4))
    often = by_number(*[("ada", [5], 9)] * 5, ("ben", [6], 9), ("cleo", [5], 4))
    assert consensus(often)[5:] == pytest.approx(consensus(once)[1:], abs=1e-12)
    assert graph(often).nodes["= 5"]["voices"] == pytest.approx({"ada": 1.0, "cleo": 1.0})


@pytest.mark.parametrize(
    ("step", "nodes"),
    [
        ("He pays $1,200 * 2 = $2,400 and 2400 / 10 = 240.0 a day.", ["= 2400", "= 240"]),
        ("5 * 16 = 5 * 10 + 5 * 6 = 80", ["= 80"]),
        ("290 = 145 \u00d7 3", ["= 3"]),
        ("Step 2: There are 40 apples, not 12.5", ["= 25/2"]),
        ("It drops to 3 - 8 = -5", ["= -5"]),
        ("There are 7 of them", []),
        ("Stars give light", ["give light stars"]),
        ("So the answer is therefore", []),
        ("9" * 6000, []),
    ],
)
def test_canonical_steps(step: str, nodes: list[str]) -> None:
    made = Example("e", "Of 7 things?", "1", (Rationale("ada", (step,), ""),), "here:1")
    assert graph(made).graph["paths"] == [[START, *nodes]]


def test_like_prose_steps_are_one_node() -> None:
    made = example(
        ("ada", "Stars produce their own light.\nThe answer is C"),
        ("ben", "Stars produce light and heat.\nThe answer is C"),
        ("cleo", "Planets circle around suns.\nThe answer is B"),
        answer="C",
    )
    paths = graph(made).graph["paths"]
    assert paths[0] == paths[1] and paths[0][1] != paths[2][1]
    assert consensus(made) == [0.5, 0.5, 0.0]


def test_answers_that_are_the_same_are_one_node() -> None:
    made = example(("ada", "The answer is 1,000"), ("ben", "The answer is $1000.00."), ("cleo", "The answer is 100"))
    assert consensus(made) == [0.5, 0.5, 0.0]


def test_a_rationale_without_an_answer_has_no_answer_support() -> None:
    made = example(("ada", "It makes 2 + 3 = 5."), ("ben", "It makes 2 + 3 = 5."))
    assert consensus(made) == [0.5, 0.5]


STEPS = st.lists(st.integers(0, 4), max_size=4)
RATIONALES = st.lists(st.tuples(st.sampled_from("abcd"), STEPS, st.integers(0, 2)), min_size=1, max_size=6)


@settings(deadline=None)
@given(RATIONALES, st.data())
def test_within_bounds_and_blind_to_order_gold_and_verdicts(
    rationales: list[tuple[str, list[int], int]], data: st.DataObject
) -> None:
    trust = {teacher: 0.1 + 0.2 * i for i, teacher in enumerate("abcd")}
    order = data.draw(st.permutations(range(len(rationales))))
    made, turned = by_number(*rationales), by_number(*(rationales[i] for i in order))
    for weighted in (None, trust):
        found = consensus(made, weighted)
        assert all(0 <= value <= 1 for value in found)
        # Shares of samples are added in the order of the file.
        assert consensus(turned, weighted) == pytest.approx([found[i] for i in order], abs=1e-12)
    judged = tuple(Rationale(r.teacher, r.steps, r.answer_sentence, is_correct=True) for r in made.rationales)
    assert consensus(Example("x", made.question, "77", judged, "there")) == consensus(made)


def test_reliable_voices_count_by_their_odds() -> None:
    made = by_number(("ada", [5], 9), ("ben", [6], 4), ("cleo", [6], 4))
    odds = {"ada": 4.0, "ben": 1.0, "cleo": 0.25}
    found = consensus(made, {"ada": 0.8, "ben": 0.5, "cleo": 0.2})
    total = sum(odds.values())
    assert found == pytest.approx([odds["ada"] / total, 1.25 / total, 1.25 / total], abs=1e-12)


def test_reliability_recovers_independent_teachers() -> None:
    right = {"ada": 0.9, "ben": 0.6, "cleo": 0.3}
    examples = []
    # Every pattern of right and wrong as often as independence says, wrong answers all different.
    for pattern in range(8):
        hits = [bool(pattern >> i & 1) for i in range(3)]
        share = 1000.0
        for hit, p in zip(hits, right.values(), strict=True):
            share *= p if hit else 1 - p
        answers = [1 if hit else 10 + i for i, hit in enumerate(hits)]
        examples += [by_number(*((t, [], a) for t, a in zip(right, answers, strict=True)))] * round(share)
    # 1,000 questions hold the rates of agreement exactly; the fit stops after 100 rounds.
    assert reliability(examples) == pytest.approx(right, abs=1e-3)


def test_reliability_of_few_teachers() -> None:
    assert reliability([by_number(("ada", [], 1))]) == {"ada": 0.5}
    pair = [by_number(("ada", [], 1), ("ben", [], 1 if i < 9 else 2)) for i in range(25)]
    assert reliability(pair) == pytest.approx({"ada": 0.6, "ben": 0.6}, abs=1e-6)
    assert reliability([]) == {}


def test_explain_names_the_mainstream() -> None:
    text = explain(by_number(("ada", [5, 6], 9), ("ben", [5, 6], 9), ("cleo", [5], 4)))
    assert text.splitlines()[:4] == [
        "e: 3 teachers",
        "  = 5  (ada, ben, cleo)",
        "  = 6  (ada, ben)",
        "  answer 9  (ada, ben)",
    ]
    assert "C = 0.17  cleo" in text
    assert text.splitlines()[-2:] == ["    = 5  ada, ben", "    answer 4  alone"]


def read(name: str) -> list[Example]:
    file = DATA / name
    if not file.is_file():
        pytest.skip(f"the development data is not beside the checkout: no {file}")
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        made = [Rationale(r["teacher"], *cut(r["text"]), r.get("is_correct")) for r in row["rationales"]]
        found.append(Example(row["id"], row["question"], row["answer"], tuple(made), name))
    return found


def auc(examples: list[Example], scores: list[list[float]]) -> float:
    """Share of (right, wrong) pairs within a question in which the right one scores higher; a tie is half."""
    won, pairs = 0.0, 0
    for made, score in zip(examples, scores, strict=True):
        for i, j in permutations(range(len(score)), 2):
            if made.rationales[i].is_correct and made.rationales[j].is_correct is False:
                pairs += 1
                won += 0.5 if abs(score[i] - score[j]) < 1e-12 else float(score[i] > score[j])
    return won / pairs


def test_finds_right_rationales_among_four_weak_teachers() -> None:
    examples = read("gsm8k_gpt3/train.jsonl")
    # Measured 0.805 and 0.883; an answer vote reaches 0.763, and 0.888 weighted by reliability.
    assert auc(examples, [consensus(made) for made in examples]) > 0.79
    trust = reliability(examples)
    assert auc(examples, [consensus(made, trust) for made in examples]) > 0.87
    assert sorted(trust, key=trust.__getitem__) == [
        "gpt3-6b-ft",
        "gpt3-175b-ft",
        "gpt3-6b-verifier",
        "gpt3-175b-verifier",
    ]


def test_misleading_teachers_who_disagree_stand_apart() -> None:
    two = []
    for made in read("svamp/train.jsonl")[:200]:
        kept = [Rationale(r.teacher, r.steps, r.answer_sentence, True) for r in made.rationales if r.teacher[0] == "g"]
        two.append(mislead(Example(made.id, made.question, made.answer, tuple(kept), made.where), 2, seed=0))
    # The two kept teachers are right on 99%; measured 0.996 on all 500.
    assert auc(two, [consensus(made) for made in two]) > 0.98
