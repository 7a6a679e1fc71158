"""Saving where old checkpoints cannot be deleted: the new one is written all the same, and the old is told once."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from whole_checkpoint import Alone

from compact_ds.engine import checkpoint
from compact_ds.engine import checkpoint_folder as folders
from compact_ds.engine.manifest import About
from compact_ds.errors import UserError


class DeepSpeed:
    """Writes one file, as DeepSpeed does, through the checkpoint engine that it has at the time."""

    checkpoint_engine: Any = None

    def save_checkpoint(self, folder: str, tag: str, save_latest: bool) -> None:
        self.checkpoint_engine.save({"weight": torch.ones(4)}, str(Path(folder) / tag / "model.pt"))


def _save(folder: Path, step: int) -> None:
    engine: Any = SimpleNamespace(deepspeed=DeepSpeed())
    checkpoint.save(engine, Alone(), folder, About(step, 1, 3, {}, {}, {}), {}, keep=(1, 0))


def _whole(folder: Path) -> list[int]:
    """Steps of the checkpoints, the newest of which can be gone on from."""
    found = folders.newest_whole(folder, Alone(), trust=False)
    assert found is not None and found.folder.name == f"step-{folders.steps(folder)[0]}"
    return folders.steps(folder)


@pytest.fixture
def open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is being deleted cannot be emptied, as on NFS while another node has a file of it open."""
    rmdir = os.rmdir

    def busy(path: Any, **place: Any) -> None:
        if str(path).endswith(folders.REMOVED):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))
        rmdir(path, **place)

    monkeypatch.setattr(os, "rmdir", busy)


@pytest.mark.usefixtures("open_files")
def test_a_checkpoint_that_cannot_be_deleted_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for step in (3, 6, 9):
            _save(tmp_path, step)
            assert _whole(tmp_path) == [step]
    assert (tmp_path / "latest").read_text(encoding="utf-8") == "step-9"
    told = [record.message for record in caplog.records if "could not be deleted" in record.message]
    assert told == [
        f"{tmp_path / f'step-{step}.removed'} could not be deleted: Directory not empty; it may take room until you delete it"
        for step in (3, 6)
    ]


def test_a_checkpoint_that_cannot_even_be_renamed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def refused(source: Path, target: Path) -> None:
        if str(target).endswith(folders.REMOVED):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", refused)
    for step in (3, 6):
        _save(tmp_path, step)
    assert _whole(tmp_path) == [6, 3]


def test_a_new_one_that_cannot_get_its_name_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(tmp_path, 3)

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(UserError, match=r"step-6: found No space left .* the newest checkpoint is step-3"):
        _save(tmp_path, 6)
    assert _whole(tmp_path) == [3]
