"""Two models on the same questions: how far apart they are and whether that can be chance.

Owns the pairing of rows by question. The tests are in `statistics`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compact_ds.errors import DataError
from compact_ds.evaluation.statistics import mcnemar, paired_difference


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows that `eval --output` or a run's `predictions.jsonl` holds. Raises DataError."""
    expected = "JSON objects with `id` and `right`, as eval --output writes them"
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(str(file), str(error), expected, "check the file") from None
    if not rows or not all(isinstance(row, dict) and {"id", "right"} <= row.keys() for row in rows):
        raise DataError(str(file), "rows without them" if rows else "no rows", expected, "check the file")
    return rows


def against(rows: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], where: str) -> dict[str, Any]:
    """`difference` in accuracy (rows less other) with its `interval` by paired bootstrap, `mcnemar_p` by the exact test,
    and the questions that only one of them answers. Raises DataError when the questions are not the same.

    Of several samples the bootstrap compares the shares that are right, McNemar's test the majorities.
    """
    theirs = {row["id"]: row for row in other}
    missing = [row["id"] for row in rows if row["id"] not in theirs]
    if missing or len(theirs) != len(rows):
        found = f"{len(theirs)} questions, {len(missing)} of ours missing {missing[:3]}"
        raise DataError(
            where, found, f"the same {len(rows)} questions", "evaluate both models on the same file and --limit"
        )
    pairs = [(row, theirs[row["id"]]) for row in rows]
    difference, interval = paired_difference([share(a) for a, _ in pairs], [share(b) for _, b in pairs])
    return {
        "difference": difference,
        "interval": list(interval),
        "mcnemar_p": mcnemar([bool(a["right"]) for a, _ in pairs], [bool(b["right"]) for _, b in pairs]),
        "only_this": sum(bool(a["right"]) and not b["right"] for a, b in pairs),
        "only_other": sum(bool(b["right"]) and not a["right"] for a, b in pairs),
        "within_noise": interval[0] <= 0 <= interval[1],
    }


def share(row: Mapping[str, Any]) -> float:
    """How much of a question is answered right: 0 or 1, or the share of its samples."""
    return float(row.get("share_right", row["right"]))
