"""One process of a test: how far a parameter moves in a step that does not use it, by ZeRO stage.

Run with RANK and its companions set: `python unused_parameter.py OUT [DEEPSPEED_JSON]`.
"""

import sys

import torch
from torch import nn

from compact_ds.config import load
from compact_ds.engine.ranks import ranks
from compact_ds.engine.shards import full_state
from compact_ds.engine.start import Engine


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.always, self.sometimes = nn.Linear(4, 1), nn.Linear(4, 1)

    def forward(self, batch):
        x, both = batch
        return (self.always(x) + self.sometimes(x) if both else self.always(x)).sum()


def moved(overrides, group):
    # No memory of past gradients, so that only the present one can move a parameter.
    engine = Engine(TwoHeads(), load("arithmetic", ["optimizer.betas=[0.0,0.9]", *overrides]), group)
    x = torch.ones(2, 4)
    states = []
    for both in (True, False):
        engine.backward(engine.forward((x, both)), 1, last=True)
        engine.step(0.1)
        states.append(full_state(engine.student, keep=True))
    return {name: float((states[1][name] - tensor).abs().max()) for name, tensor in states[0].items()}


if __name__ == "__main__":
    with ranks(60) as ours:
        settings = [[f"engine.zero_stage={stage}"] for stage in (1, 2, 3)] + [[f"engine.deepspeed={sys.argv[2]}"]]
        torch.save([moved(overrides, ours) for overrides in settings], sys.argv[1])
