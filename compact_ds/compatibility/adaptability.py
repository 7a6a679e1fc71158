"""Adaptability A: what a rationale does for the student's belief in the gold answer, measured by the probes.

Owns pointwise mutual information, its two summaries and the epiphany. Does not place probes (`tree`) or score them.
Legend: `segments`. All results are float64 and carry no gradient.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from compact_ds.compatibility.segments import maxima, sums

Kind = Literal["total", "jump", "mix"]


@torch.no_grad()
def pmi(gold_P: Tensor, rationale_P: Tensor, gold0_R: Tensor) -> Tensor:
    """PMI_k[s] = g_k[s] - g[0] of every probe, nats per answer token, [P].

    `gold_P` is g_k[s], the mean log-likelihood of the gold answer's tokens after the probe's prefix; `gold0_R` is g[0]
    of the rationale's question; `rationale_P` the rationale of each probe.
    """
    return gold_P.double() - gold0_R.double()[rationale_P]


@torch.no_grad()
def adaptability(gold_P: Tensor, rationale_P: Tensor, gold0_R: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """A_k in nats per answer token [R], and the index into P of the probe with the largest rise [R].

    `total` is the PMI at the last probe, `jump` the largest rise between consecutive probes, the first of which is
    compared with g[0], and `mix` their mean. The epiphany is the first probe that reaches the largest rise, whatever
    `kind` is. A rationale without probes has A = 0 and epiphany -1. Arguments as in `pmi`.
    """
    num_R = gold0_R.shape[0]
    pmi_P = pmi(gold_P, rationale_P, gold0_R)
    first_P, last_P = _ends(rationale_P)
    before_P = torch.where(first_P, 0.0, pmi_P.roll(1))
    rise_P = pmi_P - before_P
    total_R = sums(torch.where(last_P, pmi_P, 0.0), rationale_P, num_R)
    largest_R = maxima(rise_P, rationale_P, num_R)
    epiphany_R = _first_where(rise_P == largest_R[rationale_P], rationale_P, num_R)
    if kind == "total":
        return total_R, epiphany_R
    jump_R = torch.where(torch.isneginf(largest_R), 0.0, largest_R)
    return (jump_R if kind == "jump" else (total_R + jump_R) / 2), epiphany_R


def _ends(rationale_P: Tensor) -> tuple[Tensor, Tensor]:
    """Whether a probe is the first, and the last, of its rationale; both [P]."""
    edge_1 = rationale_P.new_full((1,), -1)
    first_P = rationale_P != torch.cat([edge_1, rationale_P])[:-1]
    last_P = rationale_P != torch.cat([rationale_P, edge_1])[1:]
    return first_P, last_P


def _first_where(found_P: Tensor, rationale_P: Tensor, num_R: int) -> Tensor:
    """Smallest index into P where `found_P` holds, for each rationale; -1 where it never does; [R]."""
    num_P = found_P.shape[0]
    index_P = torch.where(found_P, torch.arange(num_P, device=found_P.device), num_P)
    smallest_R = index_P.new_full((num_R,), num_P).scatter_reduce(0, rationale_P, index_P, "amin")
    return torch.where(smallest_R == num_P, -1, smallest_R)
