"""One rank of a test: training in which one teacher's gradient is not finite, its losses being sound.

Run with RANK and its companions set: `python faulty_teacher.py TEACHER key=value ...`; exits as `compact-ds train` does.
"""

import sys
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from compact_ds.cli import main
from compact_ds.kernels.choice import Kernels
from compact_ds.mixer import gradient_mode
from compact_ds.optimizer_step import mixing, passes, step
from compact_ds.sections import MixerConfig
from compact_ds.student import measure as student_measure
from compact_ds.student.measure import Measurement
from compact_ds.tree.batch import Batch


def poison(teacher: str) -> None:
    """From now on the gradient that reaches this teacher's losses is NaN, whatever it was: a kernel that overflows."""
    order: list[str] = []

    def groups_of(settings: MixerConfig, teachers: Sequence[str]) -> dict[str, tuple[int, ...]]:
        order.extend(teachers)
        return gradient_mode.groups_of(settings, teachers)

    def measure(lse_N: Tensor, z_N1: Tensor, batch: Batch, kernels: Kernels) -> Measurement:
        found = student_measure.measure(lse_N, z_N1, batch, kernels)
        bad_R = batch.teacher_R == order.index(teacher)
        if found.token_loss_R.requires_grad and batch.counts and bad_R.any():
            found.token_loss_R.register_hook(lambda grad_R: torch.where(bad_R, float("nan"), grad_R))
        return found

    patch = pytest.MonkeyPatch()
    for module in (passes, step):
        patch.setattr(module, "measure", measure)
    patch.setattr(mixing, "groups_of", groups_of)


if __name__ == "__main__":
    poison(sys.argv[1])
    sys.exit(main(["train", "arithmetic", *sys.argv[2:]]))
