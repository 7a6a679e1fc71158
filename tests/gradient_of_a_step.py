"""One rank of a test: the full gradient of one optimizer step, saved by the first rank.

Run with RANK and its companions set: `python gradient_of_a_step.py OUT all|mute key=value ...`; `mute` sets the last rank's
weights to zero.
"""

import sys
from pathlib import Path

import torch

from compact_ds.config import load
from compact_ds.engine.ranks import ranks
from compact_ds.engine.start import Engine
from compact_ds.step import Step
from compact_ds.student.load import load_lm, load_tokenizer
from compact_ds.student.measure import Student
from compact_ds.training_set import TrainingSet
from compact_ds.tree.tokenise import Tokeniser


def main(out: Path, mute_last_rank: bool, overrides: list[str]) -> None:
    config = load("arithmetic", overrides)
    tokeniser = Tokeniser(load_tokenizer(config.student), config.data.cue)
    data = TrainingSet(config, tokeniser)
    with ranks(60) as group:
        from deepspeed.utils import safe_get_full_grad

        lm = load_lm(config, len(tokeniser.tokenizer))
        engine = Engine(Student(lm, config.tree.layout, config.tree.probes), config, group)
        step = Step(config, data, engine, group)
        # Scales as a running job has them, so that weights are far from uniform.
        step.scales.sums = torch.tensor([0.5, 0.02, 0.001, 24, 24, 24, 300, 100], dtype=torch.float64)
        if mute_last_rank and group.rank == group.world_size - 1:
            weigh = step._weigh
            step._weigh = lambda batch, number, agreement: (weigh(batch, number, agreement)[0] * 0.0, None, None)
        gradients = {}

        def keep(lr: float) -> float:
            gradients.update({n: safe_get_full_grad(p) for n, p in engine.student.named_parameters()})
            return 0.0

        engine.step = keep
        step.run(0, 1e-3, asked_to_stop=False)
        num_batches = len(data.step(0, group).batches)
        if group.is_first:
            torch.save({"gradients": gradients, "num_batches": num_batches}, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "mute", sys.argv[3:])
