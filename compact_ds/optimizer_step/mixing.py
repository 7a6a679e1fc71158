"""From a step's first pass to the gradient that the optimizer sees, where one backward pass is not all there is.

Owns the order of gradient mode, of diagnostics in either mode and of the retention guard, and the count of steps in which a
teacher had to be left out. Passes, decisions and instruments are `passes`', `mixer.gradient_mode`'s and `mixer.diagnostics`'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from compact_ds.errors import UserError
from compact_ds.mixer.diagnostics import diagnose
from compact_ds.mixer.gradient_mode import Decision, Reference, Wanted, combine, decide, groups_of, wanted
from compact_ds.mixer.surgery import Floats
from compact_ds.optimizer_step.batches import StepBatches
from compact_ds.optimizer_step.passes import Passes
from compact_ds.optimizer_step.reference_sets import ReferenceSet
from compact_ds.sections import Config

_RETENTION = "retention batch"


@dataclass(frozen=True, slots=True)
class Mixed:
    """What to report of a mix, by instrument and teacher, and the error that should end the run after this step, if any."""

    report: dict[str, dict[str, float]]
    fault: UserError | None


class Mixing:
    """Mixes the gradients of steps; `bad_in_a_row` counts the latest steps in which each gradient was not finite."""

    def __init__(
        self,
        config: Config,
        teachers: Sequence[str],
        passes: Passes,
        references: Mapping[Reference, ReferenceSet],
        only: str | None = None,
    ) -> None:
        """`only` is the one teacher that the method learns from, if it is one."""
        self._settings, self._seed = config.mixer, config.seed
        self._passes, self._references = passes, references
        alone = None if only is None else teachers.index(only)
        self._groups = {n: m for n, m in groups_of(config.mixer, teachers).items() if alone is None or alone in m}
        self.bad_in_a_row: Counter[str] = Counter()

    def wanted(self, step: int) -> list[Wanted]:
        """The gradients that step `step` needs; a single one is the plain backward pass and needs no mixing."""
        return wanted(self._settings, self._groups, list(self._references), self._diagnoses(step))

    def mix(self, found: Sequence[Wanted], batches: StepBatches, weight_M: Tensor, step: int) -> Mixed:
        """Take the other gradients of the step after its first pass, mix, and hand the result to the engine.

        All ranks call. The Gram matrix is the same on every rank, hence the decision too.
        """
        self._passes.take(0, len(found))
        for place, one in enumerate(found[1:], start=1):
            self._pass(one, batches, weight_M, step)
            self._passes.take(place, len(found))
        gram_VV, loss_V = self._passes.agree()
        decision = self._decide(found, gram_VV, step)
        if self._settings.mode == "gradient" and set(decision.bad) & self._groups.keys():
            # The first pass held all teachers' trees, where a fault of one spreads; alone, the first may be sound.
            self._pass(found[0], batches, weight_M, step)
            self._passes.take(0, len(found))
            gram_VV, loss_V = self._passes.agree()
            decision = self._decide(found, gram_VV, step)
        report = diagnose(found, gram_VV, decision.coefficient_V) if self._diagnoses(step) else {}
        measured = {str(one.reference): float(loss_V[v]) for v, one in enumerate(found) if one.reference is not None}
        if losses := {name: loss for name, loss in measured.items() if np.isfinite(loss)}:
            report["reference_loss"] = losses
        if self._settings.mode == "loss" and found[0].name in decision.bad:
            # Nothing is left of the update: the engine gets it as it is and refuses the step.
            decision.coefficient_V[0] = 1.0
        self._passes.give(combine(self._passes.shards, decision.coefficient_V))
        if self._settings.mode == "loss" and self._diagnoses(step):
            self._passes.release()
        return self._judge(decision, report, step)

    def _diagnoses(self, step: int) -> bool:
        every = self._settings.diagnose_every
        return bool(every) and (step + 1) % every == 0

    def _pass(self, one: Wanted, batches: StepBatches, weight_M: Tensor, step: int) -> None:
        self._passes.forget()
        if one.reference is None:
            self._passes.teacher(batches.alone(one.teachers), weight_M)
        else:
            reference = self._references[one.reference]
            self._passes.reference(reference.draw(step).batches, reference.num_examples)

    def _decide(self, found: Sequence[Wanted], gram_VV: Floats, step: int) -> Decision:
        return decide(found, gram_VV, self._settings, np.random.default_rng((self._seed, step)))

    def _judge(self, decision: Decision, report: dict[str, dict[str, float]], step: int) -> Mixed:
        if decision.bad:
            report = report | {"gradient_left_out": dict.fromkeys(decision.bad, 1.0)}
        for name in (*self._groups, _RETENTION):
            self.bad_in_a_row[name] = self.bad_in_a_row[name] + 1 if name in decision.bad else 0
        worst = max((*self._groups, _RETENTION), key=lambda name: self.bad_in_a_row[name])
        if self.bad_in_a_row[worst] <= self._settings.max_bad:
            return Mixed(report, None)
        found = f"a gradient that was not finite in {self.bad_in_a_row[worst]} steps in a row, up to step {step}"
        remedy = "look at its rationales, lower optimizer.lr, or raise mixer.max_bad and use --resume"
        where = f"teacher {worst}" if worst in self._groups else worst
        return Mixed(report, UserError(where, found, f"at most mixer.max_bad={self._settings.max_bad}", remedy))
