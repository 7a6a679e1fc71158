"""The truth that the benchmark holds every implementation against: float64, by definition, chunk by chunk.

Owns losses of all rows, gradients of a sample of rows and of vocabulary entries, and how errors are stated. Shares no code
with the implementations it judges.

Legend: N rows, K target slots a row, V vocabulary, D hidden size, B rows of a block, R sampled rows, S sampled entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compact_ds.kernels.bench_data import Problem

_ROWS = 1024
_ENTRIES = 8192


@dataclass(frozen=True, slots=True)
class Errors:
    """Against float64: losses in nats; gradients by relative Frobenius norm over the sampled rows.

    Targets and other entries of the vocabulary are told apart because a kernel that skips small gradients is right on the
    first and may be wrong on the second.
    """

    nll_max: float
    nll_mean: float
    grad_hidden: float
    grad_weight_targets: float
    grad_weight_others: float


class Reference:
    """float64 losses of a problem and, for a given upstream gradient, sampled gradients."""

    @torch.no_grad()
    def __init__(self, problem: Problem, sampled_rows: int = 64, sampled_entries: int = 128) -> None:
        self.problem = problem
        device, vocabulary = problem.hidden_ND.device, problem.weight_VD.shape[0]
        self.lse_N = torch.cat([self._lse(block_BD) for block_BD in problem.hidden_ND.split(_ROWS)])
        self.nll_NK = self.lse_N[:, None] - torch.stack([self._z(k) for k in range(problem.targets_NK.shape[1])], 1)
        self.rows_R = _spread(problem.grad_rows, sampled_rows, device)
        used = problem.targets_NK[: problem.grad_rows].unique()
        self.targets_S = used[_spread(len(used), sampled_entries, device)]
        unused_V = torch.ones(vocabulary, dtype=torch.bool, device=device)
        unused_V[used] = False
        others = unused_V.nonzero()[:, 0]
        self.others_S = others[_spread(len(others), sampled_entries, device)]

    @torch.no_grad()
    def errors(self, nll: Tensor, upstream_NK: Tensor, grad_hidden_ND: Tensor, grad_weight_VD: Tensor) -> Errors:
        """Errors of losses [N, K] (or of their mean, for an implementation that gives no more) and of both gradients."""
        truth = self.nll_NK if nll.ndim else self.nll_NK.mean()
        difference = (nll.double() - truth).abs()
        return Errors(
            float(difference.max()),
            float(difference.mean()),
            _relative(grad_hidden_ND[self.rows_R], self._grad_hidden(upstream_NK)),
            _relative(grad_weight_VD[self.targets_S], self._grad_weight(upstream_NK, self.targets_S)),
            _relative(grad_weight_VD[self.others_S], self._grad_weight(upstream_NK, self.others_S)),
        )

    def _logits(self, hidden: Tensor, weight: Tensor) -> Tensor:
        logits = hidden.double() @ weight.double().T
        return self._capped(logits)

    def _capped(self, logits: Tensor) -> Tensor:
        cap = self.problem.softcap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _lse(self, hidden_BD: Tensor) -> Tensor:
        chunks = [self._logits(hidden_BD, chunk).logsumexp(1) for chunk in self.problem.weight_VD.split(_ENTRIES)]
        return torch.stack(chunks).logsumexp(0)

    def _z(self, slot: int) -> Tensor:
        problem = self.problem
        targets_N = problem.targets_NK[:, slot]
        blocks = zip(problem.hidden_ND.split(_ROWS), targets_N.split(_ROWS), strict=True)
        return self._capped(torch.cat([(h.double() * problem.weight_VD[t].double()).sum(1) for h, t in blocks]))

    def _grad_logits(self, logits: Tensor, rows: Tensor | slice, entries: Tensor, upstream_NK: Tensor) -> Tensor:
        """d loss / d logits [rows, entries]: p times the row's upstream, less each slot's at its target (and the cap's slope)."""
        upstream = upstream_NK[rows].double()
        grad = (logits - self.lse_N[rows, None]).exp() * upstream.sum(1, keepdim=True)
        for k in range(upstream.shape[1]):
            is_target = self.problem.targets_NK[rows, k, None] == entries[None, :]
            grad -= upstream[:, k, None] * is_target
        cap = self.problem.softcap
        return grad if cap is None else grad * (1 - (logits / cap).square())

    def _grad_hidden(self, upstream_NK: Tensor) -> Tensor:
        weight_VD, hidden_RD = self.problem.weight_VD, self.problem.hidden_ND[self.rows_R]
        entries_V = torch.arange(len(weight_VD), device=weight_VD.device)
        grad_RD = torch.zeros_like(hidden_RD, dtype=torch.float64)
        for chunk, entries in zip(weight_VD.split(_ENTRIES), entries_V.split(_ENTRIES), strict=True):
            logits = self._logits(hidden_RD, chunk)
            grad_RD += self._grad_logits(logits, self.rows_R, entries, upstream_NK) @ chunk.double()
        return grad_RD

    def _grad_weight(self, upstream_NK: Tensor, entries_S: Tensor) -> Tensor:
        problem = self.problem
        grad_SD = torch.zeros_like(problem.weight_VD[entries_S], dtype=torch.float64)
        for start in range(0, problem.grad_rows, _ROWS):
            rows = slice(start, min(start + _ROWS, problem.grad_rows))
            hidden_BD = problem.hidden_ND[rows]
            logits_BS = self._logits(hidden_BD, problem.weight_VD[entries_S])
            grad_SD += self._grad_logits(logits_BS, rows, entries_S, upstream_NK).T @ hidden_BD.double()
        return grad_SD


def _spread(length: int, count: int, device: torch.device) -> Tensor:
    """At most `count` different indices below `length`, evenly spread, both ends included."""
    return torch.linspace(0, length - 1, min(count, length), dtype=torch.float64, device=device).round().long()


def _relative(found: Tensor, truth: Tensor) -> float:
    # An empty sample (every entry of a small vocabulary is some target) has no error to state.
    return float((found.double() - truth).norm() / truth.norm()) if len(truth) else float("nan")
