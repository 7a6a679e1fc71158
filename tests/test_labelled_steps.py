"""The step cutter against a hundred rationales cut by hand, and its round trip on them and on real data."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from itertools import accumulate
from pathlib import Path

import pytest
from labelled_rationales import LABELLED

from compact_ds.data.steps import cut

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def boundaries(pieces: tuple[str, ...]) -> set[int]:
    """Where one piece ends and the next starts."""
    return set(accumulate(len(piece) for piece in pieces[:-1])) - {0}


def f1(counts: Counter[str]) -> float:
    return 2 * counts["both"] / (counts["found"] + counts["labelled"])


def test_there_are_a_hundred() -> None:
    texts = ["".join(pieces) for _, pieces in LABELLED]
    assert len(texts) == len(set(texts)) == 100


def test_steps_are_cut_where_a_reader_cuts() -> None:
    styles: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for style, pieces in LABELLED:
        steps, answer_sentence = cut("".join(pieces))
        found, labelled = boundaries((*steps, answer_sentence)), boundaries(pieces)
        styles[style].update(both=len(found & labelled), found=len(found), labelled=len(labelled))
    total = sum(styles.values(), Counter())
    assert f1(total) >= 0.97, {style: round(f1(counts), 3) for style, counts in styles.items()}


def test_the_answer_sentence_is_recognised() -> None:
    missed = [pieces for _, pieces in LABELLED if cut("".join(pieces))[1] != pieces[-1]]
    assert len(missed) <= 2, missed


@pytest.mark.parametrize("style", sorted({style for style, _ in LABELLED}))
def test_labelled_texts_are_given_back(style: str) -> None:
    for text in ("".join(pieces) for own, pieces in LABELLED if own == style):
        steps, answer_sentence = cut(text)
        assert "".join(steps) + answer_sentence == text
        assert all(step.strip() for step in steps)


@pytest.mark.skipif(not DATA.is_dir(), reason="the development data is not beside this checkout")
@pytest.mark.parametrize("every", [50, pytest.param(1, marks=pytest.mark.slow)])
def test_every_file_of_rationales_is_given_back(every: int) -> None:
    texts = 0
    for file in sorted(DATA.rglob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines()[::every]:
            for rationale in json.loads(line).get("rationales", []):
                steps, answer_sentence = cut(rationale["text"])
                assert "".join(steps) + answer_sentence == rationale["text"]
                texts += 1
    assert texts > 40_000 / every
