"""Our own step as a contender: from a config to an engine that takes one optimizer step a lap.

Owns what a contender is, and the count of its tokens and of the operations that they need. Other people's are in `rows` and
`trl_peer`.
"""

from __future__ import annotations

import contextlib
import copy
import io
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from compact_ds.engine.ranks import Ranks
from compact_ds.engine.start import Engine, learning_rate
from compact_ds.optimizer_step.step import Step
from compact_ds.optimizer_step.training_set import TrainingSet
from compact_ds.phases import phase
from compact_ds.run.log import RunLog
from compact_ds.sections import Config
from compact_ds.student.measure import Student
from compact_ds.tree.batch import Batch
from compact_ds.tree.tokenise import Tokeniser


class Contender(Protocol):
    """Something that trains on the same questions at every lap. `tokens` pass through the student in a lap, `padded` with
    what only fills rows; `setting` says what was chosen for it."""

    name: str
    setting: str
    tokens: int
    padded: int

    def lap(self) -> float | None:
        """One optimizer step; its loss before the update, where that is the mean of the questions' weighted losses."""

    def close(self) -> None:
        """Stop what runs beside."""


class Trees:
    """Our `Step` under a config, with the log that a run writes."""

    def __init__(self, name: str, config: Config, lm: Any, tokeniser: Tokeniser, group: Ranks, folder: Path) -> None:
        """`lm` is copied."""
        self.name, self.config = name, config
        self.data = TrainingSet(config, tokeniser)
        student = Student(copy.deepcopy(lm), config.tree.layout, config.tree.probes, config.kernels)
        self.engine = Engine(student, config, group)
        self._step = Step(config, self.data, self.engine, group)
        batches = self.data.step(0, group)
        self.batches, self.records = batches.batches, batches.records
        self.tokens = sum(int((b.order_BL < b.ids_BL.shape[1]).sum()) for b in self.batches)
        self.padded = sum(b.ids_BL.numel() for b in self.batches)
        rows = sum(len(b.ids_BL) for b in self.batches)
        self.setting = (
            f"{len(self.batches)} micro-batches, {rows} rows, {sum(b.num_probes for b in self.batches)} probes"
        )
        (folder / name).mkdir()
        # A progress bar among the figures would be noise.
        with contextlib.redirect_stderr(io.StringIO()):
            self._log = RunLog(folder / name, 0, config.max_steps, name)
        self._lap = 0

    def lap(self) -> float:
        """One optimizer step; always past the warm-up, whose weights need no metrics."""
        lr = learning_rate(self.config.optimizer, self._lap, self.config.max_steps)
        result = self._step.run(self._lap, lr, False)
        with phase("logging"):
            scalars = {**asdict(result.metrics), "step_seconds": 1.0}
            self._log.step({"step": self._lap, "lr": lr, **scalars, **result.per_teacher})
        self._lap += 1
        return result.metrics.loss

    def close(self) -> None:
        """Close the log."""
        self._log.close()


def operations(batches: list[Batch], student: nn.Module) -> float:
    """Multiplications and additions that a step on these micro-batches needs, padding and recomputation left out.

    Two a weight and token forward, two more backward through what leads to a trained weight, and two for the gradient of a
    trained one; probes go forward only. Attention by ancestors, not by masks.
    """
    lm: Any = student.lm
    base = lm.get_base_model() if hasattr(lm, "peft_config") else lm
    config = base.config.get_text_config()
    head = base.get_output_embeddings().weight
    table = {id(base.get_input_embeddings().weight), id(head)}
    matrices = [p for p in lm.parameters() if _shape(p) >= 2 and id(p) not in table]
    weights, trained = (
        sum(_size(p) for p in matrices),
        sum(_size(p) for p in matrices if p.requires_grad),
    )
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    total = 0.0
    for batch in batches:
        real = batch.order_BL < batch.ids_BL.shape[1]
        trunk, seen = real[:, : batch.num_trunk], (batch.positions_BL + 1) * real
        num_trunk, num_leaf = int(trunk.sum()), int(real.sum() - trunk.sum())
        total += 2 * weights * (2 * num_trunk + num_leaf) + 2 * trained * num_trunk
        pairs, leaf_pairs = int(seen[:, : batch.num_trunk].sum()), int(seen[:, batch.num_trunk :].sum())
        total += 4 * width * config.num_hidden_layers * (3 * pairs + leaf_pairs)
        backward = 2 if head.requires_grad else 1
        total += 2 * _size(head) * (len(batch.index_N) + backward * batch.num_grad)
    return total


def _size(parameter: Any) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _shape(parameter: Any) -> int:
    return len(getattr(parameter, "ds_shape", parameter.shape))
