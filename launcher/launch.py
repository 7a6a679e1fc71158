"""One training run on one machine with N ranks.

Owns what is checked before any rank starts, which devices the ranks get, and how their end is judged. The processes
themselves are in `ranks`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from compact_ds.config import load
from compact_ds.errors import ConfigError, UserError
from compact_ds.launcher.ranks import run_ranks

ABORTED = 250
"""SIGABRT (6) as DeepSpeed's launcher reports it: 256 - 6."""


def launch(config: str | Path, overrides: Sequence[str], nprocs: int, resume: bool = False, trust: bool = False) -> int:
    """Train `config` under `overrides` with `nprocs` ranks and return the exit code.

    2 when a rank met an error that its user can mend; that line was printed once. Raises ConfigError and UserError for
    what can be seen without starting a rank.
    """
    checked = load(config, list(overrides))
    check_world_size(checked.data.batch_size, nprocs)
    if checked.mixer.retain is not None:
        check_world_size(checked.mixer.retain.batch_size, nprocs, "mixer.retain.batch_size")
    devices = local_devices(nprocs)
    summary = checked.run_dir / "summary.json"
    written_before = _written(summary)
    arguments = [str(config), *overrides, *(["--resume"] if resume else []), *(["--trust"] if trust else [])]
    on_cpu = devices is None
    code = run_ranks("compact_ds.train", arguments, devices or [str(rank) for rank in range(nprocs)], on_cpu)
    if code == ABORTED and _written(summary) not in (None, written_before):
        # gloo's threads abort about one finished process in fifty while it exits; the run itself was complete.
        sys.stderr.write(
            f"compact-ds: a rank aborted on its way out, after {summary} was written; the run is complete\n"
        )
        return 0
    return code


def launch_module(module: str, arguments: Sequence[str], nprocs: int) -> int:
    """Run a module of ours with `nprocs` ranks on this machine and return the exit code. Raises UserError."""
    if nprocs < 1:
        raise UserError("--nprocs", nprocs, "1 or more", "give the number of ranks to start")
    devices = local_devices(nprocs)
    return run_ranks(module, arguments, devices or [str(rank) for rank in range(nprocs)], devices is None)


def check_world_size(batch_size: int, nprocs: int, key: str = "data.batch_size") -> None:
    """Refuse a number of ranks that cannot share a step's questions out evenly. Raises ConfigError."""
    if nprocs < 1:
        raise UserError("--nprocs", nprocs, "1 or more", "give the number of ranks to start")
    if batch_size % nprocs:
        expected = f"a multiple of the world size {nprocs}"
        fitting = max(n for n in range(1, nprocs) if batch_size % n == 0)
        remedy = f"set {key}={-(-batch_size // nprocs) * nprocs} or --nprocs {fitting}"
        raise ConfigError(key, batch_size, expected, remedy)


def local_devices(nprocs: int) -> list[str] | None:
    """Ids of the accelerators for `nprocs` ranks, those of CUDA_VISIBLE_DEVICES first; None on a machine without any.

    Raises UserError when there are fewer than ranks.
    """
    import torch

    if not torch.accelerator.is_available():
        return None
    count = torch.accelerator.device_count()
    if count < nprocs:
        raise UserError("--nprocs", nprocs, f"at most {count}, one rank per accelerator", f"give --nprocs {count}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (visible.split(",") if visible else [str(device) for device in range(count)])[:nprocs]


def _written(file: Path) -> int | None:
    """When the file was last written, in nanoseconds; None when it does not exist."""
    return file.stat().st_mtime_ns if file.is_file() else None
