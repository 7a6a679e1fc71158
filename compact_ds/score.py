"""The three metrics and the weight of every rationale under a student, without training.

Owns the `score` job, readable top to bottom. One process, one pass; the weights are those of a run's first weighted step,
with the scales that this very data gives.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from compact_ds import config as configuration
from compact_ds.compatibility.metrics import metrics
from compact_ds.compatibility.running import METRICS, RunningScales
from compact_ds.config import Config
from compact_ds.methods import method
from compact_ds.student.load import load_lm, load_tokenizer
from compact_ds.student.measure import Measurement, Student, measure
from compact_ds.training_set import TrainingSet
from compact_ds.tree.batch import Batch
from compact_ds.tree.tokenise import Record, Tokeniser


def run(
    data: str, student: str | None, output: Path | None, config: str | None, overrides: list[str]
) -> dict[str, Any]:
    """Score every rationale of `data`; writes one JSON object per rationale to `output`, returns totals.

    Raises UserError.
    """
    given = [f"data.train={json.dumps(data)}", *([f"student.model={json.dumps(student)}"] if student else [])]
    if config is None:
        given += ["run_dir=runs/score", "max_steps=1"]
    settings = configuration.load(config, [*given, *overrides]) if config else _defaults([*given, *overrides])
    tokeniser = Tokeniser(load_tokenizer(settings.student), settings.data.cue)
    training_set = TrainingSet(settings.model_copy(update={"method": "compact"}), tokeniser)
    lm = load_lm(settings, len(tokeniser.tokenizer))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = Student(lm, settings.tree.layout, settings.tree.probes, settings.kernels).to(device).eval()
    rows = _score(settings, training_set, module, device)
    if output is not None:
        output.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return _totals(rows)


def _defaults(overrides: list[str]) -> Config:
    raw: dict[str, Any] = {}
    for override in overrides:
        configuration.override_key(raw, override)
    return configuration.resolve(raw, "command line")


@torch.no_grad()
def _score(settings: Config, training_set: TrainingSet, module: Student, device: torch.device) -> list[dict[str, Any]]:
    """First all measurements, which give the mean loss and the scales, then the weights under them."""
    scales = RunningScales(settings.compatibility.decay, device)
    measured: list[tuple[Batch, list[Record], Measurement]] = []
    for batch, records in tqdm(list(training_set.all_batches()), desc="score", unit="batch"):
        lse_N, z_N1 = module(batch.to(device))
        measured.append((batch.to(device), records, measure(lse_N, z_N1, batch.to(device), settings.kernels)))
    for _ in range(2):
        # Difficulty is measured against the mean loss, so its scale needs the mean first.
        total = torch.zeros(RunningScales.SIZE, dtype=torch.float64, device=device)
        for batch, _, m in measured:
            metrics_MR = _metrics(batch, m, scales, settings)
            total += scales.contribution(metrics_MR, m.token_loss_R, batch.example_R, batch.num_examples)
        scales.sums = total
    rows: list[dict[str, Any]] = []
    for batch, records, m in measured:
        metrics_MR = _metrics(batch, m, scales, settings)
        weight_R = method("compact").weigh(
            metrics_MR, batch.example_R, batch.teacher_R, batch.num_examples, scales, settings.compatibility,
            step=settings.compatibility.warmup,
        )  # fmt: skip
        rows += _rows(batch, records, m, metrics_MR, weight_R, training_set.teachers)
    return rows


def _metrics(batch: Batch, m: Measurement, scales: RunningScales, settings: Config) -> Tensor:
    return metrics(batch.consensus_R, m.token_loss_R, m.gains, scales, settings.compatibility)


def _rows(
    batch: Batch,
    records: list[Record],
    m: Measurement,
    metrics_MR: Tensor,
    weight_R: Tensor,
    teachers: tuple[str, ...],
) -> list[dict[str, Any]]:
    """One JSON object per rationale, keys as DESIGN's section 7 names them."""
    assert m.probed is not None
    pmi_P = (m.probed.gold_P - m.probed.gold0_R[batch.rationale_P]).double()
    rows = []
    for i, (e, r) in enumerate(batch.places_R):
        epiphany = int(m.probed.epiphany_R[i])
        mine_P = batch.rationale_P == i
        values = {name: float(metrics_MR[k, i]) for k, name in enumerate(METRICS)}
        rows.append(
            {
                "id": records[e].id,
                "teacher": teachers[records[e].rationales[r].teacher],
                "index": r,
                "weight": float(weight_R[i]),
                **values,
                "token_loss": float(m.token_loss_R[i]),
                "pmi": pmi_P[mine_P].tolist(),
                "epiphany_step": int(batch.step_P[mine_P][epiphany]) if epiphany >= 0 else None,
            }
        )
    return rows


def _totals(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Number of rationales, and per teacher the means of weight, metrics and token loss."""
    names = ("weight", *METRICS, "token_loss")
    teachers = sorted({row["teacher"] for row in rows})
    of = {t: [row for row in rows if row["teacher"] == t] for t in teachers}
    means = {name: {t: sum(row[name] for row in of[t]) / len(of[t]) for t in teachers} for name in names}
    return {"rationales": len(rows), **means}
