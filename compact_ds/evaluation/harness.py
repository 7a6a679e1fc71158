"""Tasks of EleutherAI's lm-evaluation-harness on a student, in this process.

Owns how a student is handed over and which figures come back. Tasks, prompts and metrics are the harness's own; a folder of
task files (`--lm-eval-include`) is searched besides its own, and local tasks ask nothing of a hub.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from compact_ds.engine.precision import remark_imitated_bf16
from compact_ds.errors import UserError, nearest
from compact_ds.launcher.devices import uses_gpu
from compact_ds.sections import StudentConfig
from compact_ds.student.load import DTYPES, load_tokenizer, load_weights


def run_tasks(
    model: str,
    tasks: Sequence[str],
    include: Path | None,
    limit: int | None,
    batch_size: int,
    precision: str | None = None,
) -> dict[str, Any]:
    """`TASK/METRIC` to its figure (with the filter's name where it is not `none`), `TASK/METRIC_stderr` to its standard error.

    `precision` is `fp32` or `bf16`, None what the weights were saved in.
    Raises UserError when the harness is not installed or does not know a task.
    """
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        remedy = "pip install 'compact-ds[lm-eval]'"
        raise UserError("--lm-eval", str(error), "EleutherAI's lm-eval", remedy) from None
    if include is not None and not include.is_dir():
        raise UserError("--lm-eval-include", str(include), "a folder of task files", "check the path")
    manager = TaskManager(include_path=None if include is None else str(include))
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        remedy = nearest(unknown[0], manager.all_tasks)
        raise UserError("--lm-eval", unknown[0], "a task of lm-eval or of --lm-eval-include", remedy)
    device = torch.device("cuda" if uses_gpu() else "cpu")
    lm = load_weights(model, "MODEL", dtype="auto" if precision is None else DTYPES[precision]).to(device).eval()
    remark_imitated_bf16(lm.dtype, device, "--precision fp32")
    student = HFLM(pretrained=lm, tokenizer=load_tokenizer(StudentConfig(model=model)), batch_size=batch_size)
    found = lm_eval.simple_evaluate(
        model=student, tasks=list(tasks), task_manager=manager, limit=limit, log_samples=False, bootstrap_iters=1000
    )
    return _figures(found["results"])


def _figures(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The harness names a figure `metric,filter`."""
    figures = {}
    for task, values in results.items():
        for key, value in values.items():
            if isinstance(value, (int, float)) and "," in key:
                metric, _, chosen = key.partition(",")
                figures[f"{task}/{metric}" + ("" if chosen == "none" else f"/{chosen}")] = value
    return figures
