"""How well each metric ranks right above wrong rationales within a question, from a file of scores.

`compact-ds score DATA --student MODEL --output SCORES.jsonl`, then `python tests/measure_ranking.py DATA SCORES.jsonl`.
The verdicts of DATA are read here only. Prints the AUC over (right, wrong) pairs of the first and the second half of the
questions, its standard error over questions by bootstrap, and standardised sums of the metrics by their coefficients.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from compact_ds.data.readers import read
from compact_ds.sections import DataConfig

Score = Callable[[list[dict[str, Any]]], list[float]]
"""From the rows of a question to a score of each."""

SUMS = {
    "A + 0.3 C": (0.3, 1.0, 0.0),
    "A + 0.3 C - 0.1 D": (0.3, 1.0, 0.1),
    "A + 0.5 C - 0.3 D": (0.5, 1.0, 0.3),
    "A + C - D": (1.0, 1.0, 1.0),
}


def wins(score: list[float], right: list[bool]) -> tuple[float, int]:
    """Pairs of a question that are ranked rightly, ties half, and pairs."""
    found = [
        (a > b) + (a == b) / 2
        for a, ra in zip(score, right, strict=True)
        for b, rb in zip(score, right, strict=True)
        if ra and not rb
    ]
    return float(sum(found)), len(found)


def auc(questions: list[tuple[float, int]]) -> tuple[float, float]:
    """Share of pairs ranked rightly, and its bootstrap standard error over questions."""
    table = np.array([q for q in questions if q[1]])
    draw = np.random.default_rng(0)
    means = [np.divide(*table[draw.integers(len(table), size=len(table))].sum(0)) for _ in range(500)]
    return float(np.divide(*table.sum(0))), float(np.std(means))


def standardised(signed: tuple[float, ...], spread: dict[str, float]) -> Score:
    """The sum of the metrics of `spread`, each over its spread there, by their signed coefficients."""
    return lambda own: [sum(x * r[n] / spread[n] for x, n in zip(signed, spread, strict=True)) for r in own]


def main(data: str, scores: Path) -> None:
    """Print the table."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in scores.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows[row["id"]].append(row)
    examples = [e for e in read(data, DataConfig(train=data), 0) if e.id in rows]
    right = {e.id: [bool(e.rationales[r["index"]].is_correct) for r in rows[e.id]] for e in examples}
    columns: dict[str, Score] = {
        "consensus": lambda own: [r["consensus"] for r in own],
        "adaptability, total": lambda own: [r["pmi"][-1] if r["pmi"] else 0.0 for r in own],
        "adaptability, jump": lambda own: [max(np.diff([0.0, *r["pmi"]]), default=0.0) for r in own],
        "difficulty": lambda own: [-r["difficulty"] for r in own],
        "loss": lambda own: [-r["token_loss"] for r in own],
        "weight": lambda own: [r["weight"] for r in own],
    }
    names = ("consensus", "adaptability", "difficulty")
    centred = {n: [r[n] - np.mean([x[n] for x in own]) for own in rows.values() for r in own] for n in names}
    spread = {n: float(np.std(values)) for n, values in centred.items()}
    for name, (c, a, d) in SUMS.items():
        columns[name] = standardised((c, a, -d), spread)
    half = len(examples) // 2
    print(f"{len(examples)} questions\n| score | first half | second half |\n|---|---|---|")
    for name, score in columns.items():
        parts = [
            auc([wins(score(rows[e.id]), right[e.id]) for e in part]) for part in (examples[:half], examples[half:])
        ]
        print(f"| {name} | " + " | ".join(f"{value:.4f} ± {error:.4f}" for value, error in parts) + " |")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
