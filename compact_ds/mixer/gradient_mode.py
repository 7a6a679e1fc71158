"""Gradient mode: one gradient a teacher, as shards, and what becomes of them once their Gram matrix is known to all ranks.

Owns which gradients a step needs, their inner products, and the decision who is left out and how the rest is mixed. The solvers
are `surgery`'s; taking gradients is `passes`' and the engine's.

Legend: V gradients of a step, N elements of this rank's shard, T teachers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from compact_ds.errors import ConfigError, nearest
from compact_ds.mixer.surgery import Floats, coefficients, project_away
from compact_ds.sections import MixerConfig

Reference = Literal["answer", "retention"]
_BLOCK = 1 << 20
_EVERYONE = "all teachers"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A gradient that a step needs: of some teachers' weighted losses, or of a reference batch.

    `updates` says whether it is a part of the update, or only measured (or, for retention, obeyed).
    """

    name: str
    teachers: tuple[int, ...] = ()
    reference: Reference | None = None
    updates: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """`coefficient_V` mixes the gradients of a step; `bad` names those that should have had a say and are not finite."""

    coefficient_V: Floats
    bad: tuple[str, ...]


def groups_of(settings: MixerConfig, teachers: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Teacher indices by group, in the order of the data; a teacher in no group is one of its own. Raises ConfigError."""
    group_of: dict[str, str] = {}
    for group, members in settings.groups.items():
        key = f"mixer.groups.{group}"
        if not members:
            raise ConfigError(key, members, "at least one teacher", "name some or remove the group")
        for teacher in members:
            if teacher not in teachers:
                raise ConfigError(key, teacher, "a teacher of the data", nearest(teacher, teachers))
            if teacher in group_of:
                raise ConfigError(key, teacher, f"a teacher in one group, not in {group_of[teacher]} too", "remove it")
            group_of[teacher] = group
        if group in teachers and group_of.get(group) != group:
            raise ConfigError(key, group, "a name that no teacher outside it has", "rename the group")
    found: dict[str, tuple[int, ...]] = {}
    for i, teacher in enumerate(teachers):
        name = group_of.get(teacher, teacher)
        found[name] = (*found.get(name, ()), i)
    return found


def wanted(
    settings: MixerConfig, groups: dict[str, tuple[int, ...]], references: Sequence[Reference], diagnoses: bool
) -> list[Wanted]:
    """The gradients of one step, those of the update first; one entry means that a plain backward pass will do."""
    by_group = settings.mode == "gradient"
    everyone = Wanted(_EVERYONE, tuple(t for group in groups.values() for t in group), updates=True)
    teachers = [Wanted(name, members, updates=by_group) for name, members in groups.items()]
    found = teachers if by_group else [everyone, *(teachers if diagnoses else ())]
    guards = settings.retain is not None and settings.retain.guard
    for reference in references:
        if diagnoses or (reference == "retention" and guards):
            found = [*found, Wanted(f"{reference} batch", reference=reference)]
    return found


@torch.no_grad()
def local_gram(shards_VN: Tensor) -> Tensor:
    """Inner products of this rank's shards, [V, V] float64; the sum over ranks is that of the whole gradients.

    A gradient with an element that is not finite has such a diagonal.
    """
    gram_VV = torch.zeros(len(shards_VN), len(shards_VN), dtype=torch.float64, device=shards_VN.device)
    for block_VB in shards_VN.split(_BLOCK, dim=1):
        block_VB = block_VB.double()
        gram_VV += block_VB @ block_VB.T
    return gram_VV


def decide(found: Sequence[Wanted], gram_VV: Floats, settings: MixerConfig, draw: np.random.Generator) -> Decision:
    """Leave out what is not finite or zero, mix the rest, and take out what opposes a guarded retention batch."""
    square_V = np.diag(gram_VV)
    updates = [v for v, one in enumerate(found) if one.updates]
    retain = settings.retain if settings.retain is not None and settings.retain.guard else None
    guards = [v for v, one in enumerate(found) if retain is not None and one.reference == "retention"]
    bad = tuple(found[v].name for v in (*updates, *guards) if not np.isfinite(square_V[v]))
    usable = [v for v in updates if np.isfinite(square_V[v]) and square_V[v] > 0]
    coefficient_V = np.zeros(len(found))
    if usable:
        own = np.ix_(usable, usable)
        coefficient_V[usable] = coefficients(settings.solver, gram_VV[own], draw=draw, radius=settings.cagrad_radius)
    for v in guards:
        if retain is not None and np.isfinite(square_V[v]):
            kept = [*usable, v]
            own = np.ix_(kept, kept)
            coefficient_V[kept] = project_away(coefficient_V[kept], gram_VV[own], len(kept) - 1, retain.margin)
    return Decision(coefficient_V, bad)


@torch.no_grad()
def combine(shards_VN: Tensor, coefficient_V: Floats) -> Tensor:
    """`sum_v c_v g_v` of this rank, in the memory of one of the shards, which is overwritten; [N]."""
    used = [int(v) for v in np.flatnonzero(coefficient_V)]
    if not used:
        return shards_VN[0].zero_()
    mixed_N = shards_VN[used[0]]
    if coefficient_V[used[0]] != 1.0:
        mixed_N.mul_(float(coefficient_V[used[0]]))
    for v in used[1:]:
        mixed_N.add_(shards_VN[v], alpha=float(coefficient_V[v]))
    return mixed_N
