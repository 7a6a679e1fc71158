"""Which teacher wins on which kind of question, over the scored examples.

Owns the kinds. Data sets seldom name any, so they are found: by words of the question that tell who wins, by the length of the
work, and by how many teachers are right.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from compact_ds.report.blocks import Block, Section, by_run, chart, table
from compact_ds.report.charts import heat
from compact_ds.report.run_folder import Run
from compact_ds.report.scoring import Scored, Scores

_WORDS = 8
_LEAST, _FEWEST = 0.05, 5
"""Share and number of the questions that a word must stand in, and be missing from."""
_WORD = re.compile(r"[^\W\d_]{3,}")

Kinds = dict[str, list[Scored]]


def kinds(runs: Sequence[Run], scores: Sequence[Scores], colour: Mapping[str, str]) -> Section:
    """A map of kinds by teachers, and a table of right and wrong winners, a column a run; empty when nothing was scored."""
    shown = [(run.name, _of_run(found, colour)) for run, found in zip(runs, scores, strict=True) if found.examples]
    note = (
        "A teacher wins a question when its rationale has the largest weight there. Words are those whose presence tells most "
        "about who wins (mutual information; in at least five questions and one in twenty). They were found in this very "
        "sample: a lead, not a test."
    )
    return Section("kinds", "Who wins where", note, [by_run(shown, len(runs))] if shown else [])


def kinds_of(examples: Sequence[Scored]) -> Kinds:
    """Kind -> its questions: all, by telling words, by median number of steps, by how many rationales are right."""
    found: Kinds = {"all questions": list(examples)}
    for word in telling_words(examples):
        found[f"“{word}”"] = [one for one in examples if word in _words(one)]
    steps = {id(one): _steps(one) for one in examples}
    middle = sorted(steps.values())[len(examples) // 2] if examples else 0
    found[f"fewer than {middle} steps"] = [one for one in examples if steps[id(one)] < middle]
    found[f"{middle} steps or more"] = [one for one in examples if steps[id(one)] >= middle]
    for one in examples:
        right = sum(one.is_right(index) for index in one.rows)
        name = (
            "all right"
            if right == len(one.rows)
            else "none right"
            if not right
            else f"{right} of {len(one.rows)} right"
        )
        found.setdefault(name, []).append(one)
    ordered = (
        [*list(found)[: -len(late)], *sorted(late)] if (late := [n for n in found if n.endswith("right")]) else found
    )
    # A kind that all questions are of says nothing new.
    return {name: found[name] for name in ordered if name == "all questions" or 0 < len(found[name]) < len(examples)}


def telling_words(examples: Sequence[Scored]) -> list[str]:
    """The words of questions that tell most about the winner, by mutual information; at most eight."""
    winners = [_winner(one) for one in examples]
    words = [_words(one) for one in examples]
    counts = Counter(word for own in words for word in own)
    least = max(_FEWEST, _LEAST * len(examples))
    common = [word for word, count in counts.items() if least <= count <= len(examples) - least]
    told = {word: _information([word in own for own in words], winners) for word in common}
    # Words that stand in the same questions say the same.
    chosen: dict[tuple[bool, ...], str] = {}
    for word in sorted(common, key=lambda word: (-told[word], word)):
        if told[word] > 0:
            chosen.setdefault(tuple(word in own for own in words), word)
    return list(chosen.values())[:_WORDS]


def _information(present: Sequence[bool], winners: Sequence[str]) -> float:
    """Mutual information of presence and winner, nats."""
    n = len(winners)
    joint, left, right = Counter(zip(present, winners, strict=True)), Counter(present), Counter(winners)
    return sum(c / n * math.log(c * n / (left[p] * right[w])) for (p, w), c in joint.items())


def _of_run(scores: Scores, colour: Mapping[str, str]) -> list[Block]:
    found = kinds_of(scores.examples)
    names = [t for t in colour if any(t == r.teacher for one in scores.examples for r in one.example.rationales)]
    rows = [cell for kind, examples in found.items() for cell in _cells(f"{kind} ({len(examples)})", examples, names)]
    tooltip = [
        ("y", "kind"),
        ("x", "teacher"),
        ("label", "wins"),
        ("weight", "mean weight"),
        ("right", "right where it wins"),
    ]
    order = [f"{kind} ({len(examples)})" for kind, examples in found.items()]
    picture = heat(rows, order, names, domain=(0, 1), scheme="blues", tooltip=tooltip)
    return [chart(f"Share of questions won; {scores.source}", picture), _table(scores.examples, names)]


def _cells(name: str, examples: Sequence[Scored], teachers: Sequence[str]) -> list[dict[str, object]]:
    cells: list[dict[str, object]] = []
    for teacher in teachers:
        won = [one for one in examples if _winner(one) == teacher]
        weights = [r["weight"] for one in examples for r in one.rows.values() if r["teacher"] == teacher]
        share = len(won) / len(examples)
        cells.append(
            {"y": name, "x": teacher, "value": share, "label": f"{share:.0%}",
             "weight": sum(weights) / len(weights) if weights else None,
             "right": f"{sum(one.is_right(one.winner) for one in won)} of {len(won)}"}
        )  # fmt: skip
    return cells


def _table(examples: Sequence[Scored], teachers: Sequence[str]) -> Block:
    rows = []
    for teacher in teachers:
        own = [(one, i) for one in examples for i, row in one.rows.items() if row["teacher"] == teacher]
        right = sum(one.is_right(i) for one, i in own)
        wins = sum(one.winner == i for one, i in own)
        wrong_wins = sum(one.winner == i and not one.is_right(i) for one, i in own)
        rows.append([teacher, len(own), f"{right / len(own):.0%}" if own else "", wins, wrong_wins])
    return table("", ["teacher", "rationales", "right", "wins", "wins while wrong"], rows)


def _winner(one: Scored) -> str:
    return one.example.rationales[one.winner].teacher


def _words(one: Scored) -> frozenset[str]:
    return frozenset(_WORD.findall(one.example.question.casefold()))


def _steps(one: Scored) -> int:
    counts = sorted(len(rationale.steps) for rationale in one.example.rationales)
    return counts[len(counts) // 2]
