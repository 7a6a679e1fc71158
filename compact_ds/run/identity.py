"""What must be the same in all parts of a run and on all its ranks: every setting and content that its updates depend on.

Owns the list of settings that may change, and the wording of a refusal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from compact_ds.engine.ranks import Ranks
from compact_ds.engine.start import given_settings
from compact_ds.errors import ConfigError
from compact_ds.mixer.gradient_mode import Reference
from compact_ds.optimizer_step.reference_sets import ReferenceSet
from compact_ds.optimizer_step.training_set import TrainingSet
from compact_ds.sections import Config

MAY_CHANGE = (
    "run_dir",
    "checkpoint_every",
    "checkpoint_keep",
    "checkpoint_keep_every",
    "checkpoint_failure",
    "texts_every",
    "evaluation",
    # Where data lies. What it holds counts, by hash.
    "data.train",
    "data.eval",
    "data.eval_split",
    "data.cache_dir",
    "data.max_left_out",
    "mixer.retain.train",
    # How memory and time are spent on the same update, to rounding.
    "kernels",
    # Instruments, which see what a run writes and change nothing.
    "callbacks",
    "tree.rows",
    "student.gradient_checkpointing",
    # Limits that end a run or let it begin.
    "student.trust_remote_code",
    "mixer.max_bad",
    "engine.timeout_seconds",
    "engine.heartbeat_seconds",
    # A file, of which the content counts.
    "engine.deepspeed",
)
"""Settings, or whole sections, that a resumed run may have otherwise."""

_SHOWN = 6


def identity(config: Config, data: TrainingSet, references: Mapping[Reference, ReferenceSet]) -> dict[str, Any]:
    """Setting or content by dotted name, as JSON keeps it."""
    settings = flat(config.model_dump(mode="json"))
    kept = {key: value for key, value in settings.items() if not _may_change(key)}
    contents = {f"content of {name}": one.content for name, one in references.items() if one.content}
    given = flat(given_settings(config), "engine.deepspeed: ")
    return kept | given | contents | {"content of data": data.content, "teachers": list(data.teachers)}


def check(was: Mapping[str, Any], now: Mapping[str, Any], checkpoint: str) -> None:
    """Raise ConfigError with the names that differ and both values, when some do."""
    changed = sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
    if changed:
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        shown = changed[:_SHOWN]
        expected = f"{_pairs(was, shown)}{more}, as {checkpoint} was written with"
        raise ConfigError(", ".join(changed), _pairs(now, shown), expected, "give the old values or a new run_dir")


def check_ranks(own: Mapping[str, Any], ranks: Ranks) -> None:
    """Refuse, on all ranks alike, ranks that would train on other data or settings than the first. Raises ConfigError.

    Every rank plans the whole batch from what it has read itself, so a node with an older file or cache would train along
    without a word, on questions that others train on too.
    """
    texts = ranks.gather(json.dumps(own, sort_keys=True))
    stray = next((rank for rank, text in enumerate(texts) if text != texts[0]), None)
    if stray is None:
        return
    first, other = json.loads(texts[0]), json.loads(texts[stray])
    changed = sorted(key for key in first.keys() | other.keys() if first.get(key) != other.get(key))
    remedy = "give every node the same configuration and the same files, and remove older caches (data.cache_dir)"
    shown = changed[:_SHOWN]
    raise ConfigError(
        ", ".join(changed), f"{_pairs(other, shown)} on rank {stray}", f"{_pairs(first, shown)}, as on rank 0", remedy
    )


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return found


def _may_change(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in MAY_CHANGE)


def _pairs(values: Mapping[str, Any], keys: list[str]) -> str:
    return ", ".join(f"{key}={values[key]!r:.60}" if key in values else f"no {key}" for key in keys)
