"""Which accelerators of this machine the ranks get."""

from __future__ import annotations

import os

from compact_ds.errors import UserError


def uses_gpu() -> bool:
    """Whether ranks compute on this machine's GPU: DS_ACCELERATOR=cpu keeps them off it, as it keeps DeepSpeed."""
    import torch

    return os.environ.get("DS_ACCELERATOR") != "cpu" and torch.cuda.is_available()


def local_devices(nprocs: int) -> list[str] | None:
    """Ids of the accelerators for `nprocs` ranks, those of CUDA_VISIBLE_DEVICES first; None without any, or under
    DS_ACCELERATOR=cpu.

    Raises UserError when there are fewer than ranks.
    """
    import torch

    if os.environ.get("DS_ACCELERATOR") == "cpu" or not torch.accelerator.is_available():
        return None
    count = torch.accelerator.device_count()
    if count < nprocs:
        raise UserError("--nprocs", nprocs, f"at most {count}, one rank per accelerator", f"give --nprocs {count}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (visible.split(",") if visible else [str(device) for device in range(count)])[:nprocs]
