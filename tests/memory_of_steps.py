"""One rank: what its tensors hold in memory, what its collectives carry and how long its steps take.

Run with RANK and its companions set: `python memory_of_steps.py OUT CONFIG RUNS`, where RUNS is a JSON list of lists of
overrides, measured one after the other in one process. The instrument is PyTorch's own record of its CPU allocator
(torch.profiler, profile_memory), on from before the student is built: every tensor counts, a kernel's scratch memory too; memory
maps and the interpreter do not. Times are of the same step after the recording: by the clock, and of the processor, which do not
grow with what else the machine does. OUT-RANK.json has for each run the bytes held after the last recorded step and the highest
of each phase of all but the first, which has no optimizer state yet; the means of the traffic, the times, and the sizes of the
micro-batches. Several steps, because what collectives hold at a time is a race of threads: a run needs what its worst step needs.
"""

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from compact_ds.config import load
from compact_ds.engine.ranks import Ranks, ranks
from compact_ds.engine.start import Engine
from compact_ds.optimizer_step.step import Step
from compact_ds.optimizer_step.training_set import TrainingSet
from compact_ds.student.load import load_lm, load_tokenizer
from compact_ds.student.measure import Student
from compact_ds.tree.batch import Batch
from compact_ds.tree.tokenise import Tokeniser

RECORDED, TIMED = 8, 2
PHASES = ("forward", "backward", "update")


def named(function: Callable[..., Any], phase: str) -> Callable[..., Any]:
    def inside(*given: Any, **named_arguments: Any) -> Any:
        with record_function(f"phase {phase}"):
            return function(*given, **named_arguments)

    return inside


def phases(recorded: profile) -> dict[str, int]:
    """Highest bytes held in each phase after the first step, and at the end, from the allocator's events in time order."""
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    events: Sequence[Any] = recorded.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held, curve = 0, []
    for moment, size in changes:
        held += size
        curve.append((moment, held))
    start = sorted(e.start_ns() for e in events if e.name() == "phase step")[1]
    found = {"rest": held}
    for phase in PHASES:
        spans = [(e.start_ns(), e.start_ns() + e.duration_ns()) for e in events if e.name() == f"phase {phase}"]
        spans = [span for span in spans if span[0] >= start]
        found[phase] = max(h for t, h in curve for begin, end in spans if begin <= t <= end)
    found["peak"] = max(h for t, h in curve if t >= start)
    return found


def spans(batch: Batch) -> tuple[int, int]:
    """Keys of all branches, and queries times keys of roots and branches."""
    keys = [(n, place.lengths[0] + n) for place in batch.places for n in place.lengths[1:]]
    roots = sum(place.lengths[0] ** 2 for place in batch.places)
    return sum(seen for _, seen in keys), roots + sum(n * seen for n, seen in keys)


def shapes(batches: Sequence[Batch]) -> list[dict[str, int]]:
    """Sizes of a rank's micro-batches."""
    return [
        {
            "rows": b.ids_BL.shape[0],
            "trunk": b.num_trunk,
            "probe": b.ids_BL.shape[1] - b.num_trunk,
            "head_rows": b.index_N.shape[0],
            "trained_rows": b.num_grad,
            "branch_keys": spans(b)[0],
            "branch_scores": spans(b)[1],
        }
        for b in batches
    ]


def measured(config_file: str, overrides: list[str], group: Ranks) -> dict[str, Any]:
    """One run's figures."""
    config = load(config_file, overrides)
    tokeniser = Tokeniser(load_tokenizer(config.student), config.data.cue)
    data = TrainingSet(config, tokeniser)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        lm = load_lm(config, len(tokeniser.tokenizer))
        engine = Engine(Student(lm, config.tree.layout, config.tree.probes, config.kernels), config, group)
        for name, phase in (("forward", "forward"), ("backward", "backward"), ("step", "update")):
            setattr(engine, name, named(getattr(engine, name), phase))
        step = Step(config, data, engine, group)
        for _ in range(RECORDED):
            with record_function("phase step"):
                step.run(0, 1e-3, asked_to_stop=False)
    found: dict[str, Any] = {"memory": phases(recorded)}
    seconds, processor = [], []
    for _ in range(TIMED):
        engine.traffic.begin_step()
        begun = time.perf_counter(), time.process_time()
        step.run(0, 1e-3, asked_to_stop=False)
        seconds.append(time.perf_counter() - begun[0])
        processor.append(time.process_time() - begun[1])
        engine.traffic.end_step()
    found["traffic"] = engine.traffic.summary(engine.parameter_bytes)
    found["seconds"], found["processor_seconds"] = statistics.median(seconds), statistics.median(processor)
    found["micro_batches"] = shapes(data.step(0, group).batches)
    return found


def main(out: str, config_file: str, runs: list[list[str]]) -> None:
    with ranks(300) as group:
        found = []
        for overrides in runs:
            gc.collect()
            found.append(measured(config_file, overrides, group))
        Path(f"{out}-{group.rank}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
