"""A checkpoint in DeepSpeed's form for any number of ranks.

Owns the conversion, which runs in a process of its own, as `python -m compact_ds.engine.universal`, under the same limits on
what a file may hold. The converted copy lives only while it is read.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from compact_ds.engine.checkpoint_files import RESTRICT, known_classes
from compact_ds.engine.checkpoint_folder import CONVERTED
from compact_ds.engine.ranks import Ranks
from compact_ds.errors import UserError

_POLL_SECONDS = 5.0
"""The other ranks wait in short turns: a conversion may take longer than a process group's patience."""


def convert(checkpoint: Path, ranks: Ranks, trust: bool) -> Path:
    """Convert on the first rank and return the folder. All ranks call. Raises UserError on all alike."""
    target = checkpoint.parent / CONVERTED / checkpoint.name
    log = target.parent / "stderr.txt"
    process = _start(checkpoint, target, log, trust) if ranks.is_first else None
    while (code := ranks.gather(_poll(process))[0]) is None:
        pass
    if code:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.is_file() else []
        reason = said[-1] if said else f"a conversion that ended with exit code {code}"
        remedy = "resume with the number of ranks that wrote it, or make room for a second copy of it"
        raise UserError(str(checkpoint), reason, "a checkpoint that converts to another world size", remedy)
    return target


def _start(checkpoint: Path, target: Path, log: Path, trust: bool) -> subprocess.Popen[bytes] | OSError:
    command = [sys.executable, "-m", "compact_ds.engine.universal", "--input_folder", str(checkpoint)]
    command += ["--output_folder", str(target), "--num_extract_workers", "1", "--num_merge_workers", "1"]
    # Stages 1 and 2 ask for a mark that only Megatron's checkpoints bear.
    command += ["--inject_missing_state"]
    own = {} if trust else {RESTRICT: "1"}
    try:
        shutil.rmtree(target.parent, ignore_errors=True)
        target.parent.mkdir()
        with log.open("wb") as errors:
            return subprocess.Popen(command, env=os.environ | own, stdout=subprocess.DEVNULL, stderr=errors)
    except OSError as error:
        return error


def _poll(process: subprocess.Popen[bytes] | OSError | None) -> int | None:
    """The exit code, None while there is none; on the other ranks nothing."""
    if isinstance(process, OSError):
        return 1
    if process is None:
        return None
    try:
        return process.wait(_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def main() -> None:
    """Convert as DeepSpeed's own command line does."""
    from deepspeed.checkpoint import ds_to_universal

    torch.serialization.add_safe_globals(known_classes())
    ds_to_universal.main(ds_to_universal.parse_arguments())


if __name__ == "__main__":
    main()
