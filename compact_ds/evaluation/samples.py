"""What several sampled texts of one question say together: the majority's answer, and figures of k samples.

Owns which answers count as the same. Formulas are in `statistics`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compact_ds.data.answers import same_answer
from compact_ds.evaluation.statistics import majority_answer, pass_at_k


def majority(answers: Sequence[str | None]) -> int:
    """Place of the first sample that gives the most frequent answer (arXiv 2203.11171); 0 when no sample has one."""
    alike: list[str | None] = []
    for answer in answers:
        earlier = (other for other in alike if other is not None and answer is not None and _same(answer, other))
        alike.append(next(earlier, answer))
    most = majority_answer(alike)
    return 0 if most is None else alike.index(most)


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over questions of `pass@k` (unbiased, from all samples) and `maj@k` (of the first k), k = 1, 2, 4 .. n and n.

    Each row has `samples` with `found` and `right`; as many in every row.
    """
    num = len(rows[0]["samples"])
    sizes = sorted({num, *(1 << power for power in range(num.bit_length()) if 1 << power <= num)})
    found = {}
    for k in sizes:
        passes = [pass_at_k(num, sum(s["right"] for s in row["samples"]), k) for row in rows]
        found[f"pass@{k}"] = sum(passes) / len(rows)
    for k in sizes[1:]:
        right = [row["samples"][majority([s["found"] for s in row["samples"][:k]])]["right"] for row in rows]
        found[f"maj@{k}"] = sum(right) / len(rows)
    return found


def _same(one: str, other: str) -> bool:
    # A bare number is the same as one with its unit, whichever came first.
    return same_answer(one, other) or same_answer(other, one)
