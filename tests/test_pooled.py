"""Teachers' rationales in a student's space: variance between teachers by hand and against shuffled names; axes by numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from compact_ds.evaluation.pooled import drifts, principal_axes, share_between, within_questions


def test_axes_are_singular_vectors() -> None:
    states = np.random.default_rng(0).normal(size=(30, 6)) * np.array([5, 4, 3, 2, 1, 0.5])
    mean_D, axes_DK = principal_axes(torch.tensor(states), 3)
    want = np.linalg.svd(states - states.mean(0))[2][:3].T
    assert np.allclose(mean_D, states.mean(0))
    assert np.allclose(np.abs((axes_DK.numpy() * want).sum(0)), 1)


def test_two_teachers_by_hand() -> None:
    """Teacher b lies 2 to the right of a on every question; on the second also 2 above it."""
    states = torch.tensor([[0.0, 0.0], [2.0, 0.0], [10.0, 5.0], [12.0, 7.0]])
    centred = within_questions(states, [0, 0, 1, 1])
    assert centred.tolist() == [[-1, 0], [1, 0], [-1, -1], [1, 1]]
    # Means (-1, -1/2) and (1, 1/2): 2 * 1.25 twice, of 1 + 1 + 2 + 2.
    assert share_between(centred, ["a", "b", "a", "b"]) == pytest.approx(5 / 6)
    assert math.isnan(share_between(torch.zeros(2, 2), ["a", "b"]))


def test_shuffled_names_give_one_over_the_number_of_questions() -> None:
    draw = np.random.default_rng(1)
    states = within_questions(torch.tensor(draw.normal(size=(60, 5))), [i // 3 for i in range(60)])
    found = [
        share_between(states, [t for _ in range(20) for t in draw.permutation(["a", "b", "c"])]) for _ in range(500)
    ]
    # 500 draws: the standard error of the mean is 2e-3 or less.
    assert np.mean(found) == pytest.approx(1 / 20, abs=6e-3)


def test_drift_per_teacher() -> None:
    before = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    after = torch.tensor([[2.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
    found = drifts(before, after, ["a", "b", "a"])
    assert found == pytest.approx({"a": 1.0, "b": 1 - math.sqrt(0.5)})
