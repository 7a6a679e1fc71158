"""What the runs of a comparison say question by question: intervals of accuracy, differences between methods, what was lost.

Owns how a method's seeds are pooled: each question's value is the mean over the seeds, and questions are drawn again. Reads what
runs write; the formulas are in `statistics`.

Legend: Q questions.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compact_ds.evaluation.paired import read_rows, share
from compact_ds.evaluation.retention import drops
from compact_ds.evaluation.statistics import interval, mcnemar, paired_difference

Answers = Mapping[str, Sequence[Mapping[str, float]]]
"""By method, of each seed by question: 1 when right, 0 when not, or the share of its samples."""


def answers_of(results: Sequence[Mapping[str, Any]]) -> Answers:
    """From the runs' `predictions.jsonl`; a run without one has no say."""
    found: dict[str, list[Mapping[str, float]]] = {}
    for result in results:
        file = Path(result["run_dir"]) / "predictions.jsonl"
        if file.is_file():
            found.setdefault(result["method"], []).append({row["id"]: share(row) for row in read_rows(file)})
    return found


def pooled(seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over seeds of each question that all of them answered."""
    common = set(seeds[0]).intersection(*seeds[1:])
    return {name: statistics.fmean(own[name] for own in seeds) for name in sorted(common)}


def intervals(answers: Answers) -> dict[str, tuple[float, float]]:
    """The 95 % bootstrap interval of each method's mean accuracy, over questions."""
    pools = {method: pooled(seeds) for method, seeds in answers.items()}
    return {method: interval(list(pool.values())) for method, pool in pools.items() if pool}


def differences(answers: Answers, reference: str) -> list[dict[str, Any]]:
    """Each other method less the reference on the same questions: `difference`, its `interval`, `within_noise`.

    With one seed each also `mcnemar_p`. Within noise means that the 95 % interval holds 0. It tells the questions drawn from
    others like them; how much another seed would change is the spread over seeds.
    """
    if reference not in answers:
        return []
    found = []
    theirs = pooled(answers[reference])
    for method, seeds in answers.items():
        ours = pooled(seeds)
        common = [name for name in ours if name in theirs]
        if method == reference or not common:
            continue
        one_Q, other_Q = [ours[name] for name in common], [theirs[name] for name in common]
        difference, (low, high) = paired_difference(one_Q, other_Q)
        row: dict[str, Any] = {"method": method, "reference": reference, "n": len(common), "difference": difference}
        row |= {"interval": [low, high], "within_noise": low <= 0 <= high}
        if len(seeds) == len(answers[reference]) == 1 and {*one_Q, *other_Q} <= {0.0, 1.0}:
            row["mcnemar_p"] = mcnemar([value == 1 for value in one_Q], [value == 1 for value in other_Q])
        found.append(row)
    return found


def sentences(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The differences in words."""
    lines = []
    for row in found:
        low, high = row["interval"]
        verdict = "within noise" if row["within_noise"] else "beyond noise"
        test = f", McNemar p {row['mcnemar_p']:.3f}" if "mcnemar_p" in row else ""
        lines.append(
            f"{row['method']} less {row['reference']}: {row['difference']:+.3f} [{low:+.3f}, {high:+.3f}] on {row['n']} "
            f"questions, {verdict}{test}"
        )
    return lines


def retention_drops(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By method, what was lost on each retention file, mean over seeds (see `retention.drops`).

    A run that did not measure the untrained student takes the figures of one that did: they start from the same.
    """
    before: Mapping[str, Any] = next((r["retention_before"] for r in results if r.get("retention_before")), {})
    lost: dict[str, list[dict[str, float]]] = {}
    for result in results:
        own = drops(result.get("retention_before") or before, result.get("retention") or {})
        if own:
            lost.setdefault(result["method"], []).append(own)
    return {
        method: {name: statistics.fmean(own[name] for own in runs if name in own) for name in runs[0]}
        for method, runs in lost.items()
    }
