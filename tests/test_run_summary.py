"""`summary.json` from a run's own files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compact_ds import config
from compact_ds.run.summary import write_summary


@pytest.mark.parametrize(("first", "before"), [(0, 0.25), (4, None)])
def test_before_is_the_untrained_student_alone(tmp_path: Path, first: int, before: float | None) -> None:
    """A run whose `evaluation.before` is off has no figure of it, and no later one stands in."""
    rows = [{"step": s, "step_seconds": 1.0, "right_share": 0.5, "weight": {}, "weight_right": {}, "weight_wrong": {}}
            for s in range(8)]  # fmt: skip
    rows[2] |= {"examples_left_out": {"q7": 1.0, "q2": 1.0}}
    rows[5] |= {"examples_left_out": {"q2": 1.0}}
    kept = {"c/test": {"accuracy": 0.5, "n": 4}}
    evaluations = [{"step": first, "accuracy": 0.25, "retention": kept}, {"step": 8, "accuracy": 0.75, "retention": {}}]
    for name, lines in (("metrics", rows), ("evaluations", evaluations)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = write_summary(config.load("arithmetic", [f"run_dir={tmp_path}"]), tmp_path)
    assert (found["accuracy"], found["accuracy_before"]) == (0.75, before)
    assert found["examples_left_out"] == ["q2", "q7"]
    assert found["retention_before"] == (kept if before is not None else {})
    assert json.loads((tmp_path / "summary.json").read_text()) == found
