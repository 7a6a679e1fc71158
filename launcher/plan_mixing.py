"""The gradients that a rank holds as shards, and the passes that take them: gradient mode, the retention guard, diagnostics.

Owns how many there are, as `mixer.gradient_mode.wanted` decides it where the teachers' names are known, and when the run holds
them. What a shard weighs is `plan_memory`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from compact_ds.launcher.plan_workload import MicroBatch, Workload
from compact_ds.sections import Config


@dataclass(frozen=True, slots=True)
class Held:
    """Gradients that a rank holds: `between` steps and in the optimizer's, and the `most` at any time."""

    between: int
    most: int


def held(config: Config, work: Workload, world_size: int) -> Held:
    """What the whole run holds.

    Loss mode gives a diagnosing step's shards back before the update, gradient mode keeps them until the next step's.
    """
    plain = gradients(config, work, world_size, diagnosing=False)
    most = max(plain, gradients(config, work, world_size, diagnosing=True) if diagnoses(config) else 0)
    return Held(most if config.mixer.mode == "gradient" else plain, most)


def diagnoses(config: Config) -> bool:
    """Whether any step of the run does."""
    return 0 < config.mixer.diagnose_every <= config.max_steps


def gradients(config: Config, work: Workload, world_size: int, diagnosing: bool) -> int:
    """Those of one step that are taken as shards; 0 where a plain backward pass will do, or where no teachers are known."""
    by_group = config.mixer.mode == "gradient"
    found = len(work.alone) if by_group else 1 + diagnosing * len(work.alone)
    found += _guards(config) or (diagnosing and config.mixer.retain is not None)
    found += diagnosing and _compares_with_answers(config, world_size)
    return found if found > 1 and work.alone else 0


def further_passes(config: Config, work: Workload) -> tuple[tuple[MicroBatch, ...], ...]:
    """The micro-batches of every kind of pass that any step of the run makes after its first, gold answers' apart: those are
    smaller than a teacher's."""
    alone = work.alone if config.mixer.mode == "gradient" or diagnoses(config) else ()
    return (*alone, *([work.retention] if _guards(config) or (config.mixer.retain and diagnoses(config)) else []))


def passes_of_a_step(config: Config, work: Workload) -> tuple[tuple[MicroBatch, ...], ...]:
    """The passes of a step that does not diagnose: the weighing one, in gradient mode one for every teacher but the first, and
    the guard's."""
    alone = work.alone[1:] if config.mixer.mode == "gradient" else ()
    return (work.micro_batches, *alone, *([work.retention] if _guards(config) else []))


def whole_step(config: Config, work: Workload) -> Workload:
    """The micro-batches of all those passes in one."""
    return replace(work, micro_batches=sum(passes_of_a_step(config, work), ()))


def _guards(config: Config) -> bool:
    return config.mixer.retain is not None and config.mixer.retain.guard


def _compares_with_answers(config: Config, world_size: int) -> bool:
    """Whether held-out questions are asked for, and give every rank one. A branch of `mot` has none."""
    # Here, because only those who diagnose need to know of readers.
    from compact_ds.data.readers import held_out

    limit = config.evaluation.limit
    asked_for = config.mixer.probe_questions > 0 and held_out(config.data) is not None
    return config.method != "mot" and asked_for and (limit is None or limit >= world_size)
