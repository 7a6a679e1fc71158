"""Batches whose gradients the mixer compares with: gold answers of held-out questions, and questions to be retained.

Owns the choice of their questions and their form; both are trained on by nobody unless the retention guard is on, and then
only to take a part out of the update. How they are measured is in `passes`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from compact_ds.engine.ranks import Ranks
from compact_ds.errors import ConfigError, DataError
from compact_ds.mixer.gradient_mode import Reference
from compact_ds.optimizer_step.batches import StepBatches
from compact_ds.optimizer_step.training_set import TrainingSet, held_out_examples
from compact_ds.sections import Config, RetainConfig
from compact_ds.tree.tokenise import UNKNOWN, RationaleTokens, Record, Tokeniser, tokenise

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReferenceSet:
    """`draw(step)` gives this rank's micro-batches of `num_examples` questions; `content` is a hash of those it draws from."""

    draw: Callable[[int], StepBatches]
    num_examples: int
    content: str = ""


def reference_sets(config: Config, tokeniser: Tokeniser, ranks: Ranks) -> dict[Reference, ReferenceSet]:
    """Those that the config asks for and the data can fill. Raises ConfigError and DataError."""
    found: dict[Reference, ReferenceSet] = {}
    gold = GoldAnswers(config, tokeniser, ranks.world_size)
    if size := len(gold):
        found["answer"] = ReferenceSet(lambda step: gold.batches(ranks), size)
    if config.mixer.diagnose_every and size < config.mixer.probe_questions:
        _LOG.info(
            "diagnostics: %d held-out questions (data.eval) to compare the teachers' gradients with, "
            "mixer.probe_questions=%d wants more",
            size,
            config.mixer.probe_questions,
        )
    if (retain := config.mixer.retain) is not None:
        kept = retention_set(config, retain, tokeniser, ranks.world_size)
        found["retention"] = ReferenceSet(lambda step: kept.step(step, ranks), retain.batch_size, kept.content)
    return found


class GoldAnswers:
    """The first held-out questions, each with its gold answer after the cue as its only text: `mixer.probe_questions`, and as
    many more as give every rank the same number. Where there are fewer, as many as do; none when some rank would have none.
    """

    def __init__(self, config: Config, tokeniser: Tokeniser, world_size: int) -> None:
        wanted = config.mixer.probe_questions if config.mixer.diagnose_every else 0
        wanted += -wanted % world_size
        examples = held_out_examples(config)[:wanted] if wanted else []
        bare = [tokenise(replace(example, rationales=()), tokeniser, {}, [], []) for example in examples]
        fitting = [record for record in map(as_gold, bare) if _length(record) <= config.tree.row_tokens]
        self._records = fitting[: len(fitting) - len(fitting) % world_size]
        self._tree = config.tree

    def __len__(self) -> int:
        return len(self._records)

    def batches(self, ranks: Ranks) -> StepBatches:
        """This rank's micro-batches, the same at every call."""
        return StepBatches(self._records, [[0]] * len(self._records), self._tree, 0, ranks)


def as_gold(record: Record) -> Record:
    """The record with the gold answer as its only rationale and the cue at the end of the question: its token loss is -g[0]."""
    cue_ids, answer_ids = np.split(record.probe_ids, [-record.answer_tokens])
    answer = RationaleTokens(0, answer_ids, np.zeros(0, dtype=np.int32), 0.0, UNKNOWN, 1)
    return replace(record, prompt_ids=np.concatenate([record.prompt_ids, cue_ids]), rationales=(answer,))


def retention_set(config: Config, retain: RetainConfig, tokeniser: Tokeniser, world_size: int) -> TrainingSet:
    """The retention questions as a training set with uniform weights. Raises ConfigError and DataError."""
    if retain.batch_size % world_size:
        expected = f"a multiple of the world size {world_size}"
        raise ConfigError("mixer.retain.batch_size", retain.batch_size, expected, "change it")
    own = {"train": retain.train, "split": retain.split, "limit": retain.limit, "batch_size": retain.batch_size}
    data = config.data.model_copy(update={**own, "mislead": 0, "teachers": None})
    try:
        return TrainingSet(config.model_copy(update={"method": "uniform", "data": data}), tokeniser)
    except DataError as error:
        found = f"{error.where}: {error.value}"
        remedy = "give questions with rationales in the project's schema (see docs/data.md)"
        raise ConfigError("mixer.retain.train", found, error.expected, remedy) from None


def _length(record: Record) -> int:
    return len(record.prompt_ids) + len(record.rationales[0].ids)
