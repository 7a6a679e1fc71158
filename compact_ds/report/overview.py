"""The run in one line, and the runs in one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compact_ds.report.blocks import Section, table
from compact_ds.report.run_folder import Row, Run


def line(run: Run) -> str:
    """What it was, what came of it, whom it listened to most, what it cost."""
    data, last = run.config["data"], run.steps[-1]
    source = str(data["train"]).rsplit("/", 1)[-1]
    done = f"{len(run.steps):,} steps" + ("" if run.summary else f" of {run.config['max_steps']:,}, not finished")
    parts = [
        f"{run.config['method']} on {source}: {done} of {data['batch_size']} questions by {len(run.teachers)} teachers",
        *_change(run, "accuracy", "accuracy", "{:.1%}"),
        f"loss {run.steps[0]['loss']:.3g} → {last['loss']:.3g} nats a token",
    ]
    means = late_means(run, "weight")
    if len(means) > 1:
        most = max(means, key=lambda teacher: means[teacher])
        parts.append(f"most weight: {most} ({means[most]:.0%})")
    parts.append(f"{_duration(sum(row['step_seconds'] for row in run.steps))} of steps")
    return "; ".join(parts) + "."


def overview(runs: Sequence[Run]) -> Section:
    """A row a run."""
    head = ["run", "method", "seed", "steps", "accuracy before", "accuracy", "answer loss before", "answer loss",
            "weight on right", "seconds"]  # fmt: skip
    rows = [_row(run) for run in runs]
    note = (
        "Accuracy: exact match of greedily generated answers on held-out questions. Answer loss: of the gold answer right "
        "after the question, nats a token. Weight on right: mean share of rationales whose own answer is right, last quarter."
    )
    return Section("overview", "The run" if len(runs) == 1 else "The runs", note, [table("", head, rows)])


def late_means(run: Run, key: str) -> dict[str, float]:
    """Teacher -> mean of a metric over the steps of the last quarter that have it."""
    quarter = run.steps[-max(1, len(run.steps) // 4) :]
    values: dict[str, list[float]] = {}
    for row in quarter:
        for teacher, value in row.get(key, {}).items():
            values.setdefault(teacher, []).append(value)
    return {teacher: sum(found) / len(found) for teacher, found in sorted(values.items())}


def _row(run: Run) -> list[Any]:
    first, last = (run.evaluations[0], run.evaluations[-1]) if run.evaluations else ({}, {})
    quarter = run.steps[-max(1, len(run.steps) // 4) :]
    right = [row["right_share"] for row in quarter if row.get("right_share") is not None]
    return [
        run.name, run.config["method"], str(run.config["seed"]), len(run.steps), first.get("accuracy"), last.get("accuracy"),
        first.get("answer_loss"), last.get("answer_loss"), sum(right) / len(right) if right else None,
        sum(row["step_seconds"] for row in run.steps),
    ]  # fmt: skip


def _change(run: Run, key: str, name: str, form: str) -> list[str]:
    values = [row[key] for row in run.evaluations if row.get(key) is not None]
    if not values:
        return []
    questions: Row = run.evaluations[-1]
    return [f"{name} {form.format(values[0])} → {form.format(values[-1])} of {questions.get('n')} held-out questions"]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
