"""One rank of a test: training in which one teacher's gradient is not finite, its losses being sound.

Run with RANK and its companions set: `python faulty_teacher.py TEACHER key=value ...`; exits as `compact-ds train` does.
"""

import sys

import torch

from compact_ds.cli import main
from compact_ds.optimizer_step import mixing, passes, step


def poison(teacher):
    """From now on the gradient that reaches this teacher's losses is NaN, whatever it was: a kernel that overflows."""
    measured, grouped, order = passes.measure, mixing.groups_of, []

    def groups_of(settings, teachers):
        order.extend(teachers)
        return grouped(settings, teachers)

    def measure(lse_N, z_N1, batch, kernels):
        found = measured(lse_N, z_N1, batch, kernels)
        bad_R = batch.teacher_R == order.index(teacher)
        if found.token_loss_R.requires_grad and batch.counts and bad_R.any():
            found.token_loss_R.register_hook(lambda grad_R: torch.where(bad_R, float("nan"), grad_R))
        return found

    passes.measure = step.measure = measure
    mixing.groups_of = groups_of


if __name__ == "__main__":
    poison(sys.argv[1])
    sys.exit(main(["train", "arithmetic", *sys.argv[2:]]))
