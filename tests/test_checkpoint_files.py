"""Writing a checkpoint's files on a full disk, and reading them without running what they hold."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch

from compact_ds.engine import manifest
from compact_ds.engine.checkpoint_files import RESTRICT, Writer, known_classes, reading, strange_names


def test_what_is_hashed_on_the_way_is_what_lies_on_the_disk(tmp_path: Path) -> None:
    writer = Writer(None, tmp_path)
    file = tmp_path / "state.pt"
    writer.save({"weight": torch.arange(100_000.0), "name": "x"}, str(file))
    assert writer.error is None
    data = file.read_bytes()
    facts = writer.facts["state.pt"]
    assert facts == manifest.facts_of(file)
    assert (facts.num_bytes, facts.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert torch.equal(torch.load(file, weights_only=True)["weight"], torch.arange(100_000.0))


def test_a_full_disk_is_noted_and_nothing_is_raised(tmp_path: Path) -> None:
    (tmp_path / "full.pt").symlink_to("/dev/full")
    writer = Writer(None, tmp_path)
    writer.save({"weight": torch.zeros(1 << 20)}, str(tmp_path / "full.pt"))
    assert writer.error is not None and writer.error.errno == errno.ENOSPC
    writer.save({}, str(tmp_path / "next.pt"))
    assert not (tmp_path / "next.pt").exists()


def test_what_the_writer_does_not_do_itself_is_left_to_deepspeed(tmp_path: Path) -> None:
    class Inner:
        def is_decoupled(self) -> bool:
            return False

    assert Writer(Inner(), tmp_path).is_decoupled() is False


class _Runs:
    def __init__(self, mark: str) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self._mark,)


def test_reading_takes_what_deepspeed_writes_and_refuses_code_even_when_asked_for_it(tmp_path: Path) -> None:
    scaler = known_classes()[0](scale=4.0)
    torch.save({"scaler": scaler, "weight": torch.ones(3)}, tmp_path / "fine.pt")
    torch.save({"bad": _Runs(str(tmp_path / "ran"))}, tmp_path / "bad.pt")
    assert strange_names(tmp_path / "fine.pt") == []
    assert strange_names(tmp_path / "bad.pt") == ["posix.mkdir"]
    with reading(trust=False):
        # As DeepSpeed asks.
        assert torch.load(tmp_path / "fine.pt", weights_only=False)["scaler"].cur_scale == 4.0
        with pytest.raises(pickle.UnpicklingError, match=r"posix\.mkdir"):
            torch.load(tmp_path / "bad.pt", weights_only=False)
    assert not (tmp_path / "ran").exists()
    assert RESTRICT not in os.environ
    with reading(trust=True):
        torch.load(tmp_path / "bad.pt", weights_only=False)
    assert (tmp_path / "ran").exists()


def test_a_file_that_torch_did_not_write_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello", encoding="utf-8")
    with pytest.raises((ValueError, RuntimeError)):
        strange_names(tmp_path / "text.pt")
