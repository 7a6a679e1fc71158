"""Errors that users meet, when they come from another process."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from compact_ds.errors import ConfigError, DataError, FaultError, UserError


@pytest.mark.parametrize(
    "error",
    [
        UserError("--jobs", 0, "at least 1", "give a positive number"),
        ConfigError("data.train", Path("a b"), "a file", "check the path"),
        DataError("file:3", None, "an answer", "fill it in"),
        FaultError.of_fault("rank 1 is gone"),
    ],
)
def test_an_error_crosses_processes_as_it_was(error: UserError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert (again.where, again.expected, again.remedy) == (error.where, error.expected, error.remedy)
    assert again.exit_code == error.exit_code


def test_a_broken_line_ends_a_command_of_several_processes(tmp_path: Path) -> None:
    file = tmp_path / "raw.jsonl"
    file.write_text('{"id": "q1", \n', encoding="utf-8")
    command = [sys.executable, "-m", "compact_ds.cli", "data", "verify", str(file), "--jobs", "2"]
    # It waited for ever for a worker that had died of the error; a start takes some 5 s.
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"compact-ds: error: {file}:1: found")
