"""Random packed forests with their parents, and attention over them by its definition in float64."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from compact_ds.kernels.tree_attention import Ancestry

Parents = list[int | None]


def forest(seed: int, rows: int, length: int, num_trunk: int, in_order: bool = False) -> tuple[list[Parents], Ancestry]:
    """(parents[b][i], None for a root; Ancestry): trees among the first `num_trunk` tokens, probes behind hang on them.

    A trunk lies in any layout, or, `in_order`, as a depth-first walk lays it out.
    """
    rng = random.Random(seed)
    parents = [_parents(rng, length, num_trunk, in_order) for _ in range(rows)]
    walks = [_walk(row) for row in parents]
    order, end, depth = (torch.tensor([walk[i] for walk in walks]) for i in range(3))
    return parents, Ancestry(order, end, depth, num_trunk)


def _parents(rng: random.Random, length: int, num_trunk: int, in_order: bool) -> Parents:
    parents: Parents = [None] * length
    path: list[int] = []
    layout = list(range(num_trunk))
    if not in_order:
        rng.shuffle(layout)
    for token in layout:
        while path and rng.random() < 0.45:
            path.pop()
        parents[token] = path[-1] if path else None
        path.append(token)
    for token in range(num_trunk, length):
        behind_a_probe = token > num_trunk and rng.random() < 0.7
        parents[token] = token - 1 if behind_a_probe else rng.randrange(num_trunk)
    return parents


def _walk(parents: Parents) -> tuple[list[int], list[int], list[int]]:
    children: dict[int, list[int]] = {token: [] for token in range(len(parents))}
    for token, parent in enumerate(parents):
        if parent is not None:
            children[parent].append(token)
    order, end, depth = ([0] * len(parents) for _ in range(3))
    place = 0
    roots = [token for token, parent in enumerate(parents) if parent is None]
    waiting = [(root, False) for root in reversed(roots)]
    while waiting:
        token, done = waiting.pop()
        if done:
            end[token] = place
            continue
        order[token], place = place, place + 1
        parent = parents[token]
        depth[token] = 0 if parent is None else depth[parent] + 1
        waiting += [(token, True), *((child, False) for child in reversed(children[token]))]
    return order, end, depth


def ancestors(parents: Parents, token: int | None, window: int | None = None) -> list[int]:
    """The token and those above it, the nearest `window` of them."""
    seen: list[int] = []
    while token is not None and (window is None or len(seen) < window):
        seen.append(token)
        token = parents[token]
    return seen


def naive_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    parents: Sequence[Parents],
    num_trunk: int,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """[B, H, L, E] in the inputs' type, a loop over tokens; outputs from `num_trunk` on carry no gradient."""
    groups = query.shape[1] // key.shape[1]
    scale = query.shape[3] ** -0.5 if scale is None else scale
    rows = []
    for b in range(query.shape[0]):
        tokens = []
        for i in range(query.shape[2]):
            seen = ancestors(parents[b], i, window)
            keys, values = (x[b, :, seen].repeat_interleave(groups, 0) for x in (key, value))
            scores = (query[b, :, i, None] * keys).sum(-1) * scale
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            out = (scores.softmax(-1)[..., None] * values).sum(1)
            tokens.append(out if i < num_trunk else out.detach())
        rows.append(torch.stack(tokens, 1))
    return torch.stack(rows)


def queries_keys_values(
    rows: int, heads: int, groups: int, length: int, size: int, **options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Random [B, H, L, E] and twice [B, G, L, E], strided as a model's projections are."""
    shapes = [(rows, length, h, size) for h in (heads, groups, groups)]
    query, key, value = (torch.randn(shape, **options).transpose(1, 2) for shape in shapes)
    return query, key, value
