"""Every implementation that the benchmark compares, called through its public interface, all for the same result.

The result: one loss per row and slot, `nll[n, k] = logsumexp(logits[n]) - logits[n, targets[n, k]]`, differentiable with any
upstream gradient per row for the first `grad_rows` rows. Owns what each provider computes, where it runs and why it does
not. An implementation with one target a row is called once per slot; one that cannot tell rows without gradient apart
is called a second time, without a tape, for those: both as a careful user would.

Legend: N rows, K target slots a row, V vocabulary, D hidden size, M rows of one call.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.nn import functional

from compact_ds.errors import UserError, nearest
from compact_ds.kernels.bench_data import Problem
from compact_ds.kernels.choice import Kernels
from compact_ds.kernels.lse_gather import Backward, lse_gather

OneTarget = Callable[[Tensor, Tensor, Tensor, float | None], Tensor]
"""(hidden[M, D], weight[V, D], targets[M], softcap) -> loss[M]; a mean where a provider gives no more."""

AllSlots = Callable[[Tensor, Tensor, Tensor, float | None], Tensor]
"""(hidden[M, D], weight[V, D], targets[M, K], softcap) -> loss[M, K]."""

_TRL_VOCABULARY_CHUNK = 32768  # what TRL's own trainers pass


@dataclass(frozen=True, slots=True)
class Provider:
    """One implementation.

    `flops` are multiples of N*V*D in the forward and in the backward pass of rows that have a gradient: what the algorithm
    does, not what a filter leaves of it. `nll` gives [N, K], or the mean as a scalar where `gives_mean`.
    """

    name: str
    computes: str
    nll: Callable[[Problem], Tensor]
    flops: tuple[int, int] = (2, 6)
    package: str | None = None
    torch_function: str | None = None
    needs_gpu: bool = False
    has_softcap: bool = True
    stores_logits: bool = False
    gives_mean: bool = False

    def reason_to_skip(self, device: str, softcap: float | None, logits_count: int) -> str | None:
        """Why it cannot run there, or None; `logits_count` is rows times vocabulary."""
        if self.needs_gpu and device != "cuda":
            return "needs a GPU"
        if self.package is not None and importlib.util.find_spec(self.package) is None:
            return "not installed: pip install 'compact-ds[bench]'"
        if self.torch_function is not None and not hasattr(functional, self.torch_function):
            return f"this torch has no torch.nn.functional.{self.torch_function}"
        if softcap is not None and not self.has_softcap:
            return "has no softcap"
        needed, free = 12 * logits_count, psutil.virtual_memory().available
        if self.stores_logits and device == "cpu" and needed > free:
            return f"would hold about {needed / 2**30:.1f} GiB of logits; {free / 2**30:.1f} GiB are free"
        return None

    def algorithmic_flops(self, problem: Problem) -> tuple[float, float]:
        """FLOP of the forward and of the backward pass; rows without a gradient cost 2*V*D each."""
        vocabulary, size = problem.weight_VD.shape
        rest = problem.hidden_ND.shape[0] - problem.grad_rows
        forward = self.flops[0] * problem.grad_rows + 2 * rest
        return float(forward * vocabulary * size), float(self.flops[1] * problem.grad_rows * vocabulary * size)


def _ours(problem: Problem, kernels: Kernels, backward: Backward) -> Tensor:
    lse_N, z_NK = lse_gather(
        problem.hidden_ND, problem.weight_VD, problem.targets_NK, softcap=problem.softcap, grad_rows=problem.grad_rows,
        kernels=kernels, backward=backward,
    )  # fmt: skip
    return lse_N[:, None] - z_NK


def _in_two(problem: Problem, call: Callable[[Tensor, Tensor, Tensor], Tensor]) -> list[Tensor]:
    """`call(hidden, weight, targets)` on the rows that have a gradient and, without a tape, on the others, if there are any."""
    split, weight_VD = problem.grad_rows, problem.weight_VD
    if split == len(problem.hidden_ND):  # not a slice: its gradient would be copied into a second buffer
        return [call(problem.hidden_ND, weight_VD, problem.targets_NK)]
    with_gradient = call(problem.hidden_ND[:split], weight_VD, problem.targets_NK[:split])
    with torch.no_grad():  # detached as well: an implementation may go by requires_grad alone
        rest = call(problem.hidden_ND[split:].detach(), weight_VD.detach(), problem.targets_NK[split:])
    return [with_gradient, rest]


def _per_slot(one_target: OneTarget, problem: Problem) -> Tensor:
    """[N, K] in fp32 from one call per slot."""

    def call(hidden_MD: Tensor, weight_VD: Tensor, targets_MK: Tensor) -> Tensor:
        columns = targets_MK.T.contiguous().unbind(0)
        return torch.stack([one_target(hidden_MD, weight_VD, t_M, problem.softcap) for t_M in columns], 1)

    return torch.cat(_in_two(problem, call)).float()


def _mean(one_target: OneTarget, problem: Problem) -> Tensor:
    """The mean over rows and slots, from an implementation that gives means."""

    def call(hidden_MD: Tensor, weight_VD: Tensor, targets_MK: Tensor) -> Tensor:
        columns = targets_MK.T.contiguous().unbind(0)
        means = [one_target(hidden_MD, weight_VD, t_M, problem.softcap) for t_M in columns]
        return torch.stack(means).sum() * len(hidden_MD)

    return torch.stack(_in_two(problem, call)).sum() / problem.targets_NK.numel()


def _plain(rows_of: AllSlots, problem: Problem) -> Tensor:
    def call(hidden_MD: Tensor, weight_VD: Tensor, targets_MK: Tensor) -> Tensor:
        return rows_of(hidden_MD, weight_VD, targets_MK, problem.softcap)

    return torch.cat(_in_two(problem, call))


def _plain_rows(hidden_MD: Tensor, weight_VD: Tensor, targets_MK: Tensor, softcap: float | None) -> Tensor:
    logits_MV = functional.linear(hidden_MD, weight_VD)
    if softcap is not None:
        logits_MV = torch.tanh(logits_MV / softcap) * softcap
    logits_MV = logits_MV.float()
    return torch.stack([functional.cross_entropy(logits_MV, t_M, reduction="none") for t_M in targets_MK.unbind(1)], 1)


@functools.cache
def _compiled_rows() -> AllSlots:
    # fullgraph: a graph break would time eager code under this name.
    return torch.compile(_plain_rows, fullgraph=True, dynamic=False)  # type: ignore[no-any-return, unused-ignore]


def _compiled(problem: Problem) -> Tensor:
    return _plain(_compiled_rows(), problem)


def _torch_lce(
    chunk_rows: dict[str, int] | None, hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, softcap: float | None
) -> Tensor:
    nn: Any = torch.nn  # looked up when called: torch before 2.13 has neither name
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=chunk_rows[hidden_MD.device.type] if chunk_rows else None)
    loss_M: Tensor = nn.functional.linear_cross_entropy(
        hidden_MD, weight_VD, targets_M, reduction="none", options=options
    )
    return loss_M


def _cce(
    filter_eps: str | None, hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, softcap: float | None
) -> Tensor:
    cce: Any = importlib.import_module("cut_cross_entropy")
    loss_M: Tensor = cce.linear_cross_entropy(
        hidden_MD, weight_VD, targets_M, softcap=softcap, reduction="none", filter_eps=filter_eps, impl="cce"
    )
    return loss_M


def _liger(reduction: str, hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, softcap: float | None) -> Tensor:
    liger: Any = importlib.import_module("liger_kernel.transformers.functional")
    loss: Tensor = liger.liger_fused_linear_cross_entropy(
        hidden_MD, weight_VD, targets_M, softcap=softcap, reduction=reduction, accum_dtype=torch.float32
    )
    return loss


def _trl(hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, softcap: float | None) -> Tensor:
    trl: Any = importlib.import_module("trl.kernels")
    chunk = min(_TRL_VOCABULARY_CHUNK, len(weight_VD))
    log_p_M: Tensor = trl.ChunkedLogProbFunction.apply(
        hidden_MD, weight_VD, None, targets_M, 1.0, chunk, softcap, 1.0, ()
    )[0]
    return -log_p_M


def _slots(one_target: Callable[..., Tensor], *fixed: object) -> Callable[[Problem], Tensor]:
    return functools.partial(_per_slot, functools.partial(one_target, *fixed))


PROVIDERS: dict[str, Provider] = {
    provider.name: provider
    for provider in (
        Provider(
            "ours-workspace",
            "per-row losses of all slots in one call; Triton forward; backward through a bounded bf16 workspace and GEMMs",
            functools.partial(_ours, kernels="triton", backward="workspace"),
            needs_gpu=True,
        ),
        Provider(
            "ours-atomic",
            "per-row losses of all slots in one call; Triton forward; fused backward with fp32 atomics, no workspace",
            functools.partial(_ours, kernels="triton", backward="atomic"),
            needs_gpu=True,
        ),
        Provider(
            "ours-torch",
            "per-row losses of all slots in one call; PyTorch, a tile of logits at a time, fp32 inside",
            functools.partial(_ours, kernels="torch", backward="workspace"),
        ),
        Provider(
            "plain",
            "per-row losses; stored logits in the operands' type, then fp32 cross-entropy",
            functools.partial(_plain, _plain_rows),
            flops=(2, 4),
            stores_logits=True,
        ),
        Provider(
            "plain-compiled",
            "as plain, through torch.compile",
            _compiled,
            flops=(2, 4),
            stores_logits=True,
        ),
        Provider(
            "torch-lce",
            "per-row losses, one call per slot; torch.nn.functional.linear_cross_entropy in chunks of 2048 rows (CPU: 256); "
            "losses come in the operands' type",
            _slots(_torch_lce, {"cuda": 2048, "cpu": 256}),
            torch_function="linear_cross_entropy",
            has_softcap=False,
        ),
        Provider(
            "torch-lce-auto",
            "as torch-lce, with the chunk size that torch picks",
            _slots(_torch_lce, None),
            torch_function="linear_cross_entropy",
            has_softcap=False,
        ),
        Provider(
            "cce",
            "per-row losses, one call per slot; cut-cross-entropy as shipped: tiles of small gradient are left out",
            _slots(_cce, "auto"),
            package="cut_cross_entropy",
            needs_gpu=True,
        ),
        Provider(
            "cce-exact",
            "as cce, nothing left out",
            _slots(_cce, None),
            package="cut_cross_entropy",
            needs_gpu=True,
        ),
        Provider(
            "liger",
            "per-row losses, one call per slot; Liger, weight gradient accumulated in fp32; backward recomputes the logits",
            _slots(_liger, "none"),
            package="liger_kernel",
            needs_gpu=True,
        ),
        Provider(
            "liger-mean",
            "NOT the same: only the mean loss under a uniform upstream; Liger computes the gradients in its forward pass",
            functools.partial(_mean, functools.partial(_liger, "mean")),
            flops=(6, 0),
            package="liger_kernel",
            needs_gpu=True,
            gives_mean=True,
        ),
        Provider(
            "trl-chunked",
            "per-row losses, one call per slot; TRL's chunked head: logits of a chunk in the operands' type, gradients in fp32",
            _slots(_trl),
            package="trl",
        ),
    )
}

SLOW_ON_CPU = ("torch-lce-auto",)
"""Left out on a CPU unless named: about ten times slower there than with chunks of 256 rows."""


def providers_named(names: list[str] | None, device: str) -> list[Provider]:
    """The providers by name; by default all of them, less those of SLOW_ON_CPU on a CPU. Raises UserError."""
    if names is None:
        return [p for p in PROVIDERS.values() if device == "cuda" or p.name not in SLOW_ON_CPU]
    for name in names:
        if name not in PROVIDERS:
            raise UserError("--providers", name, "a known provider", nearest(name, PROVIDERS))
    return [PROVIDERS[name] for name in dict.fromkeys(names)]
