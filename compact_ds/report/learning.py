"""Loss and accuracy of all runs in the same axes."""

from __future__ import annotations

from collections.abc import Sequence

from compact_ds.report.blocks import Block, Section, beside, chart
from compact_ds.report.charts import binned, colours, lines
from compact_ds.report.run_folder import Run

_EVALUATED = {
    "accuracy": ("Accuracy on held-out questions", "share"),
    "answer_loss": ("Answer loss after the question", "nats a token"),
    "answer_loss_after_steps": ("Answer loss after right steps", "nats a token"),
}
_TRAINED = {
    "loss": ("Weighted training loss", "nats a token"),
    "grad_norm": ("Gradient norm", "before clipping"),
    "lr": ("Learning rate", "a step"),
}


def learning(runs: Sequence[Run]) -> Section:
    """A chart a quantity, a line a run."""
    colour = colours(run.name for run in runs)
    charts: list[Block] = []
    for key, (title, unit) in _EVALUATED.items():
        rows = [
            {"series": run.name, "step": row["step"], "steps": str(row["step"]), "value": row[key]}
            for run in runs
            for row in run.evaluations
            if row.get(key) is not None
        ]
        if rows:
            charts.append(chart(f"{title}, {unit}", lines(rows, unit, colour, is_sparse=True)))
    for key, (title, unit) in _TRAINED.items():
        points = [p for run in runs for p in binned(run.name, [(row["step"], row.get(key)) for row in run.steps])]
        charts.append(chart(f"{title}, {unit}", lines(points, unit, colour)))
    columns = [{"kind": "column", "title": "", "blocks": [one]} for one in charts]
    note = "Training curves are means over consecutive steps where a run has more steps than the picture has room for."
    return Section("learning", "Loss and accuracy", note, [beside(columns)])
