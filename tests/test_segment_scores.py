"""Scores of segments and chains: both paths against Python loops in float64, forward and backward."""

from collections.abc import Sequence
from typing import Any, Literal

import pytest
import torch
from against_float64 import poison_buffers
from torch import Tensor

from compact_ds.kernels.choice import Kernels
from compact_ds.kernels.segment_scores import ScorePlan, plan_scores, segment_scores, segment_scores_reference

PATHS = ["torch", "triton"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INF, NAN = float("inf"), float("nan")


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    poison_buffers(monkeypatch)


@pytest.fixture(autouse=True)
def needs_triton(request: pytest.FixtureRequest) -> None:
    if "triton" in request.node.name:
        pytest.importorskip("triton")


def plan_of(
    lengths: Sequence[int], num_rows: int, num_slots: int, base: Sequence[int] = (), chain: Sequence[int] = (0,)
) -> ScorePlan:
    """Segments of the given lengths over shuffled (row, slot) pairs: rows are not in segment order."""
    torch.manual_seed(3)
    members = torch.randperm(num_rows * num_slots)[: sum(lengths)]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    chains = torch.tensor(base, dtype=torch.int64), torch.tensor(chain)
    return plan_scores(num_rows, num_slots, offsets, members // num_slots, members % num_slots, *chains)


def agree(plan: ScorePlan, num_rows: int, num_slots: int, path: Kernels, tolerance: float = 2e-5) -> None:
    torch.manual_seed(5)
    lse, z = torch.randn(num_rows) + 9, torch.randn(num_rows, num_slots)
    up = torch.randn(2, len(plan.offsets_S1) - 1)
    found = []
    for kind, place in ((torch.float32, DEVICE), (torch.float64, "cpu")):
        leaves = lse.to(place, kind).requires_grad_(), z.to(place, kind).requires_grad_()
        there = plan.to(torch.device(place))
        is_ours = kind == torch.float32
        scores = segment_scores(*leaves, there, kernels=path) if is_ours else segment_scores_reference(*leaves, there)
        loss = (scores.nll_S * up[0].to(place)).sum() + (scores.mean_S * up[1].to(place)).sum()
        found.append((scores, torch.autograd.grad(loss, leaves)))
    (ours, gradients), (truth, exact) = found
    for name in ("nll_S", "count_S", "mean_S", "total_C", "jump_C", "step_C"):
        mine, theirs = getattr(ours, name).detach().cpu().double(), getattr(truth, name).detach().double()
        # A sum of 5,000 numbers near 9 has an ulp of 4e-3: the tolerance is relative.
        torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=2e-6, msg=name)
    for mine, theirs in zip(gradients, exact, strict=True):
        torch.testing.assert_close(mine.cpu().double(), theirs, atol=1e-6, rtol=1e-6)
    assert not (ours.total_C.requires_grad or ours.jump_C.requires_grad)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("num_slots", [1, 2, 4])
@pytest.mark.parametrize("lengths", [[0, 5, 0, 1, 60, 0], [100], [1], [0], []])
def test_segments_that_are_empty_single_or_own_everything(
    lengths: Sequence[int], num_slots: int, path: Kernels
) -> None:
    agree(plan_of(lengths, 100, num_slots), 100, num_slots, path)


@pytest.mark.parametrize("path", PATHS)
def test_segments_longer_than_a_block(path: Kernels) -> None:
    agree(plan_of([5000, 3, 1024, 1025], 4000, 2), 4000, 2, path)


@pytest.mark.parametrize("path", PATHS)
def test_chains(path: Kernels) -> None:
    # An empty chain in front, in the middle and at the end; a base that is empty; two chains with one base.
    plan = plan_of([3, 2, 4, 1, 2, 5, 0, 3], 40, 2, base=(0, 0, 6, 1, 0), chain=(2, 2, 5, 6, 6, 6))
    agree(plan, 40, 2, path)


@pytest.mark.parametrize("path", PATHS)
def test_no_rows_at_all(path: Kernels) -> None:
    plan = plan_scores(0, 1, torch.tensor([0, 0]), base_C=torch.tensor([0]), chain_C1=torch.tensor([1, 1]))
    agree(plan, 0, 1, path)


@pytest.mark.parametrize("path", PATHS)
def test_two_runs_agree_bit_for_bit(path: Kernels) -> None:
    plan = plan_of([700, 3, 297], 1000, 1).to(torch.device(DEVICE))
    lse, z = torch.randn(1000, device=DEVICE), torch.randn(1000, 1, device=DEVICE)
    first, second = (segment_scores(lse, z, plan, kernels=path) for _ in range(2))
    assert torch.equal(first.nll_S, second.nll_S) and torch.equal(first.mean_S, second.mean_S)


# Levels of the base and of the chain in nats a token, and by hand: total gain, largest rise, its place.
CHAINS = [
    ((-4.0, [-3.5, -1.0]), (3.0, 2.5, 1)),
    ((-3.0, [-3.0, -2.5, -2.5]), (0.5, 0.5, 1)),
    ((-3.0, []), (0.0, 0.0, -1)),
    # Equal rises: the first counts.
    ((-3.0, [-2.0, -1.0, 0.0]), (3.0, 1.0, 0)),
    # Only falls: the smallest of them is the largest rise.
    ((-1.0, [-3.0, -3.5]), (-2.5, -0.5, 1)),
    ((-1.0, [-INF]), (-INF, -INF, 0)),
    # A rise that is no number has no place, wherever it stands.
    ((-2.0, [NAN, -1.0, -0.5]), (1.5, NAN, -1)),
    ((-2.0, [-1.0, -0.5, NAN]), (NAN, NAN, -1)),
    ((-2.0, [-INF, -INF, -1.0]), (1.0, NAN, -1)),
    ((NAN, [-1.0]), (NAN, NAN, -1)),
]


@pytest.mark.parametrize("path", [*PATHS, "reference"])
def test_chains_by_hand(path: Literal["torch", "triton", "reference"]) -> None:
    gold = torch.tensor([base for (base, _), _ in CHAINS] + [level for (_, chain), _ in CHAINS for level in chain])
    lengths = torch.tensor([0, *(len(chain) for (_, chain), _ in CHAINS)])
    plan = plan_scores(
        len(gold), 1, torch.arange(len(gold) + 1), base_C=torch.arange(len(CHAINS)),
        chain_C1=lengths.cumsum(0) + len(CHAINS),
    )  # fmt: skip
    if path == "reference":
        scores = segment_scores_reference(torch.zeros(len(gold)), gold[:, None], plan)
    else:
        place = torch.device(DEVICE)
        scores = segment_scores(
            torch.zeros(len(gold), device=place), gold[:, None].to(place), plan.to(place), kernels=path
        )
    for found, i in ((scores.total_C, 0), (scores.jump_C, 1)):
        # Sums and differences of halves are exact.
        expected = torch.tensor([by_hand[i] for _, by_hand in CHAINS])
        torch.testing.assert_close(found.cpu(), expected, atol=0, rtol=0, equal_nan=True)
    assert scores.step_C.tolist() == [by_hand[2] for _, by_hand in CHAINS]


@pytest.mark.parametrize("path", PATHS)
def test_a_plan_of_strided_and_narrow_indices(path: Kernels) -> None:
    plain = plan_of([3, 2, 4, 1], 40, 2, base=(0,), chain=(1, 4))
    strided = {
        name: torch.stack([getattr(plain, name).int(), torch.full_like(getattr(plain, name).int(), 7)], 1)[:, 0]
        for name in ("offsets_S1", "row_M", "slot_M", "base_C", "chain_C1")
    }
    plan = plan_scores(40, 2, **strided)
    for name in strided:
        assert getattr(plan, name).is_contiguous() and getattr(plan, name).dtype == torch.int64
        assert torch.equal(getattr(plan, name), getattr(plain, name))
    agree(plan, 40, 2, path)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("rows", "z_shape"), [(40, (40, 1)), (39, (39, 2)), (39, (40, 2)), (40, (39, 2))])
def test_scores_of_other_rows_than_the_plan_s_are_refused(rows: int, z_shape: tuple[int, int], path: Kernels) -> None:
    plan = plan_of([3, 2], 40, 2).to(torch.device(DEVICE))
    with pytest.raises(ValueError, match=r"plan is for z of \(40, 2\) and lse of \(40,\), got"):
        segment_scores(torch.zeros(rows, device=DEVICE), torch.zeros(z_shape, device=DEVICE), plan, kernels=path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"offsets_S1": torch.tensor([0, 3, 2])}, "ascend"),
        ({"offsets_S1": torch.tensor([1, 2])}, "ascend"),
        ({"offsets_S1": torch.tensor([0, -1])}, "ascend"),
        ({"offsets_S1": torch.tensor([], dtype=torch.int64)}, "ascend"),
        ({"row_M": torch.tensor([0, 9])}, "row index"),
        ({"slot_M": torch.tensor([0, 1])}, "slot index"),
        ({"row_M": torch.tensor([1, 1])}, "two segments"),
        ({"base_C": torch.tensor([2]), "chain_C1": torch.tensor([0, 1])}, "base index"),
        ({"base_C": torch.tensor([0]), "chain_C1": torch.tensor([0, 1, 2])}, "one more bound"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(changed: dict[str, Tensor], words: str) -> None:
    given: dict[str, Any] = {"num_rows": 3, "num_slots": 1, "offsets_S1": torch.tensor([0, 1, 2])}
    with pytest.raises(ValueError, match=words):
        plan_scores(**given | changed)
