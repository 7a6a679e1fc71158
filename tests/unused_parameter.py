"""One process of a test: how far a parameter moves in a step that does not use it, what a pass leaves to the next one, and what
a step does with a gradient that is no number.

Run with RANK and its companions set: `python unused_parameter.py OUT DEEPSPEED_JSON ...`; each JSON is one more case after
stages 0 to 3.
"""

import sys

import torch
from torch import Tensor, nn

from compact_ds.config import load
from compact_ds.engine.ranks import Ranks, ranks
from compact_ds.engine.shards import full_state
from compact_ds.engine.start import Engine


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.always, self.sometimes = nn.Linear(4, 1), nn.Linear(4, 1)

    def forward(self, batch: tuple[Tensor, bool]) -> Tensor:
        x, both = batch
        loss: Tensor = (self.always(x) + self.sometimes(x) if both else self.always(x)).sum()
        return loss


def moved(overrides: list[str], group: Ranks) -> dict[str, float]:
    # No memory of past gradients, so that only the present one can move a parameter.
    engine = Engine(TwoHeads(), load("arithmetic", ["optimizer.betas=[0.0,0.9]", *overrides]), group)
    x = torch.ones(2, 4)
    states = []
    for both in (True, False):
        engine.backward(engine.forward((x, both)), 1, last=True)
        engine.step(0.1)
        states.append(full_state(engine.student, keep=True))
    return {name: float((states[1][name] - tensor).abs().max()) for name, tensor in states[0].items()}


def taken(overrides: list[str], group: Ranks) -> Tensor:
    """Shards of three passes of one step: both heads, one of them, and a pass of two micro-batches with each in turn."""
    engine = Engine(TwoHeads(), load("arithmetic", overrides), group)
    shards = torch.zeros(3, engine.shards.size)
    for place, micro_batches in enumerate(((True,), (False,), (True, False))):
        engine.shards.clear()
        for i, both in enumerate(micro_batches):
            engine.backward(engine.forward((torch.ones(2, 4), both)), 1, last=i == len(micro_batches) - 1)
        engine.shards.read(shards[place])
    return shards


def refused(overrides: list[str], group: Ranks) -> tuple[float, bool]:
    """The norm that a step of NaN gradients reports, and whether all parameters are as they were."""
    engine = Engine(TwoHeads(), load("arithmetic", overrides), group)
    before = full_state(engine.student, keep=True)
    engine.backward(engine.forward((torch.ones(2, 4), True)) * float("nan"), 1, last=True)
    norm, after = engine.step(0.1), full_state(engine.student, keep=True)
    return norm, all(torch.equal(before[name], tensor) for name, tensor in after.items())


if __name__ == "__main__":
    with ranks(60) as ours:
        settings = [[f"engine.zero_stage={stage}"] for stage in (0, 1, 2, 3)]
        settings += [[f"engine.deepspeed={file}"] for file in sys.argv[2:]]
        found = [
            {"moved": moved(own, ours), "taken": taken(own, ours), "refused": refused(own, ours)} for own in settings
        ]
        torch.save(found, sys.argv[1])
