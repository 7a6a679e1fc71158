"""Difficulty by hand."""

from __future__ import annotations

import math

import pytest
import torch

from compact_ds.compatibility.difficulty import Kind, difficulty

LOSS_R = torch.tensor([0.5, 2.0, 3.5])


@pytest.mark.parametrize(
    ("kind", "zone", "expected"),
    [
        ("above", 0.0, [0.0, 0.0, 1.5]),
        ("above", 9.0, [0.0, 0.0, 1.5]),
        ("zone", 0.0, [1.5, 0.0, 1.5]),
        ("zone", 0.5, [2.0, 0.5, 1.0]),
        ("zone", -0.5, [1.0, 0.5, 2.0]),
    ],
)
def test_by_hand(kind: Kind, zone: float, expected: list[float]) -> None:
    assert difficulty(LOSS_R, torch.tensor(2.0), kind, zone).tolist() == expected


@pytest.mark.parametrize("kind", ["above", "zone"])
def test_is_zero_before_there_is_a_mean(kind: Kind) -> None:
    assert difficulty(LOSS_R, torch.tensor(math.inf), kind, 0.3).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", ["above", "zone"])
def test_a_loss_that_is_not_a_number_is_not_hidden(kind: Kind) -> None:
    assert math.isnan(difficulty(torch.tensor([math.nan]), torch.tensor(2.0), kind, 0.0)[0])


def test_carries_no_gradient() -> None:
    assert not difficulty(LOSS_R.clone().requires_grad_(), torch.tensor(2.0), "zone", 0.0).requires_grad
