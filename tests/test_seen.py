"""Ids seen, against a dictionary, and what they take."""

import numpy as np

from compact_ds.data.seen import Seen


def test_it_answers_as_a_dictionary_does() -> None:
    rng = np.random.default_rng(0)
    seen = Seen()
    expected: dict[str, int] = {}
    for number, value in enumerate(rng.integers(0, 3000, 8000)):
        name = f"q{value}"
        assert seen.first(name, number) == expected.setdefault(name, number)
    assert len(seen) == len(expected)


def test_an_id_takes_some_tens_of_bytes() -> None:
    seen = Seen()
    for number in range(20_000):
        seen.first(str(number), number)
    assert seen._hashes.nbytes + seen._numbers.nbytes < 40 * 20_000
