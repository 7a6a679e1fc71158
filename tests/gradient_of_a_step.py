"""One rank of a test: full gradients and parameters of one optimizer step, for several configs, saved by the first rank.

Run with RANK and its companions set: `python gradient_of_a_step.py CASES`, a JSON file with a list of
`{"out": FILE, "mute": BOOL, "overrides": [key=value, ...]}`. `mute` sets the weights of every question to zero that the
second of two ranks would hold, whatever the number of ranks is.
"""

import json
import sys
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from compact_ds.config import load
from compact_ds.engine.ranks import Ranks, ranks
from compact_ds.engine.shards import full_state
from compact_ds.engine.start import Engine
from compact_ds.methods.evidence import Evidence
from compact_ds.methods.method import Method
from compact_ds.optimizer_step.reference_sets import reference_sets
from compact_ds.optimizer_step.step import Step
from compact_ds.optimizer_step.training_set import TrainingSet
from compact_ds.student.load import load_lm, load_tokenizer
from compact_ds.student.measure import Student
from compact_ds.tree.tokenise import Tokeniser

LR = 1e-2


class Muted:
    """A method whose weights are zero for chosen questions."""

    def __init__(self, method: Method, data: TrainingSet, group: Ranks) -> None:
        self._method = method
        second = data.step(0, Ranks(1, 2, group.device))
        self._ids = {record.id for batch in second.records for record in batch}
        self._batches = iter(data.step(0, group).records)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._method, name)

    def weigh(self, evidence: Evidence, *rest: Any) -> Tensor:
        weight_R = self._method.weigh(evidence, *rest)
        counts_X = torch.tensor([record.id not in self._ids for record in next(self._batches)])
        return weight_R * counts_X[evidence.example_R]


def run(case: dict[str, Any], group: Ranks) -> None:
    from deepspeed.utils import safe_get_full_grad

    config = load("arithmetic", case["overrides"])
    tokeniser = Tokeniser(load_tokenizer(config.student), config.data.cue)
    data = TrainingSet(config, tokeniser)
    lm = load_lm(config, len(tokeniser.tokenizer))
    student = Student(lm, config.tree.layout, config.tree.probes, config.kernels, data.method.ranks_targets)
    engine = Engine(student, config, group)
    step = Step(config, data, engine, group, reference_sets(config, tokeniser, group))
    # Scales as a running job has them, so that weights are far from uniform.
    step.scales.sums = torch.tensor([0.5, 0.02, 0.001, 24, 24, 24, 300, 100], dtype=torch.float64)
    if case["mute"]:
        data.method = cast(Method, Muted(data.method, data, group))
    gradients, update = {}, engine.step

    def keep(lr: float) -> float:
        trained = [(n, p) for n, p in engine.student.named_parameters() if p.requires_grad]
        gradients.update({n: safe_get_full_grad(p).float().clone() for n, p in trained})
        return update(lr)

    engine.step = keep  # type: ignore[method-assign]
    result = step.run(0, LR, asked_to_stop=False)
    metrics = result.metrics
    own = data.step(0, group)
    parameters = full_state(engine.student, keep=True)
    if group.is_first:
        found = {
            "gradients": gradients,
            "parameters": parameters,
            "num_batches": len(own.batches),
            "ids": [record.id for records in own.records for record in records],
            "norm": metrics.grad_norm,
            "report": result.per_teacher,
        }
        torch.save(found | {"rationales": [b.num_rationales for b in own.batches]}, case["out"])


if __name__ == "__main__":
    with ranks(60) as ours:
        for each in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
            run(each, ours)
