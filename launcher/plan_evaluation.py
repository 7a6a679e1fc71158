"""What a rank holds while it evaluates: beside what rests, the student once more, whole and plain, and keys and values.

Owns that moment. Logits and what passes through a layer are left out: of a few rows, they are small beside the student.
"""

from __future__ import annotations

from compact_ds.launcher.plan_shape import Shape
from compact_ds.sections import Config


def evaluated_tokens(config: Config, question: int, world_size: int) -> int | None:
    """Tokens of the texts that a rank writes at a time, questions of `question` tokens included; None when none are measured."""
    # Here, because only a plan for a run with held-out questions needs to know of readers.
    from compact_ds.data.readers import held_out

    settings = config.evaluation
    if held_out(config.data) is None:
        return 0 if settings.retention else None
    share = settings.batch_size if settings.limit is None else -(-settings.limit // world_size)
    return min(settings.batch_size, share) * (question + settings.max_new_tokens)


def evaluation(shape: Shape, tokens: int, bytes_each: int) -> dict[str, int]:
    """Bytes of the moment by part; adapters are merged by then."""
    return {
        "whole student": plain(shape) * bytes_each,
        "keys and values": 2 * shape.layers * shape.key * tokens * bytes_each,
    }


def plain(shape: Shape) -> int:
    """Parameters of the student without adapters."""
    return sum(p.numel for p in shape.parameters if shape.lora is None or not p.trained)
