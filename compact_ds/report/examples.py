"""The browser of examples: every scored question with its rationales, their steps, gains and weights, and its graph.

Owns the browser's data. Texts go in as they are; the page's script shows them as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from compact_ds.compatibility.consensus import graph, mainstream
from compact_ds.compatibility.graph_picture import layout
from compact_ds.report.blocks import Block, Section
from compact_ds.report.run_folder import Row, Run
from compact_ds.report.scoring import Scored, Scores
from compact_ds.tree.build import probed_steps

_LONGEST_NODE = 60


def examples(runs: Sequence[Run], scores: Sequence[Scores]) -> Section:
    """A browser a run, of which the page shows one; empty when nothing was scored."""
    note = (
        "Weights and metrics as the trained student gives them. A step's colour is its gain: how much likelier, in nats per "
        "answer token, it made the gold answer (green) or less likely (red) than the steps before it; ★ is the epiphany, the "
        "step with the largest gain, where one gains at all. The graph: canonical steps and answers, a line a teacher who goes "
        "that way, the mainstream bold."
    )
    blocks = [browser(run, found) for run, found in zip(runs, scores, strict=True) if found.examples]
    missing = [f"{run.name}: {s.source}." for run, s in zip(runs, scores, strict=True) if not s.examples]
    browsers: list[Block] = [{"kind": "examples", "browsers": blocks}] if blocks else []
    return Section("examples", "Examples", " ".join([note, *missing]) if blocks else " ".join(missing), browsers)


def browser(run: Run, scores: Scores) -> dict[str, Any]:
    """One run's browser."""
    return {
        "run": run.name,
        "source": scores.source,
        "items": [_item(one, run.predictions.get(one.example.id), run.added) for one in scores.examples],
    }


def _item(scored: Scored, prediction: Row | None, added: Sequence[str]) -> dict[str, Any]:
    example = scored.example
    said = {"text": prediction["text"], "right": bool(prediction["right"])} if prediction else None
    return {
        "id": example.id,
        "question": example.question,
        "answer": example.answer,
        "said": said,
        "missing": len(example.rationales) - len(scored.rows),
        "rationales": [_rationale(scored, index, added) for index in sorted(scored.rows)],
        "graph": _graph(scored),
    }


def _rationale(scored: Scored, index: int, added: Sequence[str]) -> dict[str, Any]:
    rationale, row = scored.example.rationales[index], scored.rows[index]
    return {
        "teacher": rationale.teacher,
        "steps": [
            {"text": step, "gain": gain}
            for step, gain in zip(rationale.steps, gains(row, rationale.steps), strict=True)
        ],
        "conclusion": rationale.answer_sentence,
        "right": scored.is_right(index),
        "wins": index == scored.winner,
        "epiphany": row["epiphany_step"],
        # A scores file may be older than the metric.
        "added": [[name, row[name]] for name in added if name in row],
        **{key: row[key] for key in ("weight", "consensus", "adaptability", "difficulty", "token_loss")},
    }


def gains(row: Row, steps: Sequence[str]) -> list[float | None]:
    """Nats per answer token that each step added: PMI at its probe less PMI at the one before.

    Where probes skip steps the gain is of the steps since the last probe together, and stands at all of them.
    """
    pmi = row["pmi"]
    found: list[float | None] = [None] * len(steps)
    before, last = 0.0, 0
    for step, value in zip(probed_steps(len(steps), len(pmi)) if pmi else [], pmi, strict=False):
        found[last:step] = [value - before] * (step - last)
        before, last = value, step
    return found


def _graph(scored: Scored) -> dict[str, Any]:
    built = graph(scored.example)
    places = layout(built)
    order = {name: i for i, name in enumerate(built)}
    bold = set(pairwise(mainstream(built)))
    return {
        "nodes": [
            {"text": name[:_LONGEST_NODE], "kind": built.nodes[name]["kind"], "x": places[name][0], "y": places[name][1],
             "teachers": sorted(built.nodes[name]["voices"])}
            for name in built
        ],
        "edges": [
            {"from": order[a], "to": order[b], "teachers": sorted(built.edges[a, b]["voices"]), "bold": (a, b) in bold}
            for a, b in built.edges
        ],
    }  # fmt: skip
