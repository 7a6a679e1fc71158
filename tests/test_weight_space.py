"""The change of matrices: spectra by numpy's decomposition, ranks by construction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compact_ds.errors import UserError
from compact_ds.evaluation.weight_space import change, changes, squared_singular_values, summary


@pytest.mark.parametrize("shape", [(7, 19), (19, 7), (8, 8)])
def test_a_changes_spectrum_is_numpys(shape: tuple[int, int]) -> None:
    draw = np.random.default_rng(0)
    before, moved = draw.normal(size=shape), draw.normal(size=shape)
    found = change("w", torch.tensor(before), torch.tensor(before + moved), (1, 3, 50))
    square = np.linalg.svd((before + moved) - before, compute_uv=False) ** 2
    share = square.cumsum() / square.sum()
    assert np.allclose(squared_singular_values(torch.tensor(moved)), square, rtol=1e-10)
    assert found.relative_change == pytest.approx(np.linalg.norm(moved) / np.linalg.norm(before))
    assert found.stable_rank == pytest.approx(square.sum() / square[0])
    assert found.energy == pytest.approx({1: share[0], 3: share[2], 50: 1.0})
    assert found.rank_90 == 1 + next(i for i, s in enumerate(share) if s >= 0.9)
    assert found.rank_99 == 1 + next(i for i, s in enumerate(share) if s >= 0.99)


def test_an_adapters_change_has_its_rank() -> None:
    draw = torch.Generator().manual_seed(0)
    before = torch.randn(40, 60, generator=draw).double()
    update = (torch.randn(40, 4, generator=draw) @ torch.randn(4, 60, generator=draw)).double()
    found = change("w", before, before + 0.01 * update, (1, 4))
    assert found.energy is not None and found.rank_99 is not None
    assert found.energy[4] == pytest.approx(1, abs=1e-9) and found.energy[1] < 0.6
    assert found.rank_99 <= 4
    # diag(3, 1): 10 squares over 9.
    assert change(
        "d", torch.eye(2).double(), torch.diag(torch.tensor([4.0, 2.0])).double(), ()
    ).stable_rank == pytest.approx(10 / 9)


def test_noise_has_the_stable_rank_that_its_shape_gives() -> None:
    noise = torch.randn(300, 500, generator=torch.Generator().manual_seed(0)).double()
    found = change("w", torch.eye(300, 500).double(), torch.eye(300, 500).double() + noise, ())
    # The edge of the spectrum fluctuates by N^(-2/3), 2% here.
    assert found.stable_rank == pytest.approx(found.stable_rank_of_noise, rel=0.04)


def test_every_parameter_is_told_of_and_a_shared_one_once() -> None:
    before, after = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    with torch.no_grad():
        after.weight.copy_(before.weight)
        after.bias.copy_(2 * before.bias)
    found = list(changes(before, after, (1,)))
    assert [(one.name, one.relative_change, one.stable_rank) for one in found] == [
        ("weight", 0.0, None),
        ("bias", 1.0, None),
    ]
    assert summary(found, (1,))["matrices_changed"] == 0
    before.again = before.weight
    after.again = after.weight
    assert len(list(changes(before, after, (1,)))) == 2


def test_other_parameters_are_refused() -> None:
    with pytest.raises(UserError, match=r"AFTER: found weight \(2, 4\); expected \(2, 3\)"):
        list(changes(torch.nn.Linear(3, 2), torch.nn.Linear(4, 2), (1,)))
    with pytest.raises(UserError, match="parameter bias in one student only"):
        list(changes(torch.nn.Linear(3, 2), torch.nn.Linear(3, 2, bias=False), (1,)))
