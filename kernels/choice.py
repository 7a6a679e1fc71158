"""Which implementation runs: one decision from the setting, the device and the operands' type, logged once.

Owns the decision for the head and its scores (attention's is in `tree_attention`). Imports no kernel.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from typing import Literal, get_args

import torch

from compact_ds.errors import ConfigError, nearest

Kernels = Literal["auto", "torch", "triton"]
Path = Literal["torch", "triton"]

logger = logging.getLogger(__name__)
_OLDEST = (8, 0)


@functools.cache
def choose(kernels: Kernels, device: torch.device, dtype: torch.dtype | None = None, unfit: str | None = None) -> Path:
    """The path for matrix operands of a type (None: no matrix product is involved) on a device; says once why.

    `auto` takes Triton for 16-bit operands on a GPU of compute capability 8.0 or newer, or on ROCm: fp32 operands cannot use its
    tensor cores without losing bits, and there the library's products are as good. `unfit` says why the kernels cannot take
    these operands (None: they can). Raises ConfigError when `triton` is asked for where it cannot run, and for a word that is
    none of the three.
    """
    if kernels not in get_args(Kernels):
        raise ConfigError("kernels", kernels, "auto, torch or triton", nearest(str(kernels), get_args(Kernels)))
    missing = _unable(device)
    if kernels == "triton":
        if missing is not None:
            expected = f"a place where Triton runs ({missing})"
            raise ConfigError("kernels", "triton", expected, "set kernels=torch or kernels=auto")
        if unfit is not None:
            raise ConfigError("kernels", "triton", f"operands that it takes ({unfit})", "set kernels=torch")
        return _said("triton", "asked for", dtype)
    if kernels == "torch":
        return _said("torch", "asked for", dtype)
    if device.type == "cpu":
        return _said("torch", "the device is a CPU", dtype)
    if missing is not None:
        return _said("torch", missing, dtype)
    if unfit is not None:
        return _said("torch", unfit, dtype)
    if dtype not in (None, torch.bfloat16, torch.float16):
        return _said("torch", f"{dtype} operands have no tensor cores", dtype)
    return _said("triton", "the device is a GPU", dtype)


def _unable(device: torch.device) -> str | None:
    """Why Triton cannot run on the device, or None."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if device.type == "cpu":
        from triton import knobs

        # Triton's own switch, for tests: programs run one after another in Python.
        return None if knobs.runtime.interpret else "it has no CPU backend"
    if device.type != "cuda":
        return f"it has no backend for {device.type}"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < _OLDEST:
        return "the GPU is older than compute capability 8.0"
    return None


def _said(path: Path, why: str, dtype: torch.dtype | None) -> Path:
    what = "segment scores" if dtype is None else f"the head in {str(dtype).removeprefix('torch.')}"
    logger.info("kernels: %s for %s (%s)", path, what, why)
    return path
