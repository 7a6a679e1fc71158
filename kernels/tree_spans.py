"""Tree attention branch by branch, for devices whose attention computes what a mask forbids.

Owns one idea: in a tree whose branches hang on its root, a branch's keys are the root's and its own. So a row of many trees
takes as many small calls as it has branches, none of which sees another branch or tree: work and mask memory grow with
the tokens, where a mask over the row grows with their square. Whose keys are whose ancestors is `tree_attention`'s.

Legend: B rows, L tokens of a row, H heads, E head size, S query tokens of a span, K its keys.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Attention of [1, H, S, E] to [1, H, K, E] keys and values under a mask [1, 1, S, K]; gives [1, H, S, E]."""


@dataclass(frozen=True, slots=True)
class TreePlace:
    """Where a tree lies: its row, first token, lengths of root and branches, which follow one another, and its leaves.

    `leaves` are the first leaf token and the one after the last; a leaf's ancestors are in its own tree.
    """

    row: int
    start: int
    lengths: tuple[int, ...]
    leaves: tuple[int, int]

    @property
    def stop(self) -> int:
        """The token after the last of the trunk."""
        return self.start + sum(self.lengths)

    def key_runs(self) -> list[tuple[tuple[int, int], ...]]:
        """For root, branches and leaves: the runs of keys (start, stop) that hold all ancestors, the last one its own tokens."""
        cuts = list(itertools.accumulate(self.lengths, initial=self.start))
        root, *branches = itertools.pairwise(cuts)
        return [(root,), *((root, branch) for branch in branches), ((self.start, self.stop), self.leaves)]


def span_masks(
    places: Sequence[TreePlace], sees: Callable[[int, Tensor, Tensor], Tensor], device: torch.device
) -> Masks:
    """The masks of every place's root, branches and leaves; `sees(row, queries_S, keys_K)` tells ancestors, bool [S, K]."""
    found = []
    for place in places:
        own = []
        for runs in place.key_runs():
            keys_K = torch.cat([torch.arange(*run, device=device) for run in runs])
            own.append(sees(place.row, torch.arange(*runs[-1], device=device), keys_K)[None, None])
        found.append(own)
    return found


Masks = list[list[Tensor]]


def trunk_attention(
    query_BHLE: Tensor, key_BHLE: Tensor, value_BHLE: Tensor, num_trunk: int, places: Sequence[TreePlace], masks: Masks,
    attend: Attend,
) -> Tensor:  # fmt: skip
    """Output of the first `num_trunk` tokens of every row, [B, H, T, E]; 0 for padding."""
    rows = []
    for b, row in enumerate(zip(query_BHLE.split(1), key_BHLE.split(1), value_BHLE.split(1), strict=True)):
        mine = [(place, own) for place, own in zip(places, masks, strict=True) if place.row == b]
        used = sum(sum(place.lengths) for place, _ in mine)
        sizes = [*(n for place, _ in mine for n in place.lengths), num_trunk - used, row[0].shape[2] - num_trunk]
        # One split has one backward pass, which writes every gradient once; slices would each write a whole row.
        pieces = list(zip(*(x.split(sizes, dim=2) for x in row), strict=True))
        first, outs = 0, []
        for place, own in mine:
            _, root_key, root_value = pieces[first]
            for i, length in enumerate(place.lengths):
                query, key, value = pieces[first + i]
                if i:
                    key, value = torch.cat((root_key, key), dim=2), torch.cat((root_value, value), dim=2)
                if length:
                    outs.append(attend(query, key, value, own[i]).transpose(1, 2))
            first += len(place.lengths)
        padding = pieces[first][0]
        rows.append(torch.cat([*outs, torch.zeros_like(padding).transpose(1, 2)], dim=1))
    return torch.cat(rows).transpose(1, 2)


@torch.no_grad()
def leaf_attention(
    query_BHLE: Tensor, key_BHLE: Tensor, value_BHLE: Tensor, num_trunk: int, places: Sequence[TreePlace], masks: Masks,
    attend: Attend,
) -> Tensor:  # fmt: skip
    """Output of the tokens behind the trunks, [B, H, P, E], without a gradient; 0 for padding."""
    num_rows, heads, length, size = query_BHLE.shape
    out_BPHE = query_BHLE.new_zeros(num_rows, length - num_trunk, heads, size)
    for place, own in zip(places, masks, strict=True):
        b, leaves = slice(place.row, place.row + 1), slice(*place.leaves)
        if leaves.start == leaves.stop:
            continue
        key, value = (
            torch.cat((x[b, :, place.start : place.stop], x[b, :, leaves]), dim=2) for x in (key_BHLE, value_BHLE)
        )
        out = attend(query_BHLE[b, :, leaves], key, value, own[-1]).transpose(1, 2)
        out_BPHE[b, leaves.start - num_trunk : leaves.stop - num_trunk] = out
    return out_BPHE.transpose(1, 2)
