"""Config and environment of the runs, and what was left out of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from compact_ds.report.blocks import Block, Section, table, text
from compact_ds.report.run_folder import Run


def settings(runs: Sequence[Run]) -> Section:
    """Where runs differ first, then each run's whole config and its environment."""
    blocks: list[Block] = []
    flat = [_flat(run.config) for run in runs]
    keys = sorted({key for one in flat for key in one})
    differ = [key for key in keys if len({one.get(key, "") for one in flat}) > 1]
    if len(runs) > 1:
        rows = [[key, *(one.get(key, "") for one in flat)] for key in differ]
        blocks.append(table("Where they differ", ["key", *(run.name for run in runs)], rows))
    for run in runs:
        shown = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
        blocks.append(text(f"Config of {run.name}", shown))
    noted = [run for run in runs if run.environment]
    if noted:
        names = sorted({key for run in noted for key in _flat(run.environment)})
        rows = [[name, *(_flat(run.environment).get(name, "") for run in noted)] for name in names]
        blocks.append(table("Environment", ["", *(run.name for run in noted)], rows))
    for run in runs:
        if run.left_out:
            shown = yaml.safe_dump(run.left_out, sort_keys=False, allow_unicode=True)
            rationales = "1 rationale" if len(run.left_out) == 1 else f"{len(run.left_out)} rationales"
            blocks.append(text(f"{rationales} that {run.name} did not train on", shown))
        if unfit := run.summary.get("examples_left_out"):
            title = f"Examples that {run.name} left out: a loss, metric or weight was no number"
            blocks.append(text(title, "\n".join(unfit)))
    return Section("settings", "Config and environment", "", blocks)


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = str(value)
    return found
