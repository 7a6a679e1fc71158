"""Settings of `data`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from compact_ds.sections.section import Section


class DataConfig(Section):
    """Where questions and rationales come from, and how many make a step."""

    train: str
    """A JSONL file in the project's schema, a `datasets` path or hub id, or `task:NAME` for a built-in task."""
    eval: str | None = None
    """Held-out questions, same forms as `train`; a built-in task brings its own when this is empty."""
    split: str = "train"
    """Split to take when `train` is a `datasets` path or id."""
    eval_split: str = "test"
    """Split to take when `eval`, or one of `evaluation.retention`, is a `datasets` path or id."""
    fields: dict[str, str] = Field(default_factory=dict)
    """Field map for sources with other names: schema field -> their field, for example `{answer: solution}`."""
    batch_size: int = Field(24, ge=1)
    """Questions per optimizer step, over all ranks and micro-batches. Must be a multiple of the world size."""
    cue: str = "\nThe answer is "
    """Text between a prefix of a rationale and the gold answer in a probe. In generated text the answer is looked for where a
    rationale's own is ("the answer is", `####`, a box), whatever the cue."""
    limit: int | None = Field(None, ge=1)
    """Use only the first so many training questions."""
    mislead: int = Field(0, ge=0, le=4)
    """Add so many misleading teachers by rule (a fluent rationale with another operation) to two-number word problems."""
    teachers: list[str] | None = None
    """Keep only these teachers; empty keeps all."""
    max_steps: int | None = Field(64, ge=1)
    """Most steps of a rationale; of a longer chain adjacent steps are merged, the text stays. Empty merges none."""
    max_left_out: float = Field(0.01, ge=0, le=1)
    """Largest share of rationales that may be left out (too long, no answer) before the run refuses to start, and of examples
    (a loss, metric or weight is no number) before it stops."""
    cache_dir: Path | None = None
    """Folder of the tokenised Arrow cache; empty means `~/.cache/compact_ds`."""
