"""One optimizer step: records to trees, measure, weigh, mix, one all-reduce, update.

Owns the order of DESIGN's section 4 within a step, and what happens when a loss or a weight is no number.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compact_ds.compatibility.metrics import metrics
from compact_ds.compatibility.running import RunningScales
from compact_ds.config import Config
from compact_ds.engine.ranks import Ranks
from compact_ds.engine.start import Engine
from compact_ds.errors import DataError, UserError
from compact_ds.mixer.agreement import Agreed, Agreement, right_share, teacher_means
from compact_ds.mixer.loss_mode import weighted_loss
from compact_ds.student.measure import measure
from compact_ds.training_set import StepBatches, TrainingSet
from compact_ds.tree.batch import Batch


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
    """A step's metrics, and whether some rank was asked to stop."""

    metrics: StepMetrics
    per_teacher: dict[str, dict[str, float]]
    stop: bool


class Step:
    """Runs optimizer steps; keeps the running scales between them."""

    def __init__(self, config: Config, data: TrainingSet, engine: Engine, ranks: Ranks) -> None:
        self._config, self._data, self._engine, self._ranks = config, data, engine, ranks
        self._settings = data.method.settings(config.compatibility)
        self.scales = RunningScales(config.compatibility.decay, ranks.device)

    def run(self, step: int, lr: float, asked_to_stop: bool) -> StepResult:
        """Optimizer step `step`. Raises UserError on all ranks alike when a loss, weight or gradient is no number."""
        agreement = Agreement(len(self._data.teachers), self._ranks.device)
        if asked_to_stop:
            agreement.request_stop()
        batches = self._data.step(step, self._ranks)
        for i, batch in enumerate(batches.batches):
            loss, _, _ = self._weigh(batch.to(self._ranks.device), step, agreement)
            if i == len(batches.batches) - 1:
                pending = self._ranks.start_sum(agreement.vector)
            self._engine.backward(loss, self._config.data.batch_size)
        pending.wait()
        agreed = agreement.read(self._data.teachers)
        if agreed.num_unfit:
            self._refuse(step, batches)
        norm = self._engine.step(lr)
        if norm != norm or norm == float("inf"):
            remedy = "lower optimizer.lr, or set optimizer.grad_clip"
            raise UserError(f"step {step}", f"gradient norm {norm}", "finite gradients", remedy)
        self.scales.update(agreement.scales_total)
        return _result(agreed, norm)

    def _weigh(self, batch: Batch, step: int, agreement: Agreement) -> tuple[Tensor, Tensor, Tensor]:
        """Forward pass of a micro-batch: its weighted loss sum, its weights, and its C, A, D and token losses as [4, R]."""
        lse_N, z_N1 = self._engine.forward(batch)
        measured = measure(lse_N, z_N1, batch, self._config.kernels)
        metrics_MR = metrics(batch.consensus_R, measured.token_loss_R, measured.gains, self.scales, self._settings)
        places = (batch.example_R, batch.teacher_R, batch.num_examples)
        weight_R = self._data.method.weigh(metrics_MR, *places, self.scales, self._settings, step)
        measured_VR = torch.cat([metrics_MR, measured.token_loss_R.detach().double()[None]])
        if not batch.counts:
            # Every module still runs and every collective happens: weights are zero, calls are not skipped.
            return weighted_loss(measured.token_loss_R, torch.zeros_like(weight_R)), weight_R, measured_VR
        share = self.scales.contribution(
            metrics_MR, measured.token_loss_R.detach(), batch.example_R, batch.num_examples
        )
        labels, counts = (batch.teacher_R, batch.right_R), (batch.num_examples, batch.num_grad)
        agreement.add(metrics_MR, measured.token_loss_R, weight_R, labels, counts, share)
        return weighted_loss(measured.token_loss_R, weight_R), weight_R, measured_VR

    def _refuse(self, step: int, batches: StepBatches) -> None:
        """Name what has no finite loss or weight, on every rank the same."""
        unfit: list[tuple[str, str]] = []
        for batch, records in zip(batches.batches, batches.records, strict=True):
            with torch.no_grad():
                _, weight_R, measured_VR = self._weigh(
                    batch.to(self._ranks.device), step, Agreement(len(self._data.teachers), self._ranks.device)
                )
            bad_R = ~(torch.isfinite(weight_R) & torch.isfinite(measured_VR).all(0)) & batch.counts
            for i in bad_R.nonzero().flatten().tolist():
                example, index = batch.places_R[i]
                teacher = self._data.teachers[records[example].rationales[index].teacher]
                values = [round(float(v), 4) for v in (*measured_VR[:, i], weight_R[i])]
                found = f"{teacher}: consensus, adaptability, difficulty, token loss, weight {values}"
                unfit.append((records[example].where, found))
        everyone = [one for part in self._ranks.gather(unfit) for one in part]
        where, found = everyone[0]
        remedy = "check the student's weights, lower optimizer.lr or remove the example"
        raise DataError(
            where, f"{found} at step {step} ({len(everyone)} rationales)", "finite losses, metrics and weights", remedy
        )


def _result(agreed: Agreed, norm: float) -> StepResult:
    loss = agreed.loss / agreed.examples
    scalars = StepMetrics(loss, norm, agreed.examples, agreed.tokens, right_share(agreed))
    return StepResult(scalars, teacher_means(agreed), agreed.stop)
