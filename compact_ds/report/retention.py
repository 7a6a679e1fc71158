"""What the student keeps of what it could do before, as far as a run measured it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compact_ds.report.blocks import Block, Section, beside, chart, column
from compact_ds.report.charts import binned, colours, extended, lines
from compact_ds.report.run_folder import Run

_STEPS = {
    "retention_agreement": ("Gradients with the retention batch's", "cosine", 0.0),
    "reference_loss": ("Loss of the retention batch", "nats a token", None),
}


def retention(runs: Sequence[Run], colour: Mapping[str, str]) -> Section:
    """Curves of the retention batch and of retention evaluations, a column a run; empty when no run measured any."""
    columns = [column(run.name, blocks) for run in runs if (blocks := _of_run(run, colour))]
    note = (
        "A negative cosine is forgetting while it happens: the update raises the loss of what the student could do before. "
        "It is measured where mixer.retain names such questions."
    )
    return Section("retention", "Retention", note, [beside(columns)] if columns else [])


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
    keys = sorted({key for row in run.evaluations for key in row if key.startswith(("retention", "kept_"))})
    rows = [
        {"series": key, "step": row["step"], "steps": str(row["step"]), "value": row[key]}
        for key in keys
        for row in run.evaluations
        if isinstance(row.get(key), (int, float))
    ]
    if rows:
        blocks.append(chart("Evaluated", lines(rows, "value", colours(keys), is_sparse=True)))
    return blocks
