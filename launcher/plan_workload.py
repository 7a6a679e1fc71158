"""What one rank's optimizer step computes on: micro-batches of rows of tokens.

Owns the estimate of it from a few lengths of the data, by the same rules as `tree.build` and `tree.plan` pack: one question, a
branch a teacher, probes behind the trunk. Real batches vary; a plan is for batches of equal examples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from compact_ds.errors import ConfigError
from compact_ds.sections import Config


@dataclass(frozen=True, slots=True)
class Lengths:
    """An example of the data, in tokens: assumed until someone has counted (`compact-ds data stats` does)."""

    teachers: int = 3
    question: int = 80
    rationale: int = 150
    steps: int = 4
    probe: int = 8
    answer: int = 3


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Sizes of one micro-batch: rows, their trunk and probe tokens, rows of the head and those of them that train.

    `branch_keys` counts the keys of all branches, root and own, and `branch_scores` queries times keys of roots and branches:
    what attention takes without a GPU's kernels (`kernels.tree_spans`). Without them it goes over whole rows.
    """

    rows: int
    trunk: int
    probe: int
    head_rows: int
    trained_rows: int
    branch_keys: int = 0
    branch_scores: int = 0

    @property
    def scores(self) -> int:
        """Trunk queries times keys that dense attention computes."""
        return self.branch_scores or self.rows * self.trunk * self.trunk

    @property
    def tokens(self) -> int:
        """Tokens of the grid, padding included."""
        return self.rows * (self.trunk + self.probe)

    @property
    def trunk_tokens(self) -> int:
        """Those of them that take a gradient."""
        return self.rows * self.trunk


@dataclass(frozen=True, slots=True)
class Workload:
    """A rank's step: micro-batches, and the tokens of all ranks that train, for cost per token."""

    micro_batches: tuple[MicroBatch, ...]
    global_tokens: int

    @property
    def largest(self) -> MicroBatch:
        """The micro-batch that memory must hold."""
        return max(self.micro_batches, key=lambda m: m.tokens)


def workload(config: Config, lengths: Lengths, world_size: int, rows: int | None = None) -> Workload:
    """A rank's micro-batches for equal examples; `rows` instead of the config's `tree.rows`.

    Raises ConfigError when ranks cannot share the batch out or an example does not fit a row.
    """
    tree, batch = config.tree, config.data.batch_size
    if batch % world_size:
        fitting = -(-batch // world_size) * world_size
        raise ConfigError(
            "data.batch_size", batch, f"a multiple of the world size {world_size}", f"set data.batch_size={fitting}"
        )
    probes = 1 + lengths.teachers * min(lengths.steps, tree.max_probes) if _probes(config) else 0
    trunk = lengths.question + lengths.teachers * lengths.rationale
    leaves, trained = probes * lengths.probe, lengths.teachers * lengths.rationale
    if tree.layout == "rows":
        return _separate_rows(config, lengths, world_size, rows or tree.rows)
    pieces = max(1, math.ceil((trunk + leaves) / tree.row_tokens))
    if pieces > lengths.teachers:
        remedy = f"set tree.row_tokens={2 ** math.ceil(math.log2(trunk + leaves))}"
        raise ConfigError(
            "tree.row_tokens", tree.row_tokens, f"a row for {trunk + leaves} tokens of an example", remedy
        )
    # An example cut into pieces repeats its question in each.
    trunk, leaves = (lengths.question + trained // pieces, leaves // pieces)
    each = max(1, tree.row_tokens // (trunk + leaves))
    total = math.ceil(batch // world_size * pieces / each)
    held = min(total, rows or tree.rows)
    filled = min(each, batch // world_size * pieces)
    head = (trained + probes * lengths.answer) // pieces
    together, branches, seen = held * filled, lengths.teachers / pieces, lengths.question + lengths.rationale
    one = MicroBatch(
        held, filled * trunk, filled * leaves, together * head, together * trained // pieces,
        int(together * branches * seen),
        int(together * (branches * lengths.rationale * seen + lengths.question**2)),
    )  # fmt: skip
    return Workload((one,) * math.ceil(total / held), batch * trained)


def _separate_rows(config: Config, lengths: Lengths, world_size: int, rows: int) -> Workload:
    probes = lengths.teachers * min(lengths.steps, config.tree.max_probes) + 1 if _probes(config) else 0
    longest = lengths.question + lengths.rationale
    examples = config.data.batch_size // world_size
    needed = lengths.teachers + probes
    together = max(1, rows * config.tree.row_tokens // (needed * longest))
    held = min(together, examples)
    trained = lengths.teachers * lengths.rationale
    one = MicroBatch(held * needed, longest, 0, held * (trained + probes * lengths.answer), held * trained)
    return Workload((one,) * math.ceil(examples / held), config.data.batch_size * trained)


def _probes(config: Config) -> bool:
    """Whether adaptability moves the weights, as `methods` decides it."""
    alone = config.method in ("compact", "adaptability", "compact_without_consensus", "compact_without_difficulty")
    return alone and (config.compatibility.beta > 0 or config.method == "adaptability")
