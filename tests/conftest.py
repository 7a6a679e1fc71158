"""Without a GPU, Triton kernels run in Triton's interpreter; the switch is read when a kernel is defined. Drawn examples have no
deadline: other work on the machine is no fault of theirs."""

import os

import torch
from hypothesis import settings

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

settings.register_profile("whatever_else_runs", deadline=None)
settings.load_profile("whatever_else_runs")
