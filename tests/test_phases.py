"""The clock of a step's phases against sleeps of known length."""

from __future__ import annotations

import time

import pytest

from compact_ds.phases import measured, phase


def test_a_phase_within_another_is_not_counted_twice() -> None:
    with measured() as clock:
        with phase("forward"):
            time.sleep(0.02)
            with phase("head"):
                time.sleep(0.05)
            time.sleep(0.02)
        with phase("head"):
            time.sleep(0.03)
    # A sleep is never shorter than asked; a busy machine makes it longer.
    assert 0.04 <= clock.seconds["forward"] < 0.5 and 0.08 <= clock.seconds["head"] < 0.5
    assert clock.seconds.keys() == {"forward", "head"}


def test_an_error_closes_its_phase() -> None:
    with measured() as clock:
        with pytest.raises(KeyError), phase("forward"):
            raise KeyError
        with phase("tree"):
            pass
    assert set(clock.seconds) == {"forward", "tree"}


def test_nobody_measures() -> None:
    with measured() as clock:
        pass
    with phase("forward"):
        pass
    assert clock.seconds == {}
