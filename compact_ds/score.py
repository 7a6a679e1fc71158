"""The three metrics and the weight of every rationale under a student, without training.

Owns the `score` job, readable top to bottom: measure every example in token trees (each rank its share, journalled), then weigh
all of them with the scales that this very data gives, as a run's first weighted step would.
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compact_ds import config as configuration
from compact_ds.compatibility.metrics import metrics
from compact_ds.compatibility.running import METRICS, RunningScales
from compact_ds.engine.precision import remark_imitated_bf16
from compact_ds.engine.ranks import Ranks, ranks_or_alone
from compact_ds.errors import UserError
from compact_ds.methods.added_metrics import with_added
from compact_ds.methods.evidence import Evidence
from compact_ds.methods.method import method
from compact_ds.optimizer_step.training_set import TrainingSet
from compact_ds.progress import progress_bar
from compact_ds.scoring.journal import Measured, ScoreJournal, journal_file, student_identity
from compact_ds.scoring.output import Ends, Totals, writer
from compact_ds.sections import Config
from compact_ds.student.load import load_lm, load_tokenizer
from compact_ds.student.measure import Measurement, Student, measure
from compact_ds.tree.batch import Batch
from compact_ds.tree.tokenise import Record, Tokeniser

_LOG = logging.getLogger("compact_ds")

_NAMES = ("id", "teacher", "index")
_KEPT = ("token_loss", "pmi", "epiphany_step")
_EXAMPLES = 256
"""Examples weighed at a time."""


def run(
    data: str, student: str | None, output: Path | None, config: str | None, overrides: list[str], num_shown: int = 0
) -> dict[str, Any] | None:
    """Score every rationale of `data`; writes one row a rationale to `output` (JSONL, or Parquet by its ending).

    Returns totals, with `num_shown` the most and least compatible rationales under `top`; None on other ranks than the first.
    A run that was killed goes on where it was. Raises UserError.
    """
    given = [f"data.train={json.dumps(data)}", *([f"student.model={json.dumps(student)}"] if student else [])]
    if config is None:
        if student is None and not any(word.startswith(("student=", "student.model=")) for word in overrides):
            expected = "the student that is to score"
            raise UserError("--student", "nothing", expected, "give --student MODEL or --config CONFIG")
        given += ["run_dir=runs/score", "max_steps=1"]
    settings = configuration.load(config, [*given, *overrides]) if config else _defaults([*given, *overrides])
    tokeniser = Tokeniser(load_tokenizer(settings.student), settings.data.cue)
    training_set = TrainingSet(settings.model_copy(update={"method": "compact"}), tokeniser)
    with ranks_or_alone(settings.engine.timeout_seconds) as group, tempfile.TemporaryDirectory() as folder:
        place = output or Path(folder) / "scores.jsonl"
        place.parent.mkdir(parents=True, exist_ok=True)
        _measure(settings, training_set, tokeniser, place, group)
        group.barrier()
        if not group.is_first:
            return None
        totals, ends = Totals(settings.compatibility.added), Ends(num_shown)
        with writer(output, settings.compatibility.added) as write:
            for rows in weighed(Measured(place, group.world_size), settings):
                totals.add(rows)
                ends.add(rows)
                write(rows)
        if output is not None:
            _tell_left_out(training_set, output.with_name(f"{output.name}.left_out.jsonl"))
        for rank in range(group.world_size):
            journal_file(place, rank).unlink()
    found = totals.figures() | {"left_out": training_set.num_left_out}
    return found | ({"top": ends.figures(settings)} if num_shown else {})


def _tell_left_out(training_set: TrainingSet, file: Path) -> None:
    """List the rationales that no row can hold; no file when there is none, and none of an earlier run."""
    file.unlink(missing_ok=True)
    if training_set.num_left_out:
        training_set.write_left_out(file)
        _LOG.warning("score: %d rationales do not fit tree.row_tokens, see %s", training_set.num_left_out, file)


def weighed(measured: Measured, settings: Config) -> Iterator[list[dict[str, Any]]]:
    """The rows of some examples at a time with metrics and weights, keys as DESIGN's section 7 names them."""
    scales = RunningScales(settings.compatibility.decay, num_added=len(settings.compatibility.added))
    with progress_bar(True, total=3 * len(measured), desc="weigh", unit="question") as bar:
        for _ in range(2):
            # Difficulty is measured against the mean loss, so its scale needs the mean first.
            total = torch.zeros(scales.size, dtype=torch.float64)
            for part in _parts(measured):
                metrics_MR = part.evidence(scales, settings).metrics_MR
                total += scales.contribution(metrics_MR, part.loss_R, part.example_R, part.num_examples)
                bar.update(part.num_examples)
            scales.sums = total
        for part in _parts(measured):
            yield list(part.rows(scales, settings))
            bar.update(part.num_examples)


class _Part:
    """Some examples' measured rows as tensors."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows
        places = list(dict.fromkeys(row["place"] for row in rows))
        teachers = sorted({row["teacher"] for row in rows})
        self.num_examples = len(places)
        self.example_R = torch.tensor([places.index(row["place"]) for row in rows])
        self._teacher_R = torch.tensor([teachers.index(row["teacher"]) for row in rows])
        self.loss_R = self._column("token_loss")

    def evidence(self, scales: RunningScales, settings: Config) -> Evidence:
        gains, own = (self._column("total"), self._column("jump")), settings.compatibility
        metrics_MR = metrics(self._column("consensus"), self.loss_R, gains, scales, own)
        places = (self.example_R, self._teacher_R, self.num_examples)
        return with_added(Evidence(metrics_MR, self.loss_R, self._column("tokens"), None, *places), own.added)

    def rows(self, scales: RunningScales, settings: Config) -> Iterator[dict[str, Any]]:
        evidence = self.evidence(scales, settings)
        step, measured = settings.compatibility.warmup, (*METRICS, *settings.compatibility.added)
        weight_R = method("compact").weigh(evidence, scales, settings.compatibility, step)
        for i, row in enumerate(self._rows):
            values = {name: float(evidence.metrics_MR[k, i]) for k, name in enumerate(measured)}
            names, kept = ({key: row[key] for key in keys} for keys in (_NAMES, _KEPT))
            yield names | {"weight": float(weight_R[i])} | values | kept

    def _column(self, name: str) -> Tensor:
        return torch.tensor([row[name] for row in self._rows], dtype=torch.float64)


@torch.no_grad()
def _measure(settings: Config, training_set: TrainingSet, tokeniser: Tokeniser, place: Path, group: Ranks) -> None:
    """This rank's share of the examples, those that an earlier run has not measured."""
    lm = load_lm(settings, len(tokeniser.tokenizer))
    device = group.device
    if group.is_first:
        remark_imitated_bf16(lm.dtype, device, "engine.precision=fp32")
    module = Student(lm, settings.tree.layout, settings.tree.probes, settings.kernels).to(device).eval()
    identity = {"data": training_set.content, **student_identity(settings), "ranks": group.world_size}
    identity |= {"tree": settings.tree.model_dump(mode="json"), "precision": settings.engine.precision}
    journal = ScoreJournal(place, group.rank, identity)
    examples = [i for i in training_set.usable[group.rank :: group.world_size] if i not in journal.done]
    bar = progress_bar(group.is_first, total=len(examples), desc="score", unit="question")
    for batch, records, places in training_set.batches_of(examples):
        moved = batch.to(device)
        lse_N, z_N1 = module(moved)
        measured = measure(lse_N, z_N1, moved, settings.kernels)
        journal.append(_rows(moved, records, places, measured, training_set.teachers))
        bar.update(len(records))
    journal.close()
    bar.close()


def _rows(
    batch: Batch, records: list[Record], places: list[int], measured: Measurement, teachers: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    assert measured.probed is not None
    probed = measured.probed
    pmi_P = (probed.gold_P - probed.gold0_R[batch.rationale_P]).tolist()
    rationales = Counter(e for e, _ in batch.places_R)
    rationale_P, step_P = batch.rationale_P.tolist(), batch.step_P.tolist()
    columns = [
        t.tolist() for t in (measured.token_loss_R, probed.total_R, probed.jump_R, probed.epiphany_R, batch.consensus_R)
    ]
    tokens_R = batch.tokens_R.tolist()
    for i, (e, r) in enumerate(batch.places_R):
        loss, total, jump, epiphany, consensus = (column[i] for column in columns)
        tokens = tokens_R[i]
        mine = [p for p, owner in enumerate(rationale_P) if owner == i]
        yield {
            "place": places[e],
            "of": rationales[e],
            "index": r,
            "id": records[e].id,
            "teacher": teachers[records[e].rationales[r].teacher],
            "consensus": consensus,
            "token_loss": loss,
            "tokens": tokens,
            "total": total,
            "jump": jump,
            "pmi": [pmi_P[p] for p in mine],
            "epiphany_step": step_P[mine[epiphany]] if epiphany >= 0 else None,
        }


def _parts(measured: Measured) -> Iterator[_Part]:
    examples = iter(measured)
    while part := list(itertools.islice(examples, _EXAMPLES)):
        yield _Part([row for own in part for row in own])


def _defaults(overrides: list[str]) -> Config:
    raw: dict[str, Any] = {}
    for override in overrides:
        configuration.override_key(raw, override)
    return configuration.resolve(raw, "command line")


if __name__ == "__main__":
    from compact_ds.cli import main as command_line

    sys.exit(command_line(["score", *sys.argv[1:]]))
