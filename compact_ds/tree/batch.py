"""From built pieces to the tensors of one micro-batch.

Owns the layout that the student computes on: all trunks of a row first, all probes of all rows behind them, so that one
number (`num_trunk`) parts tokens that train from tokens that only measure. Also owns the bookkeeping that leads from rows
of the head back to examples, rationales and probes.

Legend: B rows, L tokens of a row, N rows of the head, X examples, R rationales (sorted by example), P probes (sorted by
rationale, then step; the questions' own probes are apart), S segments of head rows = R, then X when probed, then P.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from compact_ds.kernels.segment_scores import ScorePlan, plan_scores
from compact_ds.kernels.tree_spans import TreePlace
from compact_ds.tree.build import ROOT, Piece, TokenTree, build
from compact_ds.tree.plan import Row
from compact_ds.tree.tokenise import Record

Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Batch:
    """A micro-batch. Index tensors are int64; `index_N` counts tokens of the flattened [B, L]."""

    layout: Literal["tree", "rows"]
    ids_BL: Tensor
    positions_BL: Tensor
    order_BL: Tensor
    end_BL: Tensor
    num_trunk: int
    index_N: Tensor
    target_N: Tensor
    num_grad: int
    plan: ScorePlan
    num_probes: int
    example_R: Tensor
    teacher_R: Tensor
    consensus_R: Tensor
    right_R: Tensor
    rationale_P: Tensor
    step_P: Tensor
    places_R: tuple[Place, ...]
    places: tuple[TreePlace, ...] = ()
    counts: bool = True
    """False for a stand-in that only keeps this rank in step with the others: its weights are zero."""

    @property
    def num_examples(self) -> int:
        """Number of examples, X."""
        return self.places_R[-1][0] + 1

    @property
    def tokens_R(self) -> Tensor:
        """Number of trained tokens of each rationale, [R]."""
        return self.plan.offsets_S1[: self.num_rationales + 1].diff()

    @property
    def num_rationales(self) -> int:
        """Number of rationales, R."""
        return len(self.places_R)

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on a device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {k: v.to(device, non_blocking=True) for k, v in moved.items() if isinstance(v, Tensor)}
        return replace(self, **moved, plan=self.plan.to(device))

    def as_stand_in(self) -> Batch:
        """The same tensors, counting for nothing."""
        return replace(self, counts=False)


def assemble(
    records: Sequence[Record], pieces: Sequence[Sequence[Piece]], rows: Sequence[Row], layout: Literal["tree", "rows"]
) -> Batch:
    """The tensors of the given rows; pieces in `rows` are (position in `records`, piece of it).

    Every record's pieces must be among the rows.
    """
    trees = [[build(records[e], pieces[e][p], layout) for e, p in row] for row in rows]
    num_trunk = max(sum(t.num_trunk for t in row) for row in trees)
    num_leaf = max(sum(len(t.ids_T) - t.num_trunk for t in row) for row in trees)
    grid = _Grid(len(rows), num_trunk, num_trunk + num_leaf)
    head: dict[tuple[int, int, int], tuple[np.ndarray, np.ndarray]] = {}
    for b, (row, built) in enumerate(zip(rows, trees, strict=True)):
        for (e, _), tree in zip(row, built, strict=True):
            head.update(_head_rows(tree, e, grid.place(b, tree)))
    return _batch(records, head, grid, layout)


class _Grid:
    """The [B, L] arrays while they fill; untouched tokens see only themselves."""

    def __init__(self, num_rows: int, num_trunk: int, length: int) -> None:
        self.num_trunk, self.length = num_trunk, length
        self.columns = np.zeros((3, num_rows, length), dtype=np.int64)
        self.end = np.zeros((num_rows, length), dtype=np.int64)
        # Padding is ordered after every token and ends at once: no token sees it and it sees itself.
        self.columns[2] = np.arange(length) + length
        self.end[:] = np.arange(length) + length + 1
        self.places: list[TreePlace] = []
        self.trunk_used, self.leaf_used, self.order_used = ([0] * num_rows for _ in range(3))

    def place(self, b: int, tree: TokenTree) -> np.ndarray:
        """Write a tree into row b; the place of each of its tokens in the flattened grid."""
        num_leaf = len(tree.ids_T) - tree.num_trunk
        start, leaf = self.trunk_used[b], self.num_trunk + self.leaf_used[b]
        self.places.append(TreePlace(b, start, tree.lengths, leaf, tree.leaf_lengths))
        at = np.concatenate((start + np.arange(tree.num_trunk), leaf + np.arange(num_leaf)))
        self.columns[:, b, at] = tree.ids_T, tree.positions_T, tree.order_T + self.order_used[b]
        self.end[b, at] = tree.end_T + self.order_used[b]
        self.trunk_used[b] += tree.num_trunk
        self.leaf_used[b] += num_leaf
        self.order_used[b] += len(tree.ids_T)
        return b * self.length + at


def _head_rows(
    tree: TokenTree, example: int, at: np.ndarray
) -> dict[tuple[int, int, int], tuple[np.ndarray, np.ndarray]]:
    """Head rows by (kind, ...) in the order the batch wants: rationales (0, e, r), questions (1, e, 0), probes (2 + ...)."""
    found, start = {}, 0
    for segment in tree.segments:
        rows = slice(start, start + segment.num_rows)
        start = rows.stop
        if segment.probe_step is None:
            key = (0, example, segment.rationale)
        elif segment.rationale == ROOT:
            key = (1, example, 0)
        else:
            # One number orders probes of an example by rationale, then step.
            key = (2, example, segment.rationale << 32 | segment.probe_step)
        found[key] = at[tree.row_N[rows]], tree.target_N[rows].astype(np.int64)
    return found


def _batch(
    records: Sequence[Record],
    head: dict[tuple[int, int, int], tuple[np.ndarray, np.ndarray]],
    grid: _Grid,
    layout: Literal["tree", "rows"],
) -> Batch:
    keys = sorted(head)
    places = tuple((e, r) for kind, e, r in keys if kind == 0)
    number = {place: i for i, place in enumerate(places)}
    probes = [(number[(e, code >> 32)], code & 0xFFFFFFFF) for kind, e, code in keys if kind == 2]
    rationales = [records[e].rationales[r] for e, r in places]
    lengths = [len(head[key][0]) for key in keys]
    return Batch(
        layout=layout,
        ids_BL=torch.from_numpy(grid.columns[0]),
        positions_BL=torch.from_numpy(grid.columns[1]),
        order_BL=torch.from_numpy(grid.columns[2]),
        end_BL=torch.from_numpy(grid.end),
        num_trunk=grid.num_trunk,
        index_N=torch.from_numpy(np.concatenate([head[key][0] for key in keys])),
        target_N=torch.from_numpy(np.concatenate([head[key][1] for key in keys])),
        num_grad=sum(lengths[: len(places)]),
        plan=_plan(lengths, [e for e, _ in places], [r for r, _ in probes]),
        num_probes=len(keys) - len(places),
        example_R=torch.tensor([e for e, _ in places]),
        teacher_R=torch.tensor([r.teacher for r in rationales]),
        consensus_R=torch.tensor([r.consensus for r in rationales], dtype=torch.float32),
        right_R=torch.tensor([r.answer_right if r.verdict < 0 else r.verdict for r in rationales], dtype=torch.float32),
        rationale_P=torch.tensor([r for r, _ in probes], dtype=torch.int64),
        step_P=torch.tensor([s for _, s in probes], dtype=torch.int64),
        places_R=places,
        places=tuple(grid.places) if layout == "tree" else (),
    )


def _plan(lengths: list[int], example_R: list[int], rationale_P: list[int]) -> ScorePlan:
    """Segments of head rows as `keys` orders them; each rationale's probes are a chain that starts from its question's."""
    num_rationales, num_gold = len(example_R), len(lengths) - len(example_R)
    offsets_S1 = torch.tensor([0, *np.cumsum(lengths)])
    if not num_gold:
        return plan_scores(int(offsets_S1[-1]), 1, offsets_S1)
    first_probe = len(lengths) - len(rationale_P)
    return plan_scores(
        int(offsets_S1[-1]),
        1,
        offsets_S1,
        base_C=torch.tensor(example_R) + num_rationales,
        chain_C1=first_probe + torch.from_numpy(np.searchsorted(rationale_P, np.arange(num_rationales + 1))),
    )
