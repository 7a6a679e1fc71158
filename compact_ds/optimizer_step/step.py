"""One optimizer step: records to trees, measure, weigh, mix, one all-reduce, update.

Owns the order of DESIGN's section 4 within a step, and what happens when a loss or a weight is no number.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from compact_ds.compatibility.metrics import metrics
from compact_ds.compatibility.running import METRICS, RunningScales
from compact_ds.engine.ranks import Ranks
from compact_ds.engine.start import Engine
from compact_ds.errors import DataError, UserError
from compact_ds.methods.added_metrics import with_added
from compact_ds.methods.baselines import rank_surprisal_ratio
from compact_ds.methods.evidence import Evidence
from compact_ds.mixer.agreement import Agreed, Agreement, right_share, teacher_means, unfit
from compact_ds.mixer.gradient_mode import Reference, Wanted
from compact_ds.optimizer_step.batches import StepBatches
from compact_ds.optimizer_step.ends import Noted, ends
from compact_ds.optimizer_step.mixing import Mixed, Mixing
from compact_ds.optimizer_step.passes import Passes, Weighed
from compact_ds.optimizer_step.reference_sets import ReferenceSet
from compact_ds.optimizer_step.training_set import TrainingSet
from compact_ds.phases import phase
from compact_ds.sections import Config
from compact_ds.student.measure import Measurement, measure
from compact_ds.tree.batch import Batch

_LOG = logging.getLogger("compact_ds")


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """Scalars of a step over all ranks: weighted loss and gradient norm, questions, trained tokens, weight on right."""

    loss: float
    grad_norm: float
    examples: int
    tokens: int
    right_share: float


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step's metrics, whether some rank was asked to stop, and what must end the run once it has a checkpoint.

    `ends`: the most and the least compatible rationale, on the first rank, at steps that note texts.
    """

    metrics: StepMetrics
    per_teacher: dict[str, dict[str, float]]
    stop: bool
    fault: UserError | None = None
    ends: tuple[Noted, Noted] | None = None


@dataclass(frozen=True, slots=True)
class _FirstPass:
    """What a step's first pass leaves: this rank's micro-batches and weights, and the sums over all ranks."""

    batches: StepBatches
    weight_M: Tensor
    agreement: Agreement
    agreed: Agreed


@dataclass(frozen=True, slots=True)
class _Unfit:
    """A rationale of which something is no number: where its example stands, id and place in the step, and what was found."""

    where: str
    id: str
    place: int
    found: str


class Step:
    """Runs optimizer steps; keeps the running scales between them."""

    def __init__(
        self,
        config: Config,
        data: TrainingSet,
        engine: Engine,
        ranks: Ranks,
        references: Mapping[Reference, ReferenceSet] | None = None,
    ) -> None:
        self._config, self._data, self._engine, self._ranks = config, data, engine, ranks
        self._settings = data.method.settings(config.compatibility)
        self._passes = Passes(config, engine, ranks)
        self._mixing = Mixing(config, data.teachers, self._passes, references or {}, data.method.teacher)
        self.scales = RunningScales(config.compatibility.decay, ranks.device, len(self._settings.added))

    def run(self, step: int, lr: float, asked_to_stop: bool) -> StepResult:
        """Optimizer step `step`. Raises UserError on all ranks alike when a gradient, or too many examples, are no numbers."""
        wanted = self._mixing.wanted(step)
        left_out: dict[str, float] = {}
        while (first := self._first_pass(step, wanted, asked_to_stop)).agreed.num_unfit:
            left_out |= self._leave_out(step, first.batches)
            self._passes.forget()
        batches, weight_M = first.batches, first.weight_M
        with phase("mixer"):
            mixed = self._mixing.mix(wanted, batches, weight_M, step) if len(wanted) > 1 else Mixed({}, None)
        with phase("optimizer"):
            norm = self._engine.step(lr)
        if norm != norm or norm == float("inf"):
            remedy = "lower optimizer.lr, or set optimizer.grad_clip"
            raise UserError(f"step {step}", f"gradient norm {norm}", "finite gradients", remedy)
        self.scales.update(first.agreement.scales_total)
        result = _result(first.agreed, norm, mixed, left_out)
        return replace(result, ends=self._ends(step, batches, weight_M))

    def _first_pass(self, step: int, wanted: Sequence[Wanted], asked_to_stop: bool) -> _FirstPass:
        """Measure, weigh and take the first backward pass, and see what all ranks found."""
        agreement = Agreement(len(self._data.teachers), self._ranks.device, tuple(self._settings.added))
        if asked_to_stop:
            agreement.request_stop()
        with phase("data"):
            batches = self._data.step(step, self._ranks)
        pending: list[Any] = []
        weight_M = self._passes.weighing(
            batches.batches,
            wanted[0].teachers if len(wanted) > 1 else None,
            lambda batch: self._weigh(batch, step, agreement),
            lambda: pending.append(self._ranks.start_sum(agreement.vector)),
        )
        with phase("communication"):
            pending[0].wait()
            agreed = agreement.read(self._data.teachers)
        return _FirstPass(batches, weight_M, agreement, agreed)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        bad = {"bad_in_a_row": dict(self._mixing.bad_in_a_row), "unfit": sorted(self._data.unfit)}
        return {"scales": self.scales.state_dict()} | bad

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.scales.load_state_dict(state["scales"])
        self._mixing.bad_in_a_row.update(state["bad_in_a_row"])
        # Checkpoints of earlier versions know of none.
        self._data.unfit |= set(state.get("unfit", ()))

    def _ends(self, step: int, batches: StepBatches, weight_M: Tensor) -> tuple[Noted, Noted] | None:
        every = self._config.texts_every
        is_due = every > 0 and step % every == 0 and self._ranks.is_first
        return ends(batches, weight_M, self._data.teachers) if is_due else None

    def _weigh(self, batch: Batch, step: int, agreement: Agreement) -> Weighed:
        """Forward pass of a micro-batch: losses and weights, and its share of what ranks agree on."""
        with phase("compatibility"):
            measured, metrics_MR, weight_R = self._measure(batch, step)
            if batch.counts:
                loss_R = measured.token_loss_R.detach()
                share = self.scales.contribution(metrics_MR, loss_R, batch.example_R, batch.num_examples)
                labels, counts = (batch.teacher_R, batch.right_R), (batch.num_examples, batch.num_grad)
                agreement.add(metrics_MR, loss_R, weight_R, labels, counts, share)
        return Weighed(measured.token_loss_R, weight_R)

    def _measure(self, batch: Batch, step: int) -> tuple[Measurement, Tensor, Tensor]:
        """Forward pass of a micro-batch: what the student makes of it, its metrics as [M, R], its weights [R]."""
        with phase("forward"):
            lse_N, z_N1, *ranks = self._engine.forward(batch)
        measured = measure(lse_N, z_N1, batch, self._config.kernels, *ranks)
        metrics_MR = metrics(batch.consensus_R, measured.token_loss_R, measured.gains, self.scales, self._settings)
        evidence = with_added(_evidence(measured, metrics_MR, batch), self._settings.added)
        weight_R = self._data.method.weigh(evidence, self.scales, self._settings, step)
        return measured, evidence.metrics_MR, weight_R

    def _leave_out(self, step: int, batches: StepBatches) -> dict[str, float]:
        """Leave every example that has no finite loss, metric or weight out of the run, on every rank the same.

        Returns their names, as metrics have them. Raises DataError, naming the first, when they are too many, and UserError when
        a second look finds none.
        """
        everyone = [one for part in self._ranks.gather(self._unfit(step, batches)) for one in part]
        if not everyone:
            found = "a loss, metric or weight that was no number, and is one when taken again"
            raise UserError(f"step {step}", found, "the same both times", "use --resume, and look for a failing device")
        where = everyone[0].where
        found = f"{everyone[0].found} at step {step} ({len(everyone)} rationales)"
        if not self._data.leave_out(step, {one.place for one in everyone}):
            share = self._config.data.max_left_out
            expected = (
                f"finite losses, metrics and weights but for a share of data.max_left_out={share} of the examples"
            )
            remedy = "check the student's weights, begin again with a lower optimizer.lr, or remove the example"
            raise DataError(where, found, expected, remedy)
        names = dict.fromkeys((one.id for one in everyone), 1.0)
        if self._ranks.is_first:
            _LOG.warning("%s: found %s; left out of this run: %s", where, found, ", ".join(names))
        return names

    def _unfit(self, step: int, batches: StepBatches) -> list[_Unfit]:
        """This rank's rationales of which something is no number."""
        listed = []
        names = ", ".join((*METRICS, *self._settings.added))
        for batch, records, places in zip(batches.batches, batches.records, batches.places, strict=True):
            with torch.no_grad():
                measured, metrics_MR, weight_R = self._measure(batch.to(self._ranks.device), step)
            loss_R = measured.token_loss_R
            bad_R = unfit(metrics_MR, loss_R, weight_R) & batch.counts
            for i in bad_R.nonzero().flatten().tolist():
                example, index = batch.places_R[i]
                record = records[example]
                teacher = self._data.teachers[record.rationales[index].teacher]
                values = [round(float(v), 4) for v in (*metrics_MR[:, i], loss_R[i], weight_R[i])]
                found = f"{teacher}: {names}, token loss, weight {values}"
                listed.append(_Unfit(record.where, record.id, places[example], found))
        return listed


def _evidence(measured: Measurement, metrics_MR: Tensor, batch: Batch) -> Evidence:
    loss_R, tokens_R = measured.token_loss_R.detach(), batch.tokens_R
    ratio_R = None if measured.rank_R is None else rank_surprisal_ratio(measured.rank_R, loss_R * tokens_R)
    places = (batch.example_R, batch.teacher_R, batch.num_examples)
    return Evidence(metrics_MR, loss_R, tokens_R, ratio_R, *places)


def _result(agreed: Agreed, norm: float, mixed: Mixed, left_out: dict[str, float]) -> StepResult:
    loss = agreed.loss / agreed.examples
    scalars = StepMetrics(loss, norm, agreed.examples, agreed.tokens, right_share(agreed))
    report = mixed.report | ({"examples_left_out": left_out} if left_out else {})
    return StepResult(scalars, teacher_means(agreed) | report, agreed.stop, mixed.fault)
