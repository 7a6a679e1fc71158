"""How often the benchmark runs each of its providers, and what a failing one does to the others."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from compact_ds.kernels.bench_data import Problem, make_problem
from compact_ds.kernels.bench_measure import Seconds, Stopwatch
from compact_ds.kernels.bench_providers import PROVIDERS, Provider
from compact_ds.kernels.bench_shapes import Shape
from compact_ds.kernels.bench_trial import Trial, guard, time_in_turn


def tiny_problem() -> Problem:
    return make_problem(Shape("tiny", 300, 16), 40, 1, torch.float32, "cpu", "peaked", 40, None)


def test_every_trial_is_timed_as_often_and_a_failing_one_stops() -> None:
    def fail(problem: Problem) -> torch.Tensor:
        raise RuntimeError("no\nsuch kernel")

    problem = tiny_problem()
    sound, failing = Trial(PROVIDERS["plain"], problem), Trial(Provider("failing", "", fail), problem)
    ticks: list[None] = []
    time_in_turn([sound, failing], Stopwatch("cpu"), 3, False, lambda: ticks.append(None))
    assert len(sound.runs) == 3
    assert failing.runs == [] and failing.reason == "RuntimeError: no such kernel"
    guard(sound, lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")))
    assert sound.reason == "out of memory"


@pytest.mark.parametrize(("repeats", "seconds", "runs"), [(205, 0.0, 205), (3, 0.25, 4), (3, 0.0, 200)])
def test_a_gpu_is_timed_for_a_second_and_at_least_as_often_as_asked(repeats: int, seconds: float, runs: int) -> None:
    def watch(forward: object, backward: object) -> Seconds:
        return Seconds(seconds, 0.0)

    trial = Trial(PROVIDERS["plain"], tiny_problem())
    ticks: list[None] = []
    time_in_turn([trial], cast(Stopwatch, watch), repeats, True, lambda: ticks.append(None))
    assert len(trial.runs) == runs and len(ticks) == repeats
