"""One rank of a test: what the collectives of optimizer steps carry, for our steps and for plain fine-tuning of the same model.

Run with RANK and its companions set: `python traffic_of_steps.py OUT DEEPSPEED_JSON key=value ...`. Saves, from the first rank,
`Traffic.summary` of both, and DeepSpeed's own log of ours as `{op: bytes a step}`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compact_ds.config import load
from compact_ds.engine.ranks import Ranks, ranks
from compact_ds.engine.start import Engine
from compact_ds.optimizer_step.step import Step
from compact_ds.optimizer_step.training_set import TrainingSet
from compact_ds.sections import Config
from compact_ds.student.load import load_lm, load_tokenizer
from compact_ds.student.measure import Student
from compact_ds.tree.tokenise import Tokeniser

STEPS = 3


class Plain(nn.Module):
    """Fine-tuning as transformers computes it."""

    def __init__(self, lm: PreTrainedModel) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, ids: Tensor) -> Tensor:
        loss: Tensor = self.lm(input_ids=ids, labels=ids).loss
        return loss


def plain_steps(config: Config, group: Ranks, vocabulary: int) -> dict[str, Any]:
    engine = Engine(Plain(load_lm(config, vocabulary)), config, group)
    for _ in range(STEPS):
        engine.traffic.begin_step()
        engine.backward(engine.forward(torch.randint(vocabulary, (2, 40))), 2, last=True)
        engine.step(1e-3)
        engine.traffic.end_step()
    return engine.traffic.summary(engine.parameter_bytes)


def logged(world_size: int) -> dict[str, float]:
    """DeepSpeed's log as bytes a step of the whole tensors: it takes an all-gather's input, one rank's shard."""
    from deepspeed.comm.comm import comms_logger

    found = {}
    for name, sizes in comms_logger.comms_dict.items():
        times = world_size if "all_gather" in name else 1
        found[name] = sum(size * row[0] for size, row in sizes.items()) * times / STEPS
    return found


def main(out: str, deepspeed_json: str, overrides: list[str]) -> None:
    from deepspeed.comm.comm import comms_logger

    config = load("arithmetic", [f"engine.deepspeed={deepspeed_json}", *overrides])
    tokeniser = Tokeniser(load_tokenizer(config.student), config.data.cue)
    data = TrainingSet(config, tokeniser)
    vocabulary = len(tokeniser.tokenizer)
    with ranks(60) as group:
        plain = plain_steps(config, group, vocabulary)
        engine = Engine(
            Student(load_lm(config, vocabulary), config.tree.layout, config.tree.probes, config.kernels), config, group
        )
        step = Step(config, data, engine, group)
        comms_logger.comms_dict.clear()
        for number in range(STEPS):
            engine.traffic.begin_step()
            step.run(number, 1e-3, asked_to_stop=False)
            engine.traffic.end_step()
        found = {
            "plain": plain,
            "ours": engine.traffic.summary(engine.parameter_bytes),
            "logged": logged(group.world_size),
        }
        if group.is_first:
            Path(out).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
