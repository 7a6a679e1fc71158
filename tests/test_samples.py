"""Majorities and figures of samples, by hand."""

from __future__ import annotations

import pytest

from compact_ds.evaluation.samples import figures, majority


def test_the_majority_takes_like_answers_together() -> None:
    assert majority(["12", "7", "$7.00", None, "12.5", "7 apples"]) == 1
    assert majority(["7 apples", "12", "12", "7"]) == 0
    assert majority([None, "b", "a", "a"]) == 2
    assert majority([None, None]) == 0


def test_figures_by_hand() -> None:
    first = [("7", True), ("8", False), ("8", False)]
    second = [("1", False), ("2", True), ("2", True)]
    rows = [{"samples": [{"found": f, "right": r} for f, r in samples]} for samples in (first, second)]
    assert figures(rows) == pytest.approx(
        # pass@1: (1/3 + 2/3) / 2; pass@2: (2/3 + 1) / 2 of the three pairs each.
        {"pass@1": 0.5, "pass@2": 5 / 6, "pass@3": 1.0, "maj@2": 0.5, "maj@3": 0.5}
    )
