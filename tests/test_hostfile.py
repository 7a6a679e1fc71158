"""Hostfiles and the choice of slots, against DeepSpeed's own reading of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from deepspeed.launcher import runner

from compact_ds.errors import UserError
from compact_ds.launcher.hostfile import choose, read_hostfile

TEXT = "# three nodes\nworker-1 slots=4\n\n  worker-2 slots=2   # the old one\n10.0.0.3 slots=1\n"


@pytest.fixture
def hostfile(tmp_path: Path) -> Path:
    file = tmp_path / "hostfile"
    file.write_text(TEXT)
    return file


@pytest.mark.parametrize(
    ("include", "exclude"),
    [
        ("", ""),
        ("worker-2", ""),
        ("10.0.0.3@worker-1:2,0", ""),
        ("worker-1:1@worker-1:3", ""),
        ("", "worker-2"),
        ("", "worker-1:0,3@worker-2:0,1"),
    ],
)
def test_the_same_slots_as_deepspeed_takes(hostfile: Path, include: str, exclude: str) -> None:
    theirs = runner.parse_inclusion_exclusion(runner.fetch_hostfile(str(hostfile)), include, exclude)
    ours = choose(read_hostfile(hostfile), include, exclude)
    assert list(ours.items()) == list(theirs.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("worker-1\n", r"hostfile:1: found worker-1; expected HOST slots=N"),
        ("a slots=1\nb slots=0\n", r"hostfile:2: found b slots=0"),
        ("-oProxyCommand=x slots=1\n", r"expected HOST slots=N"),
        ("a slots=1\na slots=2\n", r"hostfile:2: .* expected each host once"),
        ("# nobody\n", "found no host"),
    ],
)
def test_a_wrong_hostfile_is_named_by_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "hostfile").write_text(text)
    with pytest.raises(UserError, match=message):
        read_hostfile(tmp_path / "hostfile")


@pytest.mark.parametrize(
    ("include", "exclude", "message"),
    [
        ("worker-3", "", "did you mean 'worker-"),
        ("worker-1:4", "", "expected slots below 4"),
        ("worker-1:x", "", "expected NAME:SLOT,SLOT"),
        ("worker-1", "worker-2", "only one of --include and --exclude"),
        ("", "worker-1@worker-2@10.0.0.3", "at least one slot that is left"),
    ],
)
def test_a_wrong_choice_is_refused(hostfile: Path, include: str, exclude: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose(read_hostfile(hostfile), include, exclude)
