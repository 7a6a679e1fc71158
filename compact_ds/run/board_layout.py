"""How TensorBoard lays a run out: its custom scalars, and its settings as hyperparameters.

Owns the layout. Points and when they are written are `log`'s concern.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

PER_TEACHER = {
    "weight": "Weight",
    "adaptability": "Adaptability A, nats",
    "consensus": "Consensus C",
    "difficulty": "Difficulty D, nats",
    "token_loss": "Token loss, nats",
}


def layout(teachers: Sequence[str], added: Sequence[str] = ()) -> dict[str, dict[str, list[Any]]]:
    """For `SummaryWriter.add_custom_scalars`: a chart a metric with all teachers, then a group a teacher with a chart a metric.

    `added` are metrics of the user's own. Tags are regular expressions: teachers that come later stand in the charts of all.
    """
    per_teacher = PER_TEACHER | {name: name for name in added}
    together = {title: ["Multiline", [f"^{key}/.*$"]] for key, title in per_teacher.items()}
    right = {"Weight on right rationales": ["Multiline", ["^train/right_share$", "^weight_right/.*$"]]}
    found: dict[str, dict[str, list[Any]]] = {"Teachers": together | right}
    for teacher in teachers:
        own = {title: ["Multiline", [f"^{key}/{re.escape(teacher)}$"]] for key, title in per_teacher.items()}
        found[f"Teacher {teacher}"] = own
    return found


def hyperparameters(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """A config's values by dotted key, in the kinds that TensorBoard knows; lists as text, nothing for what is not set."""
    found: dict[str, bool | int | float | str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{inner}": leaf for inner, leaf in hyperparameters(value).items()}
        elif value is not None:
            found[key] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return found
