"""The weights of every teacher over time, with what they come from beneath, a column a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compact_ds.report.blocks import Block, Section, by_run, chart, column, table
from compact_ds.report.charts import binned, lines
from compact_ds.report.overview import late_means
from compact_ds.report.run_folder import Run

_BENEATH = {
    "consensus": ("Consensus C", "share of the way"),
    "adaptability": ("Adaptability A", "nats a token"),
    "difficulty": ("Difficulty D", "nats a token"),
    "token_loss": ("Token loss of the rationale", "nats a token"),
}


def teachers(runs: Sequence[Run], colour: Mapping[str, str]) -> Section:
    """Weight, then the metrics; the rule at an equal share, and where the warm-up ends."""
    note = (
        "Weight: a teacher's mean share over the questions that it answered. Dashed: an equal share, and the end of the "
        "uniform warm-up. Beneath: how much of the others' way a rationale walks (C), how much likelier it makes the gold "
        "answer (A), how far its loss is above what the student manages (D). Choose a teacher in the legend to see it alone."
    )
    return Section(
        "teachers",
        "The teachers over time",
        note,
        [by_run([(run.name, _of_run(run, colour)) for run in runs], len(runs))],
    )


def _of_run(run: Run, colour: Mapping[str, str]) -> list[Block]:
    start = int(run.config.get("compatibility", {}).get("warmup", 0))
    is_shown = 0 < start < len(run.steps)
    equal, found = 1 / len(run.teachers), _rows(run, "weight")
    # From nothing to a little more than what was reached: an even course is no flutter.
    domain = (0.0, min(1.0, max(2 * equal, 1.05 * max(row["value"] for row in found))))
    until = start if is_shown else None
    weight = lines(found, "share", colour, height=240, level=equal, start=until, domain=domain)
    beneath = []
    for key, (title, unit) in {**_BENEATH, **{name: (name, "") for name in run.added}}.items():
        measured = _rows(run, key)
        # A method that has no use for a metric leaves it at zero.
        if any(row["value"] for row in measured):
            named = f"{title}, {unit}" if unit else title
            beneath.append(chart(named, lines(measured, unit or title, colour, height=110, start=until)))
    return [column("", [chart("Weight, share", weight)]), *beneath, _late(run)]


def _rows(run: Run, key: str) -> list[dict[str, Any]]:
    return [
        point
        for teacher in run.teachers
        for point in binned(teacher, [(row["step"], row.get(key, {}).get(teacher)) for row in run.steps])
    ]


def _late(run: Run) -> Block:
    names = ("weight", "weight_right", "weight_wrong", *_BENEATH, *run.added)
    means = {name: late_means(run, name) for name in names}
    head = ["teacher", "weight", "where right", "where wrong", "C", "A", "D", "token loss", *run.added]
    rows = [[teacher, *(means[name].get(teacher) for name in names)] for teacher in run.teachers]
    return table("Means over the last quarter", head, rows)
