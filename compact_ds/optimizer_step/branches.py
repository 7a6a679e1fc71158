"""Merge-of-Thought as a baseline (arXiv 2509.08814): a branch a teacher, merged in weight space every so many steps.

Owns the branches between two merges. Within a branch a step is `step`'s, of the method `single:TEACHER`; its step sees as
many questions as any other method's, so that a run of as many steps trains on as many tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from compact_ds.engine.ranks import Ranks
from compact_ds.engine.start import Engine
from compact_ds.engine.trained_state import Copy, mean
from compact_ds.optimizer_step.step import Step, StepMetrics, StepResult
from compact_ds.optimizer_step.training_set import TrainingSet
from compact_ds.sections import Config


class Branches:
    """Runs optimizer steps of all branches in turn, in one engine.

    At a merge parameters and moments become their mean over branches, so that there is one state again, which is what checkpoints
    and evaluations see; the paper merges parameters and begins each round with a new optimizer.
    """

    def __init__(self, config: Config, data: Mapping[str, TrainingSet], engine: Engine, ranks: Ranks) -> None:
        """`data` has the questions of each teacher."""
        self._every, self._last = config.mixer.merge_every, config.max_steps
        self._engine = engine
        self._steps = {teacher: Step(config, own, engine, ranks) for teacher, own in data.items()}
        self._copies: dict[str, Copy] = {}

    def run(self, step: int, lr: float, asked_to_stop: bool) -> StepResult:
        """Optimizer step `step` of every branch. A request to stop is heard at merges. Raises UserError as `Step.run` does."""
        state, results = self._engine.trained_state, []
        start = None if self._copies else state.copy()
        for teacher, own in self._steps.items():
            state.put(self._copies.get(teacher) or start or {})
            results.append(own.run(step, lr, asked_to_stop))
            self._copies[teacher] = state.copy()
        merges = (step + 1) % self._every == 0 or step + 1 == self._last
        if merges:
            state.put(mean(list(self._copies.values())))
            self._copies.clear()
        return replace(_together(results), stop=merges and any(result.stop for result in results))

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold beside the engine; valid after a merge."""
        return {"branches": {teacher: own.state() for teacher, own in self._steps.items()}}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        for teacher, own in self._steps.items():
            own.load_state(state["branches"][teacher])


def _together(results: list[StepResult]) -> StepResult:
    """Means over branches; counts are added up, what stands by teacher is put side by side."""
    all_metrics = [result.metrics for result in results]
    num = len(results)
    scalars = StepMetrics(
        sum(m.loss for m in all_metrics) / num,
        sum(m.grad_norm for m in all_metrics) / num,
        sum(m.examples for m in all_metrics),
        sum(m.tokens for m in all_metrics),
        sum(m.right_share for m in all_metrics) / num,
    )
    per_teacher: dict[str, dict[str, float]] = {}
    for result in results:
        for name, values in result.per_teacher.items():
            per_teacher.setdefault(name, {}).update(values)
    fault = next((result.fault for result in results if result.fault is not None), None)
    return StepResult(scalars, per_teacher, stop=False, fault=fault)
