"""Checkpoints: written complete or not at all, and read at the same or another number of ranks.

Owns the order of both. A checkpoint is written beside, hashed and seen onto the disk by every rank, given its manifest, and
only then its name. The files are `checkpoint_files`', the folders `checkpoint_folder`'s, other numbers of ranks `universal`'s.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compact_ds.engine import checkpoint_folder as folders
from compact_ds.engine import manifest
from compact_ds.engine.checkpoint_files import Writer, flush, reading
from compact_ds.engine.checkpoint_folder import CONVERTED, UNFINISHED, Found
from compact_ds.engine.frozen import differing
from compact_ds.engine.manifest import About, FileFacts, Manifest
from compact_ds.engine.random_state import random_state, restore
from compact_ds.engine.ranks import Ranks
from compact_ds.engine.start import Engine
from compact_ds.engine.universal import convert
from compact_ds.errors import UserError

STATE = "state.pt"


def save(
    engine: Engine, ranks: Ranks, folder: Path, about: About, state: dict[str, Any], keep: tuple[int, int]
) -> None:
    """Write `folder/step-N` and delete what `keep` (last n, every m) does not keep. All ranks call.

    Raises UserError on all ranks alike when the disk refuses; what was there before is then as it was.
    """
    work = folder / f"step-{about.step}{UNFINISHED}"
    everyone = ranks.gather(random_state(ranks.device))
    _agree(ranks, _prepared(work) if ranks.is_first else None, work)
    files, error = _write(engine, work)
    if ranks.is_first:
        state = {**state, "about": asdict(about), "random": everyone}
        writer = Writer(None, work)
        writer.save(state, str(work / STATE))
        files, error = files | writer.facts, error or writer.error
    _agree(ranks, error, work)
    files = manifest.together(ranks.gather(files))
    extra = [
        name for name in manifest.listed(work) if name not in files
    ]  # copies of files that an optimizer swapped out
    files |= manifest.together(
        ranks.gather({n: manifest.facts_of(work / n) for n in extra[ranks.rank :: ranks.world_size]})
    )
    _agree(ranks, _published(Manifest(about, files), work, folder, keep) if ranks.is_first else None, work)


def find(folder: Path, ranks: Ranks, trust: bool) -> Found | None:
    """What to go on from, verified; see `checkpoint_folder.newest_whole`."""
    return folders.newest_whole(folder, ranks, trust)


def is_universal(found: Found | None, world_size: int) -> bool:
    """Whether it must be read in DeepSpeed's form for any number of ranks. Without ZeRO all ranks hold everything."""
    if found is None or found.manifest is None:
        return False
    about = found.manifest.about
    return about.world_size != world_size and about.zero_stage > 0


def load(engine: Engine, ranks: Ranks, found: Found, trust: bool) -> dict[str, Any]:
    """Restore parameters, moments and random generators; the state that `save` was given. All ranks call. Raises UserError."""
    universal = is_universal(found, ranks.world_size)
    if universal:
        _check_frozen(engine, ranks, found)
    source = convert(found.folder, ranks, trust) if universal else found.folder
    state = _state(found, ranks, trust)
    try:
        with reading(trust):
            path, _ = engine.deepspeed.load_checkpoint(str(source.parent), tag=source.name)
        restore(state["random"], ranks.rank, ranks.device)
    except Exception as error:
        # DeepSpeed's ranks wait for one another as they load: to tell the others could wait for ever.
        raise _refusal(found, _reason(error)) from None
    if path is None:
        raise UserError(str(found.folder), "nothing to load", "a checkpoint", "take another one")
    _part_step_counts(engine.deepspeed.optimizer)
    # At the same number of ranks DeepSpeed has put the checkpoint's own frozen parameters in place.
    engine.frozen = state["about"]["frozen"]
    ranks.barrier()
    if universal and ranks.is_first:
        shutil.rmtree(found.folder.parent / CONVERTED, ignore_errors=True)
    return state


def _state(found: Found, ranks: Ranks, trust: bool) -> dict[str, Any]:
    """What `save` was given, read by every rank. Raises UserError on all of them when one cannot."""
    state, wrong = {}, None
    try:
        with reading(trust):
            state = torch.load(found.folder / STATE, map_location="cpu")
    except Exception as error:
        wrong = _reason(error)
    if said := next(filter(None, ranks.gather(wrong)), None):
        raise _refusal(found, said)
    return state


def _reason(error: Exception) -> str:
    """Whatever a file that agrees with its manifest may hold: DeepSpeed and torch raise all kinds of errors over it."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"


def _refusal(found: Found, reason: str) -> UserError:
    return UserError(str(found.folder), reason, "a checkpoint of this run", "take another one")


def _prepared(work: Path) -> OSError | None:
    try:
        work.parent.mkdir(parents=True, exist_ok=True)
        folders.clear(work.parent)
        work.mkdir()
    except OSError as error:
        return error
    return None


def _write(engine: Engine, work: Path) -> tuple[dict[str, FileFacts], OSError | None]:
    """DeepSpeed's files of this rank, by path inside the checkpoint, and what went wrong."""
    inside = engine.deepspeed
    before = inside.checkpoint_engine
    writer = Writer(before, work)
    inside.checkpoint_engine = writer
    # It would copy two scripts beside the checkpoint from the first rank alone, and leave the others waiting on a full disk.
    inside._copy_recovery_script = lambda save_path: None
    try:
        inside.save_checkpoint(str(work.parent), tag=work.name, save_latest=False)
    finally:
        inside.checkpoint_engine = before
    return writer.facts, writer.error


def _published(whole: Manifest, work: Path, folder: Path, keep: tuple[int, int]) -> OSError | None:
    try:
        flush(manifest.write(whole, work))
        folders.publish(work, folder, whole.about.step)
    except OSError as error:
        return error
    folders.prune(folder, whole.about.step, *keep)
    return None


def _agree(ranks: Ranks, error: OSError | None, work: Path) -> None:
    """Go on when no rank has met an error; raise UserError on all of them when one has, and leave no part behind."""
    said = error and f"{error.strerror or error} on rank {ranks.rank}"
    problems = [one for one in ranks.gather(said) if one]
    if not problems:
        return
    if ranks.is_first:
        shutil.rmtree(work, ignore_errors=True)
    step = work.name.removesuffix(UNFINISHED)
    left = folders.steps(work.parent)
    still = f"the newest checkpoint is step-{left[0]}" if left else "there is no checkpoint"
    raise UserError(str(work.with_name(step)), problems[0], "room for a checkpoint", f"make room and --resume; {still}")


def _check_frozen(engine: Engine, ranks: Ranks, found: Found) -> None:
    assert found.manifest is not None
    wrong = ranks.gather(differing(found.manifest.about.frozen, engine.frozen) if ranks.is_first else [])[0]
    if wrong:
        value = f"other weights than the checkpoint {found.folder} stands on: {wrong[0]} and {len(wrong) - 1} more"
        remedy = "put the base model back as it was, or resume with the number of ranks that wrote the checkpoint"
        raise UserError("student.model", value, "the same frozen parameters", remedy)


def _part_step_counts(optimizer: Any) -> None:
    """Give every shard a step count of its own.

    A universal checkpoint leaves one tensor to all of them, which each shard's update would then count up for the others.
    """
    for state in getattr(optimizer, "optimizer", optimizer).state.values():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].clone()
