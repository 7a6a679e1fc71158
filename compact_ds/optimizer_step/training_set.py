"""From a config to the micro-batches of every step, and to the held-out questions.

Owns the road from source to batch: read, score consensus, cache, leave out, sample, choose rationales, plan, build. The
parts are in `data`, `compatibility` and `tree`; this file puts them in order.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

from compact_ds.compatibility.consensus import consensus, reliability
from compact_ds.compatibility.copies import as_voices, copies
from compact_ds.data.readers import held_out, read
from compact_ds.data.records import Example
from compact_ds.engine.ranks import Ranks
from compact_ds.errors import ConfigError, DataError
from compact_ds.methods.method import Labels, check, method
from compact_ds.optimizer_step.ahead import Ahead
from compact_ds.optimizer_step.batches import StepBatches, assemble_plan
from compact_ds.sections import Config
from compact_ds.tree.batch import Batch
from compact_ds.tree.build import plan_pieces
from compact_ds.tree.cache import cache_key, ensure
from compact_ds.tree.dataset import TreeDataset
from compact_ds.tree.plan import split_into_micro_batches
from compact_ds.tree.sampler import draw_of, examples_of_step, with_substitutes
from compact_ds.tree.tokenise import RationaleTokens, Record, Tokeniser

_DEFAULT_CACHE = Path.home() / ".cache" / "compact_ds"
_DATA_SEED = 0
"""Built-in tasks and misleading teachers are the same for every seed of a run, so that runs share the cache."""


class TrainingSet:
    """The examples that a method can learn from, by optimizer step.

    `unfit` are places in the data of those that are left out since a loss, metric or weight of theirs was no number.
    """

    def __init__(self, config: Config, tokeniser: Tokeniser) -> None:
        self._config = config
        file = cache_of(config, tokeniser)
        ensure(file, self._read, tokeniser, self._consensus)
        self._set = TreeDataset(file, config.tree)
        self.teachers, self.content = self._set.teachers, self._set.content
        self.method = method(config.method)
        check(self.method, self.teachers, self._set.has_verdicts)
        self._left_out = self._set.left_out()
        self._set.refuse_if_too_many(self._left_out, config.data.max_left_out)
        self.unfit: set[int] = set()
        self._ahead: Ahead[tuple[int, Ranks, frozenset[int]], StepBatches] = Ahead(lambda wanted: self._step(*wanted))
        self._usable = self._set.examples_with(self.method.selectable(self._set.flat, self.teachers))
        if not len(self._usable):
            raise self._nothing_to_learn_from()

    def _nothing_to_learn_from(self) -> DataError:
        source, expected = self._config.data.train, "at least one"
        if not self.teachers:
            remedy = "name the field 'rationales', or map it: data.fields.rationales=THEIR_NAME"
            return DataError(source, "no rationale in any of its questions", expected, remedy)
        remedy = "check data.train, data.limit and tree.row_tokens"
        return DataError(source, "no example that the method can learn from", expected, remedy)

    @property
    def num_left_out(self) -> int:
        """Rationales that no row of `tree.row_tokens` holds."""
        return len(self._left_out)

    def write_left_out(self, file: Path) -> None:
        """One JSON object for every rationale that does not fit, none when all do."""
        lines = [json.dumps(asdict(row)) + "\n" for row in self._left_out]
        file.write_text("".join(lines), encoding="utf-8")

    def step(self, step: int, ranks: Ranks) -> StepBatches:
        """This rank's micro-batches of optimizer step `step`; all ranks get the same number of them."""
        wanted = (step, ranks, frozenset(self.unfit))
        if ranks.device.type == "cpu":
            # There is no device to work meanwhile.
            return self._step(*wanted)
        return self._ahead.take(wanted, (step + 1, *wanted[1:]))

    def _step(self, step: int, ranks: Ranks, unfit: Collection[int]) -> StepBatches:
        indices = self._drawn(step, unfit)
        records = [self._set.record(i) for i in indices]
        tree = self._config.tree
        probes = self.method.probes(self._config.compatibility, tree.max_probes)
        chosen = [self._choose(record, i, step) for i, record in zip(indices, records, strict=True)]
        return StepBatches(records, chosen, tree, probes, ranks)

    def leave_out(self, step: int, places: Collection[int]) -> bool:
        """From now on put others in the place of these of step `step`'s examples; False when that makes too many for the run."""
        drawn = self._drawn(step, self.unfit)
        self.unfit |= {drawn[place] for place in places}
        most = self._config.data.max_left_out * len(self._usable)
        return len(self.unfit) <= most and len(self.unfit) < len(self._usable)

    def _drawn(self, step: int, unfit: Collection[int]) -> list[int]:
        """Places in the data of step `step`'s examples, others in the place of those that are `unfit`."""
        config = self._config
        drawn = self._usable[examples_of_step(len(self._usable), config.data.batch_size, config.seed, step)]
        return [int(i) for i in with_substitutes(drawn, self._usable, unfit, config.seed, step)]

    @property
    def usable(self) -> list[int]:
        """Places in the data of the examples that can be learnt from, in order."""
        return [int(i) for i in self._usable]

    def batches_of(self, places: Sequence[int]) -> Iterator[tuple[Batch, list[Record], list[int]]]:
        """Examples by place, each once, with probes, as micro-batches with their records and places."""
        tree = self._config.tree
        for start in range(0, len(places), self._config.data.batch_size):
            indices = places[start : start + self._config.data.batch_size]
            records = [self._set.record(i) for i in indices]
            pieces = [
                plan_pieces(record, self._choose(record, i, 0), tree.layout, tree.row_tokens, tree.max_probes)
                for i, record in zip(indices, records, strict=True)
            ]
            order = list(range(len(indices)))
            for plan in split_into_micro_batches(pieces, order, tree.layout, tree.row_tokens, tree.rows):
                batch, kept = assemble_plan(plan, records, pieces, tree)
                yield batch, kept, [indices[e] for e in plan.examples]

    def _choose(self, record: Record, index: int, step: int) -> list[int]:
        """Which rationales of a record the tree holds at a step: those that fit and that the method selects."""
        fitting = self._set.fits(index)
        rationales = [record.rationales[r] for r in fitting]
        labels = [Labels(self.teachers[r.teacher], _verdict(r), bool(r.answer_right), r.votes) for r in rationales]
        chosen = [fitting[i] for i in self.method.select(labels, draw_of(self._config.seed, step, index))]
        if not chosen:
            expected = f"at least one rationale of {record.id!r}, which `selectable` calls usable"
            raise ConfigError("method", self.method.name, expected, "override `selectable` beside `select`")
        return chosen

    def _read(self) -> Iterator[Example]:
        return read(self._config.data.train, self._config.data, _DATA_SEED, limit=self._config.data.limit)

    @cached_property
    def _copies(self) -> dict[str, str]:
        return copies(self._read())

    @cached_property
    def _reliability(self) -> dict[str, float]:
        return reliability(as_voices(example, self._copies) for example in self._read())

    def _consensus(self, example: Example) -> list[float]:
        return consensus(as_voices(example, self._copies), self._reliability)


def _verdict(rationale: RationaleTokens) -> bool | None:
    return None if rationale.verdict < 0 else bool(rationale.verdict)


def cache_of(config: Config, tokeniser: Tokeniser) -> Path:
    """Where the tokenised examples of a config's training data are, or will be."""
    shapes = {"split", "fields", "limit", "mislead", "teachers", "max_steps"}
    shaping = config.data.model_dump(mode="json", include=shapes)
    key = cache_key(config.data.train, {**shaping, "seed": _DATA_SEED}, tokeniser)
    return (config.data.cache_dir or _DEFAULT_CACHE) / f"{key}.arrow"


def held_out_examples(config: Config) -> list[Example]:
    """The held-out questions, at most `evaluation.limit`; none when the config names no source."""
    source = held_out(config.data)
    if source is None:
        return []
    return list(read(source, config.data, _DATA_SEED, limit=config.evaluation.limit, is_held_out=True))


def check_batch_size(config: Config, group: Ranks) -> None:
    """Refuse a batch that ranks cannot share evenly. Raises ConfigError."""
    if config.data.batch_size % group.world_size:
        expected = f"a multiple of the world size {group.world_size}"
        raise ConfigError("data.batch_size", config.data.batch_size, expected, "change it or the number of ranks")
