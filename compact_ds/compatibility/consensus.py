"""Consensus C: how much of what the other teachers pass through a rationale passes through too.

Owns the graph of one example (canonical steps and answers, and who passes where), the centrality read from it, and the
reliability of teachers estimated from their agreement over a data set. Works on text alone, offline, once per example;
the gold answer and the source's verdicts are never read. What an answer is and when two are the same is said in
`data.answers`.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import combinations, pairwise

import networkx as nx

from compact_ds.data.answers import final_answer, same_answer
from compact_ds.data.records import Example, Rationale
from compact_ds.data.results import ENUMERATOR, arrives, numbers, results

START = "question"
"""The node from which every teacher sets out."""

PATH_SHARE = 0.5
"""Share of C that the path decides; the answer decides the rest."""

ALIKE = 0.5
"""Prose steps whose content words have at least this Jaccard likeness are one node."""

_WORD = re.compile(r"[^\W\d_]{3,}")
_FUNCTION_WORDS = (
    "the and for are was were with that this these those then than from into not but has have had its their there which"
    " what who when where how will would can could should may might must been being also because since therefore thus"
    " hence answer question correct option choice does did all any some each one our his her him she they them you your"
    " first next finally let"
)
_NO_CONTENT = frozenset(_FUNCTION_WORDS.split())

_FURTHEST = 0.99
"""Reliabilities stay between 1 - this and this, so that odds are finite."""


def graph(example: Example) -> nx.DiGraph[str]:
    """The graph of one example: nodes are canonical steps and answers, edges the order in which teachers pass them.

    A step is the results that its equations state, else its last number, else its content words; numbers that the
    question gives are no step. Every node and edge carries `voices`: teacher -> share of its rationales that pass, so
    that several samples of a teacher are one voice. Nodes carry `kind` (question, step or answer); answers are sinks.
    An answer that no step of its own rationale arrives at is a guess and has no node (`data.results`).
    The attribute `paths` of the graph holds the nodes of each rationale, in the order of the file.
    """
    steps = [_canonical_steps(rationale, numbers(example.question)) for rationale in example.rationales]
    prose = _merge_prose({step for path in steps for step in path if isinstance(step, frozenset)})
    answers = _answer_nodes(example)
    built: nx.DiGraph[str] = nx.DiGraph(paths=[])
    built.add_node(START, kind="question", voices={})
    samples = _samples(example)
    for rationale, path, answer in zip(example.rationales, steps, answers, strict=True):
        names = list(dict.fromkeys(prose[step] if isinstance(step, frozenset) else f"= {step}" for step in path))
        built.add_nodes_from((name for name in names if name not in built), kind="step")
        if answer is not None:
            built.add_node(answer, kind="answer")
        nodes = [START, *names, *([] if answer is None else [answer])]
        built.add_edges_from(pairwise(nodes))
        for passed in (*(built.nodes[n] for n in nodes), *(built.edges[e] for e in pairwise(nodes))):
            voices = passed.setdefault("voices", {})
            voices[rationale.teacher] = voices.get(rationale.teacher, 0.0) + 1 / samples[rationale.teacher]
        built.graph["paths"].append(nodes)
    return built


def consensus(example: Example, reliability: Mapping[str, float] | None = None) -> list[float]:
    """C_k of every rationale, in [0, 1], in the order of the file.

    A teacher supports a rationale by the share of its own way through the graph that the rationale walks too, and by
    giving the same answer; `PATH_SHARE` divides them. The way is counted in edges, not nodes: that two teachers meet at
    a number says little, that they go on from it to the same next one says much. C_k is the mean support of the other
    teachers, 0 without any. With `reliability` (teacher -> probability of being right, see the function) voices count
    by their odds p / (1 - p) and the own voice is one of them, so that a lone rationale has its teacher's share.
    """
    built = graph(example)
    paths: list[list[str]] = built.graph["paths"]
    teachers = sorted(_samples(example))
    voice = (
        dict.fromkeys(teachers, 1.0) if reliability is None else {t: _odds(reliability.get(t, 0.5)) for t in teachers}
    )
    walked: defaultdict[str, float] = defaultdict(float)
    for _, _, voices in built.edges(data="voices"):
        for teacher, share in voices.items():
            walked[teacher] += share
    found = []
    for rationale, path in zip(example.rationales, paths, strict=True):
        heard = [t for t in teachers if reliability is not None or t != rationale.teacher]
        total = sum(voice[t] for t in heard)
        support = sum(voice[t] * _support(built, path, t, walked[t]) for t in heard)
        found.append(min(1.0, support / total) if total else 0.0)
    return found


def reliability(examples: Iterable[Example]) -> dict[str, float]:
    """Each teacher's probability of a right answer, estimated from agreement alone; 0.5 for one who meets no other.

    If teachers err independently and wrong answers seldom coincide, teachers s and t agree at the rate p_s p_t. The p
    are fitted to the observed rates by least squares, weighted by the number of questions: each teacher's to those of
    the others, again and again. Teachers who copy each other look better than they are.
    """
    together: defaultdict[tuple[str, str], float] = defaultdict(float)
    agreed: defaultdict[tuple[str, str], float] = defaultdict(float)
    found: dict[str, float] = {}
    for example in examples:
        shares: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        samples = _samples(example)
        for rationale, answer in zip(example.rationales, _answer_nodes(example), strict=True):
            if answer is not None:
                shares[rationale.teacher][answer] += 1 / samples[rationale.teacher]
        found.update(dict.fromkeys(samples, 0.5))
        for s, t in combinations(sorted(samples), 2):
            together[s, t] += 1
            agreed[s, t] += sum(share * shares[t][answer] for answer, share in shares[s].items())
    for _ in range(100):
        found = {t: _fitted(t, found, together, agreed) for t in found}
    return dict(sorted(found.items()))


def mainstream(built: nx.DiGraph[str]) -> list[str]:
    """The way of most teachers to the answer of most voices, as nodes from START; only START where nobody answers.

    A shortest path: an edge is as long as the log of all voices over its own.
    """
    answers = sorted(name for name, kind in built.nodes(data="kind") if kind == "answer")
    if not answers:
        return [START]
    goal = max(answers, key=lambda name: sum(_voices(built, name).values()))
    everyone = sum(_voices(built, START).values())
    for _, _, edge in built.edges(data=True):
        edge["distance"] = max(0.0, math.log(everyone / sum(edge["voices"].values())))
    found: list[str] = nx.shortest_path(built, START, goal, weight="distance")
    return found


def explain(example: Example) -> str:
    """The mainstream and each rationale's C with its way, step by step: who else goes on from there to the next, as text."""
    built = graph(example)
    lines = [f"{example.id}: {len(_samples(example))} teachers"]
    for name in mainstream(built)[1:]:
        lines.append(f"  {name}  ({', '.join(sorted(_voices(built, name)))})")
    for rationale, value, path in zip(example.rationales, consensus(example), built.graph["paths"], strict=True):
        lines.append(f"  C = {value:.2f}  {rationale.teacher}")
        for edge in pairwise(path):
            others = sorted(set(built.edges[edge]["voices"]) - {rationale.teacher})
            lines.append(f"    {edge[1]}  {', '.join(others) or 'alone'}")
    return "\n".join(lines)


def _fitted(
    teacher: str,
    found: Mapping[str, float],
    together: Mapping[tuple[str, str], float],
    agreed: Mapping[tuple[str, str], float],
) -> float:
    """A better reliability of one teacher, with those of the others as they were found so far."""
    met = [(pair, found[pair[0] if pair[1] == teacher else pair[1]]) for pair in together if teacher in pair]
    if not met:
        return found[teacher]
    fitted = sum(agreed[pair] * p for pair, p in met) / sum(together[pair] * p * p for pair, p in met)
    # The geometric mean with the last value: two teachers alone would swing for ever.
    return _bounded(math.sqrt(fitted * found[teacher]))


def _support(built: nx.DiGraph[str], path: list[str], teacher: str, walked: float) -> float:
    """How far one teacher stands behind a path, in [0, 1]; `walked` is all that it walks itself."""
    shared = sum(built.edges[edge]["voices"].get(teacher, 0.0) for edge in pairwise(path))
    answer = _voices(built, path[-1]).get(teacher, 0.0) if built.nodes[path[-1]]["kind"] == "answer" else 0.0
    return PATH_SHARE * (shared / walked if walked else 0.0) + (1 - PATH_SHARE) * answer


def _voices(built: nx.DiGraph[str], name: str) -> dict[str, float]:
    voices: dict[str, float] = built.nodes[name]["voices"]
    return voices


def _samples(example: Example) -> dict[str, int]:
    """Teacher -> number of its rationales."""
    counts: defaultdict[str, int] = defaultdict(int)
    for rationale in example.rationales:
        counts[rationale.teacher] += 1
    return counts


def _odds(probability: float) -> float:
    bounded = _bounded(probability)
    return bounded / (1 - bounded)


def _bounded(probability: float) -> float:
    return min(_FURTHEST, max(1 - _FURTHEST, probability))


def _canonical_steps(rationale: Rationale, given: set[Fraction]) -> list[Fraction | frozenset[str]]:
    found: list[Fraction | frozenset[str]] = []
    for step in rationale.steps:
        values = results(step)
        if values:
            found += [value for value in values if value not in given]
        elif words := frozenset(_WORD.findall(ENUMERATOR.sub("", step).casefold())) - _NO_CONTENT:
            found.append(words)
    return found


def _merge_prose(steps: set[frozenset[str]]) -> dict[frozenset[str], str]:
    """The node of every prose step: like ones are merged through each other, whatever the order of teachers."""
    ordered = sorted(steps, key=sorted)
    likeness: nx.Graph[frozenset[str]] = nx.Graph()
    likeness.add_nodes_from(ordered)
    likeness.add_edges_from((a, b) for a, b in combinations(ordered, 2) if len(a & b) >= ALIKE * len(a | b))
    named: dict[frozenset[str], str] = {}
    for alike in nx.connected_components(likeness):
        name = " ".join(min(sorted(step) for step in alike))
        named |= dict.fromkeys(alike, name)
    return named


def _answer_nodes(example: Example) -> list[str | None]:
    """The answer node of each rationale: the same for answers that are the same, None without one that its steps reach."""
    given = [(rationale, final_answer(rationale.answer_sentence)) for rationale in example.rationales]
    texts = [text if text is not None and arrives(rationale.steps, text) else None for rationale, text in given]
    distinct = sorted({text for text in texts if text is not None})
    alike: nx.Graph[str] = nx.Graph()
    alike.add_nodes_from(distinct)
    alike.add_edges_from((a, b) for a, b in combinations(distinct, 2) if same_answer(a, b) or same_answer(b, a))
    name = {text: f"answer {min(group)}" for group in nx.connected_components(alike) for text in group}
    return [None if text is None else name[text] for text in texts]
