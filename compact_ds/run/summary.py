"""`summary.json`: a whole run in one object, for `compare`, the model card and people; `traffic.json` beside it.

Owns the names of its figures. They are read back from the run's own files, so a resumed run has those of all its parts.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from compact_ds.engine.allocator import peak_memory
from compact_ds.run.log import EVALUATIONS, METRICS, read
from compact_ds.sections import Config

SUMMARY = "summary.json"
TRAFFIC = "traffic.json"

_LOG = logging.getLogger("compact_ds")


def write_summary(config: Config, folder: Path) -> dict[str, Any]:
    """Write `summary.json` of a finished run and return what it says. Weights are means over the last quarter of the steps."""
    rows, evaluations = read(folder / METRICS), read(folder / EVALUATIONS)
    quarter = rows[-max(1, len(rows) // 4) :]
    means = {key: _teacher_means(quarter, key) for key in ("weight", "weight_right", "weight_wrong")}
    final: dict[str, Any] = evaluations[-1] if evaluations else {}
    first: dict[str, Any] = evaluations[0] if evaluations and evaluations[0]["step"] == 0 else {}
    result = {
        "method": config.method,
        "seed": config.seed,
        "steps": config.max_steps,
        "accuracy": final.get("accuracy"),
        "accuracy_before": first.get("accuracy"),
        "answer_loss": final.get("answer_loss"),
        "answer_loss_before": first.get("answer_loss"),
        "answer_loss_after_steps": final.get("answer_loss_after_steps"),
        "answer_loss_after_steps_before": first.get("answer_loss_after_steps"),
        "rationale_loss": final.get("rationale_loss"),
        "rationale_loss_before": first.get("rationale_loss"),
        "n": final.get("n"),
        "retention": final.get("retention", {}),
        "retention_before": first.get("retention", {}),
        "examples_left_out": sorted({name for row in rows for name in row.get("examples_left_out", {})}),
        "train_seconds": sum(row["step_seconds"] for row in rows),
        "peak_memory": peak_memory(),
        "right_share": sum(row["right_share"] for row in quarter) / len(quarter),
        **means,
    }
    (folder / SUMMARY).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def write_traffic(traffic: dict[str, Any], folder: Path, world_size: int) -> None:
    """`traffic.json`, what the run's collectives carried, and one line of it for people; no line for a single rank."""
    (folder / TRAFFIC).write_text(json.dumps(traffic, indent=2) + "\n", encoding="utf-8")
    if world_size > 1:
        kinds = ", ".join(
            f"{kind} {size / 2**20:,.2f} MiB ({traffic['bytes_per_step_of_parameters'][kind]:.3f} x parameters)"
            for kind, size in traffic["bytes_per_step"].items()
        )
        _LOG.info("traffic of a step on each rank: %s", kinds)


def _teacher_means(rows: list[dict[str, Any]], key: str) -> dict[str, float]:
    """Mean over steps of a per-teacher metric, where the teacher was there."""
    teachers = sorted({teacher for row in rows for teacher in row[key]})
    values = {t: [row[key][t] for row in rows if t in row[key]] for t in teachers}
    return {t: sum(v) / len(v) for t, v in values.items()}
