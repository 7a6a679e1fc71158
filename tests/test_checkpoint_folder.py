"""Which checkpoint a run goes on from: whole ones, damaged ones, unfinished ones, and which are kept."""

from __future__ import annotations

import dataclasses
import logging
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from whole_checkpoint import Alone, checkpoint

from compact_ds.engine import checkpoint_folder as folders
from compact_ds.engine import manifest
from compact_ds.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two whole checkpoints, of steps 3 and 6."""
    for step in (3, 6):
        checkpoint(tmp_path, step)
    return tmp_path


def _newest(folder: Path, trust: bool = False) -> str | None:
    found = folders.newest_whole(folder, Alone(), trust)
    return None if found is None else found.folder.name


def test_the_newest_of_the_whole_ones_is_taken(folder: Path) -> None:
    checkpoint(folder, 12)
    assert _newest(folder) == "step-12"
    assert folders.steps(folder) == [12, 6, 3]
    assert _newest(folder / "absent") is None


def test_one_that_is_being_written_or_deleted_is_named_and_passed_over(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(folder / "step-6", folder / "step-9.unfinished")
    os.rename(folder / "step-3", folder / "step-3.removed")
    with caplog.at_level(logging.WARNING):
        assert _newest(folder) == "step-6"
    assert "step-9.unfinished was left by a run" in caplog.text and "step-3.removed" in caplog.text
    folders.clear(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["step-6"]


def test_every_flipped_byte_and_every_cut_is_found_and_its_file_named(folder: Path) -> None:
    draw = random.Random(0)
    path = folder / "step-6"
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for _ in range(25):
            place = draw.randrange(len(whole))
            flipped = bytes([whole[place] ^ (1 << draw.randrange(8))])
            for damaged in (whole[:place] + flipped + whole[place + 1 :], whole[:place]):
                file.write_bytes(damaged)
                assert _newest(folder) == "step-3", (file.name, place)
                with pytest.raises(UserError, match=file.name):
                    _only(path)
        file.write_bytes(whole)
        assert _newest(folder) == "step-6"


def _only(path: Path) -> None:
    """Look for a checkpoint where the other one is not there."""
    alone = path.parent.with_name("alone")
    shutil.rmtree(alone, ignore_errors=True)
    shutil.copytree(path, alone / path.name)
    folders.newest_whole(alone, Alone(), trust=False)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda path: (path / "manifest.json").unlink(), "manifest.json: No such file"),
        (lambda path: (path / "optim.pt").unlink(), "optim.pt: missing"),
        (lambda path: (path / "more.pt").write_bytes(b"x"), "more.pt: not in the manifest"),
        (lambda path: (path / "model.pt").write_bytes(b"short"), "model.pt: 5 bytes where"),
        (lambda path: (path / "manifest.json").write_text("[]"), "not a manifest"),
        (
            lambda path: (path / "manifest.json").write_text((path / "manifest.json").read_text()[:-1]),
            "changed after it was written",
        ),
    ],
    ids=["no manifest", "missing", "unknown", "short", "no object", "no last line end"],
)
def test_damage_is_named_and_passed_over_or_refused_or_trusted(
    folder: Path, change: object, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(change)
    change(folder / "step-6")
    with caplog.at_level(logging.WARNING):
        assert _newest(folder) == "step-3"
    assert told in caplog.text and "going on from" in caplog.text
    assert _newest(folder, trust=True) == "step-6"
    with pytest.raises(UserError, match="or --trust"):
        _only(folder / "step-6")


@pytest.mark.parametrize(
    ("key", "value"), [("step", 7), ("step", "6"), ("world_size", 0), ("identity", None), ("frozen", 5)]
)
def test_a_manifest_that_was_signed_with_nonsense_is_none(folder: Path, key: str, value: Any) -> None:
    path = folder / "step-6"
    found = manifest.read(path)
    manifest.write(manifest.Manifest(dataclasses.replace(found.about, **{key: value}), found.files), path)
    assert _newest(folder) == "step-3"
    with pytest.raises(UserError, match=r"manifest\.json: "):
        _only(path)


class _Runs:
    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._mark),)


def test_a_file_that_would_run_code_is_refused_whatever_the_manifest_says(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    path = checkpoint(tmp_path / "checkpoints", 6, model={"weight": torch.ones(2)}, optim=_Runs(mark))
    assert not manifest.damage(manifest.read(path), path, ["optim.pt"])
    with pytest.raises(UserError, match=r"optim\.pt: would run posix\.mkdir"):
        _newest(path.parent)
    assert not mark.exists()
    torch.load(path / "optim.pt", weights_only=False)
    assert mark.exists()  # so the file was what it seemed


def test_publishing_replaces_a_damaged_one_and_moves_latest(folder: Path) -> None:
    (folder / "step-6" / "model.pt").write_bytes(b"damaged")
    os.rename(checkpoint(folder / "elsewhere", 6), folder / "step-6.unfinished")
    (folder / "elsewhere").rmdir()
    folders.publish(folder / "step-6.unfinished", folder, 6)
    assert _newest(folder) == "step-6"
    assert (folder / "latest").read_text(encoding="utf-8") == "step-6"
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "step-3", "step-6"]


def test_a_pointer_that_names_another_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "latest").write_text("step-4000", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert _newest(folder) == "step-6"
    assert "latest names 'step-4000'" in caplog.text


def test_the_last_n_and_every_m_are_kept() -> None:
    assert folders.kept_steps([10, 20, 30, 40, 50], keep=2, keep_every=0) == {40, 50}
    assert folders.kept_steps([10, 20, 30, 40, 50], keep=1, keep_every=20) == {20, 40, 50}
    assert folders.kept_steps([50], keep=3, keep_every=0) == {50}


def test_pruning_deletes_the_rest_and_what_lies_after_the_newest(folder: Path) -> None:
    for step in (8, 20):
        checkpoint(folder, step)
    folders.prune(folder, newest=8, keep=1, keep_every=3)
    assert folders.steps(folder) == [8, 6, 3]
    assert not list(folder.glob("*.removed"))


def test_a_folder_that_everyone_may_write_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.chmod(0o777)
    with caplog.at_level(logging.WARNING):
        folders.warn_of_strangers(folder)
    assert f"chmod o-w {folder}" in caplog.text
    caplog.clear()
    folder.chmod(0o755)
    folders.warn_of_strangers(folder)
    assert not caplog.text
