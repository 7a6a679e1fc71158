"""How the files of a checkpoint are written and read: to the disk for certain, and without running what they hold.

Owns what stands in for DeepSpeed's own writer, and which classes a checkpoint may name. DeepSpeed reads with Python's full
pickle; here torch is told to take tensors, plain values and four of DeepSpeed's classes and nothing else.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import torch

from compact_ds.engine.manifest import FileFacts

_CLASSES = (
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
)
"""What DeepSpeed puts into its files besides tensors and plain values."""

RESTRICT = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""torch's own switch, which wins over DeepSpeed's `weights_only=False`."""


class Writer:
    """Takes the place of DeepSpeed's checkpoint engine while one checkpoint is written.

    `facts` are the files written so far, by path inside the checkpoint, and `error` what went wrong first. No method raises
    what a disk may do: DeepSpeed's ranks wait for one another between files, and one that left early would leave them waiting.
    """

    def __init__(self, inner: Any, folder: Path) -> None:
        self._inner, self._folder = inner, folder
        self.facts: dict[str, FileFacts] = {}
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def save(self, state_dict: Any, path: str) -> None:
        """Write one file, hash it on the way, and see it onto the disk."""
        if self.error is not None:
            return
        try:
            with open(path, "wb") as stream:
                hashed = _Hashed(stream)
                torch.save(state_dict, cast(IO[bytes], hashed))
                if hashed.error is None:
                    stream.flush()
                    os.fsync(stream.fileno())
        except OSError as error:
            self.error = error
            return
        self.error = hashed.error
        self.facts[Path(path).relative_to(self._folder).as_posix()] = hashed.facts


class _Hashed:
    """A stream that hashes what it passes on, and keeps the error of a full disk to itself: torch's writer aborts on one."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._digest, self._num_bytes = stream, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Pass on, unless an earlier write failed."""
        size = memoryview(data).nbytes
        if self.error is None:
            try:
                self._stream.write(data)
            except OSError as error:
                self.error = error
        self._digest.update(data)
        self._num_bytes += size
        return size

    def flush(self) -> None:
        """Flushed once, at the end."""

    @property
    def facts(self) -> FileFacts:
        return FileFacts(self._num_bytes, self._digest.hexdigest())


@contextmanager
def reading(trust: bool) -> Iterator[None]:
    """While it lasts every `torch.load`, DeepSpeed's too, refuses what could run code; with `trust` nothing is refused."""
    if trust:
        yield
        return
    before = os.environ.get(RESTRICT)
    os.environ[RESTRICT] = "1"
    try:
        with torch.serialization.safe_globals(known_classes()):
            yield
    finally:
        if before is None:
            del os.environ[RESTRICT]
        else:
            os.environ[RESTRICT] = before


def known_classes() -> list[Any]:
    """The classes that a checkpoint may name."""
    return [getattr(importlib.import_module(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in _CLASSES]


def strange_names(file: Path) -> list[str]:
    """What a file's pickle would import beyond tensors, plain values and the known classes; nothing is loaded.

    Raises ValueError or RuntimeError for what is no torch file.
    """
    names: list[str] = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
    return sorted(set(names) - set(_CLASSES))


def flush(path: Path) -> None:
    """See a file, or the names in a folder, onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
