"""One rank of a test: two optimizer steps on data of which one example's consensus is no number, for several configs.

Run with RANK and its companions set: `python unfit_example.py CASES ID`. CASES is a JSON file with a list of
`{"out": FILE, "unfit": PLACE, "known": BOOL, "overrides": [key=value, ...]}`; ID is the example's. `known` leaves it out before
the first step, so that nothing is ever taken of it. The first rank saves parameters, what was reported, what a checkpoint
would hold, and what a run that resumes from it leaves out.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from compact_ds.compatibility.consensus import consensus as sound_consensus
from compact_ds.config import load
from compact_ds.data.records import Example
from compact_ds.engine.ranks import Ranks, ranks
from compact_ds.engine.shards import full_state
from compact_ds.engine.start import Engine
from compact_ds.errors import DataError
from compact_ds.optimizer_step import training_set
from compact_ds.optimizer_step.step import Step
from compact_ds.optimizer_step.training_set import TrainingSet
from compact_ds.student.load import load_lm, load_tokenizer
from compact_ds.student.measure import Student
from compact_ds.tree.tokenise import Tokeniser

LR = 1e-2


def run(case: dict[str, Any], group: Ranks) -> None:
    """Two steps of one case."""
    config = load("arithmetic", case["overrides"])
    tokeniser = Tokeniser(load_tokenizer(config.student), config.data.cue)
    data = TrainingSet(config, tokeniser)
    if case["known"]:
        data.unfit.add(case["unfit"])
    student = Student(load_lm(config, len(tokeniser.tokenizer)), config.tree.layout, config.tree.probes, config.kernels)
    engine = Engine(student, config, group)
    step = Step(config, data, engine, group)
    found: dict[str, Any] = {"reports": []}
    try:
        found["reports"] = [step.run(number, LR, asked_to_stop=False).per_teacher for number in range(2)]
    except DataError as error:
        found["error"] = str(error)
    found |= {"parameters": full_state(engine.student, keep=True), "unfit": step.state()["unfit"]}
    again = TrainingSet(config, tokeniser)
    Step(config, again, engine, group).load_state(step.state())
    found["resumed"] = sorted(again.unfit)
    if group.is_first:
        torch.save(found, case["out"])


def spoil(id_: str) -> None:
    """From now on the consensus of this example's rationales is NaN."""

    def consensus(example: Example, reliability: dict[str, float]) -> list[float]:
        return [float("nan") if example.id == id_ else value for value in sound_consensus(example, reliability)]

    pytest.MonkeyPatch().setattr(training_set, "consensus", consensus)


if __name__ == "__main__":
    spoil(sys.argv[2])
    with ranks(60) as ours:
        for each in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
            run(each, ours)
