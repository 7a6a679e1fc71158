"""What ranks print reaches the terminal as it came, each error once and on a line of its own."""

from __future__ import annotations

import io
import os
import threading
import time

import pytest

from compact_ds.errors import ERROR_PREFIX
from compact_ds.launcher.relay import Relay


def test_other_lines_are_relayed_as_they_came() -> None:
    error = f"{ERROR_PREFIX}once\n".encode()
    sent = (
        b"a\rb"
        + b"\n"
        + error
        + b"warning\n"
        + error
        + f"{ERROR_PREFIX}other\n".encode()
        + b"warning\ncompact-ds: not one"
    )
    read, write = os.pipe()
    os.write(write, sent)
    os.close(write)
    sink = io.BytesIO()
    with os.fdopen(read, "rb") as source:
        Relay().copy(source, sink)
    assert sink.getvalue() == sent.replace(b"warning\n" + error, b"warning\n", 1)


@pytest.mark.parametrize("at_once", [True, False])
def test_an_error_behind_an_open_progress_bar_gets_its_own_line(at_once: bool) -> None:
    error = f"{ERROR_PREFIX}once\n".encode()
    read, write = os.pipe()
    os.write(write, b"\rcompact: 17%" + (error if at_once else b""))
    sink = io.BytesIO()

    def later() -> None:
        while not at_once and not sink.getvalue():
            time.sleep(0.01)
        os.write(write, b"\n" + error if at_once else error)
        os.close(write)

    other_rank = threading.Thread(target=later)
    other_rank.start()
    with os.fdopen(read, "rb") as source:
        Relay().copy(source, sink)
    other_rank.join()
    assert sink.getvalue() == b"\rcompact: 17%\n" + error + (b"\n" if at_once else b"")
