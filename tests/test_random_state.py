"""Generators that go on as if nothing had happened."""

import random
from pathlib import Path

import numpy as np
import torch

from compact_ds.engine.random_state import random_state, restore, seed

CPU = torch.device("cpu")


def _draw() -> tuple[float, float, float, float]:
    return random.random(), float(np.random.normal()), float(torch.rand(())), float(np.random.random())


def test_all_generators_go_on_after_a_file_that_holds_no_code(tmp_path: Path) -> None:
    np.random.normal()  # leaves a second one in stock
    torch.save([random_state(CPU)], tmp_path / "random.pt")
    expected = _draw()
    seed(7)
    assert _draw() != expected
    restore(torch.load(tmp_path / "random.pt", weights_only=True), 0, CPU)
    assert _draw() == expected


def test_a_seed_starts_all_of_them() -> None:
    seed(2**40)
    first = _draw()
    seed(2**40)
    assert _draw() == first
    seed(1)
    assert all(a != b for a, b in zip(_draw(), first, strict=True))


def test_more_ranks_than_states_share_them_out() -> None:
    torch.manual_seed(1)
    first = random_state(CPU)
    torch.manual_seed(2)
    second = random_state(CPU)
    expected = float(torch.rand(()))
    restore([first, second], 3, CPU)
    assert float(torch.rand(())) == expected
