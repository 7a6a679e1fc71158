"""The rationales at both ends of a step's weights, for people to read.

Owns the choice, among the first rank's questions. How they are shown is `run.texts`'.

Legend: M rationales of this rank's step in the order of its weighing pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from compact_ds.optimizer_step.batches import StepBatches
from compact_ds.tree.tokenise import Ints


@dataclass(frozen=True, slots=True)
class Noted:
    """One rationale in tokens with its weight; `equal` is what it would be, were all rationales of the question alike."""

    id: str
    teacher: str
    weight: float
    equal: float
    prompt_ids: Ints
    ids: Ints


def ends(batches: StepBatches, weight_M: Tensor, teachers: Sequence[str]) -> tuple[Noted, Noted] | None:
    """The most and the least compatible one, by weight over an equal share; None where all are alike.

    A wait for the device: not for every step.
    """
    found: list[Noted] = []
    weights = iter(weight_M.tolist())
    for batch, records in zip(batches.batches, batches.records, strict=True):
        # A teacher counts once however often it answers, as `weights` has it.
        answers = Counter((e, records[e].rationales[r].teacher) for e, r in batch.places_R)
        voices = Counter(e for e, _ in answers)
        for (e, r), weight in zip(batch.places_R, weights, strict=False):
            record, one = records[e], records[e].rationales[r]
            if batch.counts:
                teacher = teachers[one.teacher]
                equal = 1 / (voices[e] * answers[e, one.teacher])
                found.append(Noted(record.id, teacher, weight, equal, record.prompt_ids, one.ids))
    ordered = sorted(found, key=lambda one: one.weight / one.equal)
    if not ordered or ordered[-1].weight / ordered[-1].equal - ordered[0].weight / ordered[0].equal < 1e-6:
        return None
    return ordered[-1], ordered[0]
