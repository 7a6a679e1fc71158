"""The journal: torn lines, broken lines, one writer."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from generate_job import Job, journal, write_job

from compact_ds.data.generate import run
from compact_ds.data.generate_journal import Entry, Journal, Key
from compact_ds.errors import DataError, UserError


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Writes a job into the test's folder."""
    return partial(write_job, tmp_path)


def entry(number: int) -> Entry:
    return Entry(Key(f"q{number}", "t", 0, "s"), f"text é\u2028{number}", 1, 2, 0.5, False)


def test_a_torn_last_line_is_cut_off_wherever_it_was_torn(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    with Journal(whole) as journal:
        for number in range(2):
            journal.add(entry(number))
    content = whole.read_bytes()
    first = content.index(b"\n") + 1
    for length in range(first, len(content)):
        torn = tmp_path / "torn"
        torn.write_bytes(content[:length])
        with Journal(torn) as journal:
            assert (len(journal), journal.get(entry(0).key), journal.get(entry(1).key)) == (1, entry(0), None)
            journal.add(entry(1))
        assert torn.read_bytes() == content


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    file.write_bytes(b'{"id": 1}\n')
    with (
        pytest.raises(DataError, match=r"journal:1: found .* expected a finished call; delete the line"),
        Journal(file),
    ):
        pass


def test_one_run_at_a_time(job: Job) -> None:
    options = job(None, {"base_url": "http://localhost:1"})
    with Journal(journal(options)), pytest.raises(UserError, match="another run that writes it"):
        run(options)
