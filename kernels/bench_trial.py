"""One provider on one input: its passes, and what was found about them.

Owns the order of untimed and timed passes and what happens when an implementation fails. Clocks and counters are in
`bench_measure`, the truth in `bench_reference`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from compact_ds.kernels.bench_data import Problem
from compact_ds.kernels.bench_measure import PeakMemory, Seconds, Stopwatch, gradient_bytes, materialised_bytes
from compact_ds.kernels.bench_providers import Provider
from compact_ds.kernels.bench_reference import Errors, Reference
from compact_ds.kernels.bench_report import FAILED, MEASURED, Row

_MIB = 2**20
_GPU_SECONDS, _MOST_RUNS = 1.0, 200


@dataclass(slots=True)
class Trial:
    """A provider, its input, and what was found so far; `reason` says why it failed."""

    provider: Provider
    problem: Problem
    errors: Errors | None = None
    repeatable: bool | None = None
    peaks: tuple[int | None, int | None] = (None, None)
    runs: list[Seconds] = field(default_factory=list)
    reason: str = ""
    loss: Tensor | None = None
    gradients: tuple[Tensor, ...] = ()

    @property
    def upstream_NK(self) -> Tensor:
        """The gradient of every row's loss: the input's own, or that of the mean where a provider gives no more."""
        problem = self.problem
        if not self.provider.gives_mean:
            return problem.upstream_NK
        uniform_NK = torch.full_like(problem.upstream_NK, 1 / problem.upstream_NK.numel())
        uniform_NK[problem.grad_rows :] = 0.0
        return uniform_NK

    def forward(self) -> None:
        """The losses, with what the backward pass needs."""
        self.loss = self.provider.nll(self.problem)

    def backward(self) -> None:
        """The gradients of hidden states and weight."""
        assert self.loss is not None
        inputs = (self.problem.hidden_ND, self.problem.weight_VD)
        upstream = None if self.provider.gives_mean else self.problem.upstream_NK
        self.gradients = torch.autograd.grad(self.loss, inputs, upstream)

    def drop(self) -> None:
        """Free what the last pass left."""
        self.loss, self.gradients = None, ()


def check(trial: Trial, reference: Reference, memory: PeakMemory) -> None:
    """Two untimed passes: errors against float64 from the first, peak memory and repeatability from the second."""
    trial.forward()
    trial.backward()
    assert trial.loss is not None
    trial.errors = reference.errors(trial.loss.detach(), trial.upstream_NK, *trial.gradients)
    before = _sample(trial, reference)
    trial.drop()

    memory.start()
    trial.forward()
    forward = memory.read()
    memory.forget()
    trial.backward()
    trial.peaks = (forward, memory.read())
    trial.repeatable = all(map(torch.equal, before, _sample(trial, reference)))
    trial.drop()


def time_in_turn(
    trials: Sequence[Trial], watch: Stopwatch, repeats: int, on_gpu: bool, tick: Callable[[], object]
) -> None:
    """Time every trial `repeats` times, one a round, each round beginning with another.

    On a GPU longer, until each has a second of runs or 200 of them.
    """
    rounds = 0
    while alive := [trial for trial in trials if not trial.reason]:
        shortest = min(sum(run.both for run in trial.runs) for trial in alive)
        if rounds >= repeats and not (on_gpu and shortest < _GPU_SECONDS and rounds < _MOST_RUNS):
            return
        first = rounds % len(alive)
        for trial in alive[first:] + alive[:first]:
            guard(trial, partial(_time, trial, watch))
            trial.drop()
            if rounds < repeats:
                tick()
        rounds += 1


def _time(trial: Trial, watch: Stopwatch) -> None:
    trial.runs.append(watch(trial.forward, trial.backward))


def guard(trial: Trial, step: Callable[[], object]) -> None:
    """Run `step`; what it raises becomes the trial's reason, since one failing peer must not cost the others' figures."""
    try:
        step()
    except Exception as error:
        text = " ".join(str(error).split())
        trial.reason = (
            "out of memory" if isinstance(error, torch.OutOfMemoryError) else f"{type(error).__name__}: {text:.200}"
        )
        trial.drop()
    if trial.reason:
        gc.collect()
        if trial.problem.hidden_ND.is_cuda:
            torch.cuda.empty_cache()


def rows_of(trial: Trial, common: Row) -> list[Row]:
    """The trial's rows, one a phase; a single one with the reason where it failed. `common` has the other columns."""
    if trial.reason:
        return [replace(common, status=FAILED, reason=trial.reason)]
    assert trial.errors is not None
    problem, errors = trial.problem, asdict(trial.errors)
    common = replace(
        common,
        status=MEASURED,
        runs=len(trial.runs),
        gradients_mib=gradient_bytes((problem.hidden_ND, problem.weight_VD)) / _MIB,
        logits_mib=materialised_bytes(len(problem.hidden_ND), len(problem.weight_VD), problem.weight_VD.dtype) / _MIB,
        nll_error_max=errors["nll_max"],
        nll_error_mean=errors["nll_mean"],
        grad_hidden_error=errors["grad_hidden"],
        grad_weight_error_targets=errors["grad_weight_targets"],
        grad_weight_error_others=errors["grad_weight_others"],
        repeatable=trial.repeatable,
    )
    flops = trial.provider.algorithmic_flops(problem)
    forward, backward = trial.peaks
    both = None if forward is None or backward is None else max(forward, backward)
    return [
        _phase(common, "forward", [run.forward for run in trial.runs], flops[0], forward),
        _phase(common, "backward", [run.backward for run in trial.runs], flops[1], backward),
        _phase(common, "both", [run.both for run in trial.runs], sum(flops), both),
    ]


def _phase(common: Row, phase: str, seconds: list[float], flops: float, peak: int | None) -> Row:
    low, median, high = (float(x) for x in np.percentile(seconds, (20, 50, 80)))
    return replace(
        common,
        phase=phase,
        median_ms=median * 1e3,
        p20_ms=low * 1e3,
        p80_ms=high * 1e3,
        tflops=flops / median / 1e12 if flops else None,  # a pass that multiplies nothing has no rate
        peak_mib=None if peak is None else peak / _MIB,
    )


def _sample(trial: Trial, reference: Reference) -> tuple[Tensor, ...]:
    assert trial.loss is not None
    grad_hidden_ND, grad_weight_VD = trial.gradients
    entries = torch.cat((reference.targets_S, reference.others_S))
    return trial.loss.detach().clone(), grad_hidden_ND[reference.rows_R], grad_weight_VD[entries]
