"""What the student keeps of what it could do before, as far as a run measured it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from compact_ds.report.blocks import Block, Section, by_run, chart
from compact_ds.report.charts import binned, colours, extended, lines
from compact_ds.report.run_folder import Run

_STEPS = {
    "retention_agreement": ("Gradients with the retention batch's", "cosine", 0.0),
    "reference_loss": ("Loss of the retention batch", "nats a token", None),
}


def retention(runs: Sequence[Run], colour: Mapping[str, str]) -> Section:
    """Curves of the retention batch and of retention evaluations, a column a run; a sentence when no run measured any."""
    found = [(run.name, blocks) for run in runs if (blocks := _of_run(run, colour))]
    if not found:
        note = "Not measured: mixer.retain and evaluation.retention name questions of what the student could do before."
        return Section("retention", "Retention", note, [])
    note = "A negative cosine is forgetting while it happens: the update raises the loss of what the student could do before."
    return Section("retention", "Retention", note, [by_run(found, len(runs))])


def _of_run(run: Run, colour: Mapping[str, str]) -> list[Block]:
    blocks: list[Block] = []
    for key, (title, unit, level) in _STEPS.items():
        names = sorted({name for row in run.steps for name in row.get(key, {})})
        if key == "reference_loss":
            names = [name for name in names if name == "retention"]
        rows = [p for n in names for p in binned(n, [(r["step"], r[key].get(n)) for r in run.steps if r.get(key)])]
        if rows:
            blocks.append(
                chart(
                    f"{title}, {unit}",
                    lines(rows, unit, extended(colour, names), level=level, is_sparse=len(rows) < 60),
                )
            )
    points = [
        {"series": name, "step": row["step"], "steps": str(row["step"]), "value": value}
        for row in run.evaluations
        for name, value in _figures(row.get("retention") or {})
    ]
    for unit in dict.fromkeys(_unit(point["series"]) for point in points):
        own = [point for point in points if _unit(point["series"]) == unit]
        names = sorted({point["series"] for point in own})
        blocks.append(chart(f"Kept abilities, {unit}", lines(own, unit, colours(names), is_sparse=True)))
    return blocks


def _figures(found: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """Figures by their path, whatever is nested in what."""
    for name, value in found.items():
        if isinstance(value, Mapping):
            yield from _figures(value, f"{before}{name}/")
        elif isinstance(value, (int, float)) and name != "n":
            yield f"{before}{name}", float(value)


def _unit(name: str) -> str:
    return name.rsplit("/", 1)[-1]
