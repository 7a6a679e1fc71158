"""The baselines' formulas against loops by hand, and the ranks of targets against a sort of all logits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from compact_ds.data.answers import votes
from compact_ds.kernels.target_rank import BLOCK, target_rank
from compact_ds.methods.baselines import confidence_weights, lowest_rank_ratio, rank_surprisal_ratio, token_weights
from compact_ds.methods.evidence import Evidence
from compact_ds.student.measure import LARGEST_RANK

LOSS = [0.5, 2.0, 1.25, 0.125, 3.0]
TOKENS = [10, 30, 40, 7, 21]
EXAMPLE = [0, 0, 0, 1, 1]


def _evidence(ratio: list[float] | None = None) -> Evidence:
    ratio_R = None if ratio is None else torch.tensor(ratio)
    places = (torch.tensor(EXAMPLE), torch.tensor([0, 1, 2, 0, 1]), 2)
    return Evidence(torch.zeros(3, 5), torch.tensor(LOSS), torch.tensor(TOKENS), ratio_R, *places)


def _by_hand(values: Sequence[float]) -> list[float]:
    return [
        v / sum(u for u, e in zip(values, EXAMPLE, strict=True) if e == own)
        for v, own in zip(values, EXAMPLE, strict=True)
    ]


def test_every_token_of_an_example_counts_alike() -> None:
    assert token_weights(_evidence()).tolist() == pytest.approx(_by_hand(TOKENS), rel=1e-6)


def test_confidence_is_a_softmax_of_the_negative_loss() -> None:
    expected = _by_hand([math.exp(-loss) for loss in LOSS])
    assert confidence_weights(_evidence()).tolist() == pytest.approx(expected, rel=1e-6)


def test_the_lowest_ratio_takes_all_and_a_tie_shares() -> None:
    assert lowest_rank_ratio(_evidence([3.0, 2.5, 4.0, 1.5, 1.5])).tolist() == [0, 1, 0, 0.5, 0.5]


def test_a_ratio_that_is_no_number_shows() -> None:
    found_R = lowest_rank_ratio(_evidence([3.0, float("nan"), 4.0, 1.0, 2.0]))
    assert found_R[:3].isnan().any() and found_R[3:].tolist() == [1, 0]


def test_the_ratio_by_hand() -> None:
    # Two tokens of rank 1 and 7 with 0.5 and 3.5 nats: (1 + 7) / (0.5 + 3.5).
    assert rank_surprisal_ratio(torch.tensor([8]), torch.tensor([4.0])).item() == 2.0


def test_ranks_are_places_in_the_sorted_logits() -> None:
    draw = torch.Generator().manual_seed(5)
    rows, words, width = BLOCK + 3, 211, 8
    hidden_ND, weight_VD = torch.randn(rows, width, generator=draw), torch.randn(words, width, generator=draw)
    bias_V, target_N = torch.randn(words, generator=draw), torch.randint(words, (rows,), generator=draw)
    order_NV = (hidden_ND.double() @ weight_VD.double().T + bias_V.double()).argsort(1, descending=True)
    expected_N = (order_NV == target_N[:, None]).double().argmax(1) + 1
    assert torch.equal(target_rank(hidden_ND, weight_VD, target_N, bias_V), expected_N)
    assert int(expected_N.max()) > LARGEST_RANK


def test_ranks_of_a_16_bit_student_are_those_of_its_logits_unrounded() -> None:
    draw = torch.Generator().manual_seed(6)
    hidden_ND = (8 * torch.randn(40, 16, generator=draw)).bfloat16()
    weight_VD, target_N = torch.randn(900, 16, generator=draw).bfloat16(), torch.randint(900, (40,), generator=draw)
    logit_NV = hidden_ND.double() @ weight_VD.double().T
    expected_N = (logit_NV > logit_NV.gather(1, target_N[:, None])).sum(1) + 1
    assert torch.equal(target_rank(hidden_ND, weight_VD, target_N), expected_N)


def test_votes_count_different_teachers_that_agree() -> None:
    teachers = ["ada", "ada", "ben", "cleo", "dan"]
    assert votes(teachers, ["12", "12", "12.0", "7", None]) == [2, 2, 2, 1, 0]
