"""What one rank's optimizer step computes on: micro-batches of rows of tokens.

Owns the estimate of it from a few lengths of the data, by the same rules as `tree.build` and `tree.plan` pack: one question, a
branch a teacher, probes behind the trunk. Real batches vary; a plan is for batches of equal examples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from compact_ds.errors import ConfigError, UserError
from compact_ds.launcher.plan_evaluation import evaluated_tokens
from compact_ds.sections import Config, TreeConfig


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
    """A rank's step: the micro-batches of its first pass, and the tokens of all ranks that train, for cost per token.

    `alone` has those of a pass over each teacher (or group) alone, without probes, and `retention` those of a pass over a
    retention batch, of questions as long as the others: what `plan_mixing` may want of a step beside the first. `branches` is how
    many `method: mot` has, whose state it keeps for each. `evaluated` are the tokens of texts written at a time, None where
    nothing is evaluated.
    """

    micro_batches: tuple[MicroBatch, ...]
    global_tokens: int
    alone: tuple[tuple[MicroBatch, ...], ...] = ()
    retention: tuple[MicroBatch, ...] = ()
    branches: int = 0
    evaluated: int | None = None

    @property
    def largest(self) -> MicroBatch:
        """The micro-batch that memory must hold."""
        return max(self.micro_batches, key=lambda m: m.tokens)


def workload(config: Config, lengths: Lengths, world_size: int, rows: int | None = None) -> Workload:
    """A rank's micro-batches for equal examples; `rows` instead of the config's `tree.rows`.

    Raises UserError without ranks, ConfigError when they cannot share the batch out or an example does not fit a row.
    """
    if world_size < 1:
        raise UserError("--world-size", world_size, "1 or more", "give the number of ranks")
    tree, batch, retain = config.tree, config.data.batch_size, config.mixer.retain
    if batch % world_size:
        fitting = -(-batch // world_size) * world_size
        raise ConfigError(
            "data.batch_size", batch, f"a multiple of the world size {world_size}", f"set data.batch_size={fitting}"
        )
    if rows is not None:
        tree = tree.model_copy(update={"rows": rows})
    own, kept = batch // world_size, 0 if retain is None else max(1, retain.batch_size // world_size)
    return Workload(
        _micro_batches(tree, lengths, own, _probes(config, lengths)),
        batch * lengths.teachers * lengths.rationale,
        tuple(_micro_batches(tree, replace(lengths, teachers=n), own, 0) for n in _groups(config, lengths.teachers)),
        _micro_batches(tree, lengths, kept, 0) if kept else (),
        lengths.teachers if config.method == "mot" else 0,
        evaluated_tokens(config, lengths.question, world_size),
    )


def _micro_batches(tree: TreeConfig, lengths: Lengths, examples: int, probes: int) -> tuple[MicroBatch, ...]:
    """Those of `examples` equal examples with so many probes each. Raises ConfigError when one does not fit a row."""
    if tree.layout == "rows":
        return _separate_rows(tree, lengths, examples, probes)
    trunk = lengths.question + lengths.teachers * lengths.rationale
    leaves, trained = probes * lengths.probe, lengths.teachers * lengths.rationale
    pieces = max(1, math.ceil((trunk + leaves) / tree.row_tokens))
    if pieces > lengths.teachers:
        remedy = f"set tree.row_tokens={2 ** math.ceil(math.log2(trunk + leaves))}"
        raise ConfigError(
            "tree.row_tokens", tree.row_tokens, f"a row for {trunk + leaves} tokens of an example", remedy
        )
    # An example cut into pieces repeats its question in each.
    trunk, leaves = (lengths.question + trained // pieces, leaves // pieces)
    each = max(1, tree.row_tokens // (trunk + leaves))
    total = math.ceil(examples * pieces / each)
    held = min(total, tree.rows)
    filled = min(each, examples * pieces)
    head = (trained + probes * lengths.answer) // pieces
    together, branches, seen = held * filled, lengths.teachers / pieces, lengths.question + lengths.rationale
    one = MicroBatch(
        held, filled * trunk, filled * leaves, together * head, together * trained // pieces,
        int(together * branches * seen),
        int(together * (branches * lengths.rationale * seen + lengths.question**2)),
    )  # fmt: skip
    return (one,) * math.ceil(total / held)


def _separate_rows(tree: TreeConfig, lengths: Lengths, examples: int, probes: int) -> tuple[MicroBatch, ...]:
    longest = lengths.question + lengths.rationale
    needed = lengths.teachers + probes
    together = max(1, tree.rows * tree.row_tokens // (needed * longest))
    held = min(together, examples)
    trained = lengths.teachers * lengths.rationale
    one = MicroBatch(held * needed, longest, 0, held * (trained + probes * lengths.answer), held * trained)
    return (one,) * math.ceil(examples / held)


def _groups(config: Config, teachers: int) -> list[int]:
    """How many teachers share each gradient, as `mixer.gradient_mode.groups_of` has it; a lone teacher's methods have one."""
    if config.method == "mot" or config.method.startswith("single:"):
        return [1]
    grouped = [len(members) for members in config.mixer.groups.values()]
    return grouped + [1] * (teachers - sum(grouped))


def _probes(config: Config, lengths: Lengths) -> int:
    """Probes of an example in training: the bare question's and as many a rationale as the method reads, or none."""
    # Here, because it brings torch: the count is the method's own, an extension's too.
    from compact_ds.methods.method import method

    each = method(config.method).probes(config.compatibility, config.tree.max_probes)
    return 1 + lengths.teachers * min(lengths.steps, each) if each else 0
