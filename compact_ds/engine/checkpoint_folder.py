"""`checkpoints/`: which of its folders are whole, which is the newest, and which are kept.

Owns names and their meaning. `step-N` is whole; `step-N.unfinished` is being written or was when its run died;
`step-N.removed` is being deleted; `converted` holds one that is being read by another number of ranks. `latest` names the
newest for people and for DeepSpeed's own tools: a run looks at the folders themselves.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from compact_ds.engine import manifest
from compact_ds.engine.checkpoint_files import flush, strange_names
from compact_ds.engine.manifest import Manifest
from compact_ds.engine.ranks import Ranks
from compact_ds.errors import UserError

UNFINISHED, REMOVED, CONVERTED, LATEST = ".unfinished", ".removed", "converted", "latest"

_LOG = logging.getLogger(__name__)
_STEP = re.compile(r"step-(\d+)")


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint to go on from; `manifest` is None when it has none and is trusted all the same."""

    folder: Path
    manifest: Manifest | None


def steps(folder: Path) -> list[int]:
    """Steps of the folders that are named as whole ones are, newest first."""
    if not folder.is_dir():
        return []
    names = (_STEP.fullmatch(path.name) for path in folder.iterdir() if path.is_dir())
    return sorted((int(name[1]) for name in names if name), reverse=True)


def newest_whole(folder: Path, ranks: Ranks, trust: bool) -> Found | None:
    """The newest checkpoint that is as it was written, or None where no run has finished one. All ranks call.

    Every rank reads its share of the files. Damaged ones are named and passed over. Raises UserError on all ranks alike when
    there are only damaged ones; with `trust` damage is named and the newest is taken all the same.
    """
    mine = steps(folder) if ranks.is_first else []
    candidates = ranks.gather(mine)[0]
    if ranks.is_first:
        _name_leftovers(folder, candidates)
    damaged: list[tuple[Path, str]] = []
    for step in candidates:
        path = folder / f"step-{step}"
        found, wrong = _examine(path, ranks)
        if not wrong:
            if ranks.is_first and damaged:
                _LOG.warning("going on from %s", path)
            return Found(path, found)
        if ranks.is_first:
            _LOG.warning("%s: %s; %s", path, wrong, "trusted all the same" if trust else "passed over")
        if trust:
            return Found(path, found)
        damaged.append((path, wrong))
    if damaged:
        path, wrong = damaged[0]
        remedy = (
            f"put the file back, delete {folder} to start again, or --trust the checkpoint if you know that it is yours"
        )
        raise UserError(str(path), wrong, "a checkpoint as it was written, this one or an older one", remedy)
    return None


def clear(folder: Path) -> None:
    """Delete what earlier runs left unfinished. What cannot be deleted is told once, and left."""
    with _told(folder):
        for path in folder.iterdir() if folder.is_dir() else []:
            if path.name.endswith((UNFINISHED, REMOVED)) or path.name == CONVERTED:
                with _told(path):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def publish(work: Path, folder: Path, step: int) -> None:
    """Give a checkpoint that is complete on the disk its name, and then point `latest` to it."""
    flush(work)
    target = folder / f"step-{step}"
    remove(target)  # a damaged one that this run had passed over
    os.rename(work, target)
    flush(folder)
    pointer = folder / f"{LATEST}{UNFINISHED}"
    pointer.write_text(target.name, encoding="utf-8")
    flush(pointer)
    os.replace(pointer, folder / LATEST)
    flush(folder)


def prune(folder: Path, newest: int, keep: int, keep_every: int) -> None:
    """Delete what the policy does not keep, and what lies after `newest`: a past that this run did not go on from.

    What cannot be deleted is told once, and left: the newest is whole without that.
    """
    with _told(folder):
        there = steps(folder)
        kept = kept_steps([step for step in there if step <= newest], keep, keep_every)
        for step in there:
            if step not in kept:
                with _told(folder / f"step-{step}"):
                    remove(folder / f"step-{step}")


def kept_steps(there: list[int], keep: int, keep_every: int) -> set[int]:
    """The last `keep` of the steps, and every one that is a multiple of `keep_every` unless that is 0."""
    last = sorted(there)[-keep:]
    return set(last) | {step for step in there if keep_every and step % keep_every == 0}


def remove(path: Path) -> None:
    """Delete a checkpoint so that no part of it ever bears a whole one's name."""
    if path.is_dir():
        doomed = path.with_name(path.name + REMOVED)
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(path, doomed)
        with _told(doomed):
            shutil.rmtree(doomed)


def warn_of_strangers(run_dir: Path) -> None:
    """Say so when other users of the machine may write where checkpoints are read from."""
    for folder in (run_dir, run_dir / "checkpoints"):
        if folder.is_dir() and folder.stat().st_mode & stat.S_IWOTH:
            _LOG.warning("%s can be written by everyone on this machine, checkpoints too: chmod o-w %s", folder, folder)


def _examine(path: Path, ranks: Ranks) -> tuple[Manifest | None, str]:
    """The manifest, if it can be read, and what is wrong with the checkpoint, the same on all ranks."""
    found, refused = None, None
    try:
        found = manifest.read(path)
    except UserError as error:
        refused = f"{Path(error.where).name}: {error.value}"
    # One rank's disk may fail it alone: all must go the same way from here.
    if said := next(filter(None, ranks.gather(refused)), None):
        return None, said
    assert found is not None
    wrong = manifest.strangers(found, path) if ranks.is_first else []
    if not ranks.gather(wrong)[0]:
        mine = list(found.files)[ranks.rank :: ranks.world_size]
        wrong = manifest.damage(found, path, mine) or [one for one in (_code_in(path / n) for n in mine) if one]
    everyone = [one for part in ranks.gather(wrong) for one in part]
    more = f" (and {len(everyone) - 1} more)" if len(everyone) > 1 else ""
    return found, f"{everyone[0]}{more}" if everyone else ""


def _code_in(file: Path) -> str | None:
    if file.suffix != ".pt":
        return None
    try:
        names = strange_names(file)
    except (ValueError, RuntimeError):
        return f"{file.name}: not a file that torch wrote"
    except OSError as error:
        return f"{file.name}: {error.strerror}"
    return f"{file.name}: would run {', '.join(names[:3])} when read" if names else None


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """A warning in place of an error while something is deleted: a network disk keeps a name for a file that is still open."""
    try:
        yield
    except OSError as error:
        _tell(path, error.strerror or str(error))


@cache  # every save tries again
def _tell(path: Path, why: str) -> None:
    _LOG.warning("%s could not be deleted: %s; it may take room until you delete it", path, why)


def _name_leftovers(folder: Path, whole: list[int]) -> None:
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_dir() and path.name.endswith((UNFINISHED, REMOVED)):
            _LOG.warning("%s was left by a run that ended while it wrote or deleted it; passed over", path)
    pointer = folder / LATEST
    if whole and pointer.is_file():
        said = pointer.read_text(encoding="utf-8", errors="replace").strip()
        if said != f"step-{whole[0]}":
            _LOG.warning("%s names %.60r; the newest checkpoint is step-%d", pointer, said, whole[0])
