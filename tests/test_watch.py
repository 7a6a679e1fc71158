"""Whether a run ends when nobody reads it any more, and goes on where that cannot be told."""

import io
import os
import sys
import threading
from pathlib import Path
from typing import TextIO

import pytest

from compact_ds.launcher import heartbeat
from compact_ds.run.watch import Watch

BEAT = 0.02
SOON = 20 * BEAT


def stops(folder: Path, stream: TextIO | None, monkeypatch: pytest.MonkeyPatch, asked: bool = False) -> bool:
    """Whether a watch asks the run to end within a few of its beats."""
    stopped = threading.Event()
    monkeypatch.setattr(sys, "stderr", stream)
    with Watch(folder, BEAT, 60.0, stopped.set) as watch:
        if asked:
            stopped.wait(SOON)
            (folder / heartbeat.FOLDER / heartbeat.STOP).touch()
        found = stopped.wait(30.0 if asked else SOON)
        assert watch._thread.is_alive()
    return found


def test_a_pipe_without_a_reader_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        assert not stops(tmp_path, stream, monkeypatch)
        os.close(reader)
        assert stops(tmp_path, stream, monkeypatch)


@pytest.mark.parametrize("stream", [io.StringIO(), None])
def test_what_a_notebook_has_for_stderr_is_no_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: TextIO | None
) -> None:
    # The watch goes on: it hears the request that comes after many beats.
    assert not stops(tmp_path, stream, monkeypatch)
    assert stops(tmp_path, stream, monkeypatch, asked=True)
