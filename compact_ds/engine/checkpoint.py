"""Checkpoints that a killed run leaves whole, and resuming at the same or another number of ranks.

Owns `checkpoints/`: one folder a step with DeepSpeed's shards, and `latest`, which is replaced only after every rank has
its files on disk. DeepSpeed itself writes `latest` before the last rank is done.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from compact_ds.engine.ranks import Ranks
from compact_ds.engine.start import Engine
from compact_ds.errors import UserError


def save(engine: Engine, ranks: Ranks, folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write `folder/step-N` and point `latest` to it; older checkpoints go. All ranks call."""
    tag = f"step-{step}"
    engine.deepspeed.save_checkpoint(str(folder), tag=tag, client_state={"compact_ds": state}, save_latest=False)
    for file in (folder / tag).iterdir():
        if f"_rank_{ranks.rank}_" in file.name:
            _flush(file)
    ranks.barrier()
    if ranks.is_first:
        pointer = folder / "latest.unfinished"
        pointer.write_text(tag, encoding="utf-8")
        _flush(pointer)
        os.replace(pointer, folder / "latest")
        for old in folder.glob("step-*"):
            if old.name != tag:
                shutil.rmtree(old)
    ranks.barrier()


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    pointer = folder / "latest"
    return folder / pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else None


def world_size_of(checkpoint: Path) -> int:
    """How many ranks wrote it."""
    return len(list(checkpoint.glob("*zero_pp_rank_*_optim_states.pt"))) or 1


def make_universal(checkpoint: Path, ranks: Ranks) -> Path:
    """The checkpoint in DeepSpeed's form for any number of ranks, converted once by the first rank."""
    universal = checkpoint.with_name(f"{checkpoint.name}_universal")
    if ranks.is_first and not universal.is_dir():
        command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--input_folder", str(checkpoint)]
        workers = ["--num_extract_workers", "1", "--num_merge_workers", "1"]
        done = subprocess.run([*command, "--output_folder", str(universal), *workers], capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(universal, ignore_errors=True)
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            remedy = "resume with the number of ranks that wrote it"
            raise UserError(str(checkpoint), reason, "a checkpoint that converts to another world size", remedy)
    ranks.barrier()
    return universal


def load(engine: Engine, checkpoint: Path) -> dict[str, Any]:
    """Restore parameters and moments; the state that `save` was given. All ranks call. Raises UserError."""
    try:
        path, client = engine.deepspeed.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(str(checkpoint), reason, "a whole checkpoint", "delete the folder and start again") from None
    if path is None:
        raise UserError(str(checkpoint), "nothing to load", "a checkpoint", "delete the folder and start again")
    _part_step_counts(engine.deepspeed.optimizer)
    state: dict[str, Any] = client["compact_ds"]
    return state


def _part_step_counts(optimizer: Any) -> None:
    """Give every shard a step count of its own.

    A universal checkpoint leaves one tensor to all of them, which each shard's update would then count up for the others.
    """
    for state in getattr(optimizer, "optimizer", optimizer).state.values():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].clone()


def _flush(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
