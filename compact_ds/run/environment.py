"""What a run runs on, for whoever wants to repeat it: releases, machine, ranks.

Owns the list. No environment variable is in it: they hold keys.
"""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import torch

from compact_ds import __version__

_PACKAGES = ("torch", "deepspeed", "transformers", "peft", "datasets", "numpy", "triton")


def environment(world_size: int) -> dict[str, Any]:
    """Releases of what the figures depend on, processor or accelerator, number of ranks. Calls no accelerator without one."""
    has_gpu = torch.cuda.is_available()
    return {
        "compact_ds": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "ranks": world_size,
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        "accelerator": f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}" if has_gpu else "none",
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
