"""The micro-batches of one optimizer step on one rank: of all teachers at once, and of some teachers alone.

Owns the split of a step's records over ranks and micro-batches. Every rank works out all shares from lengths alone, so that all
make the same number of passes; the parts that do it are `tree`'s.

Legend: R rationales of a micro-batch, M rationales of this rank's step in the order of its weighing pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compact_ds.engine.ranks import Ranks
from compact_ds.phases import phase
from compact_ds.sections import TreeConfig
from compact_ds.tree.batch import Batch, assemble
from compact_ds.tree.build import Piece, plan_pieces
from compact_ds.tree.plan import MicroBatch, split_into_micro_batches, split_over_ranks
from compact_ds.tree.tokenise import Record


@dataclass(frozen=True, slots=True)
class Alone:
    """A micro-batch of some teachers' rationales without probes; `index_R` finds their weights among the step's [M]."""

    batch: Batch
    index_R: Tensor


class StepBatches:
    """This rank's share of the records of a step, in `batches` that are as many as every other rank's.

    Behind each of them stand `records`, whose places among those of the step are `places`.
    """

    def __init__(
        self, records: Sequence[Record], chosen: Sequence[list[int]], tree: TreeConfig, max_probes: int, ranks: Ranks
    ) -> None:
        """`chosen` are the rationales of each record; there is at least one record a rank."""
        self._records, self._chosen, self._tree, self._ranks = records, chosen, tree, ranks
        pieces = self._pieces(chosen, max_probes)
        self._shares = split_over_ranks([sum(p.num_tokens for p in own) for own in pieces], ranks.world_size)
        plans = self._plans(self._shares, pieces)
        self._mine = plans[ranks.rank]
        made = [(*assemble_plan(plan, records, pieces, tree), list(plan.examples)) for plan in self._mine]
        # The last is the smallest.
        stand_in = (made[-1][0].as_stand_in(), *made[-1][1:])
        missing = max(len(plan) for plan in plans) - len(made)
        batches, kept, places = zip(*made, *itertools.repeat(stand_in, missing), strict=True)
        self.batches: list[Batch] = list(batches)
        self.records: list[list[Record]] = list(kept)
        self.places: list[list[int]] = list(places)

    def alone(self, teachers: Collection[int]) -> list[Alone]:
        """The rationales of `teachers` in trees of their own, on the ranks that weighed them.

        A rank that has none, or fewer micro-batches than another, stands in with one that counts for nothing. One at least, where
        no rank has any, so that there is a gradient of zeros to take.
        """
        own = [
            [r for r in chosen if record.rationales[r].teacher in teachers]
            for record, chosen in zip(self._records, self._chosen, strict=True)
        ]
        pieces = self._pieces(own, 0)
        plans = self._plans([[e for e in share if own[e]] for share in self._shares], pieces)
        number = self._numbers()
        found = []
        for plan in plans[self._ranks.rank]:
            batch, _ = assemble_plan(plan, self._records, pieces, self._tree)
            places = [number[plan.examples[e], r] for e, r in batch.places_R]
            found.append(Alone(batch, torch.tensor(places, dtype=torch.int64)))
        idle = self.batches[-1].as_stand_in()
        stand_in = Alone(idle, torch.zeros(idle.num_rationales, dtype=torch.int64))
        most = max(1, *(len(plan) for plan in plans))
        return found + [stand_in] * (most - len(found))

    def _pieces(self, chosen: Sequence[list[int]], max_probes: int) -> list[list[Piece]]:
        tree = self._tree
        return [
            plan_pieces(record, own, tree.layout, tree.row_tokens, max_probes)
            for record, own in zip(self._records, chosen, strict=True)
        ]

    def _plans(self, shares: list[list[int]], pieces: list[list[Piece]]) -> list[list[MicroBatch]]:
        tree = self._tree
        return [split_into_micro_batches(pieces, share, tree.layout, tree.row_tokens, tree.rows) for share in shares]

    def _numbers(self) -> dict[tuple[int, int], int]:
        """Place in [M] of every (record, rationale) of this rank."""
        places = [
            (plan.examples[e], r)
            for plan, batch in zip(self._mine, self.batches, strict=False)
            for e, r in batch.places_R
        ]
        return {place: i for i, place in enumerate(places)}


def assemble_plan(
    plan: MicroBatch, records: Sequence[Record], pieces: Sequence[Sequence[Piece]], tree: TreeConfig
) -> tuple[Batch, list[Record]]:
    """The tensors of a planned micro-batch, and the records behind its examples."""
    place = {example: i for i, example in enumerate(plan.examples)}
    rows = [[(place[example], piece) for example, piece in row] for row in plan.rows]
    kept = [records[e] for e in plan.examples]
    with phase("tree"):
        return assemble(kept, [pieces[e] for e in plan.examples], rows, tree.layout), kept
