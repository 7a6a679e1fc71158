"""The head's Triton kernels against float64 by definition: in the interpreter here, compiled where there is a GPU.

The interpreter multiplies bf16 operands in fp32 and truncates instead of rounding when it stores them, so gradients in bf16
have about twice a GPU's error there.
"""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from compact_ds.kernels.lse_gather import Backward

pytest.importorskip("triton")

from against_float64 import BACKWARDS, DEVICE, agree, both, operands, poison_buffers

from compact_ds.kernels import lse_forward
from compact_ds.kernels.lse_gather import EMPTY, lse_gather
from compact_ds.kernels.lse_reference import HeadShape, lse_gather_reference
from compact_ds.kernels.lse_triton import lse_gather_triton
from compact_ds.kernels.operands import prepared, takes_descriptors
from compact_ds.kernels.tiles import Tiles


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    poison_buffers(monkeypatch)


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("V", [1, 37, 127, 128, 129, 1003])
def test_vocabularies_that_do_and_do_not_fill_tiles(V: int, dtype: torch.dtype, backward: Backward) -> None:
    agree(*both(*operands(40, V, 48, dtype=dtype), backward=backward), dtype=dtype)


def test_a_large_vocabulary() -> None:
    agree(*both(*operands(31, 32001, 16)))


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("N", [0, 1, 31, 128, 129])
def test_numbers_of_rows(N: int, backward: Backward) -> None:
    agree(*both(*operands(N, 130, 33), backward=backward))


@pytest.mark.parametrize(("D", "K"), list(itertools.product([16, 37, 64], [1, 2, 4])))
def test_hidden_sizes_and_slots(D: int, K: int) -> None:
    agree(*both(*operands(40, 130, D, K), workspace_bytes=20_000))


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize(("softcap", "scale", "bias"), [(1.0, 1.0, False), (30.0, 0.5, True), (None, 2.0, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bias_scale_and_soft_cap(
    softcap: float | None, scale: float, bias: bool, dtype: torch.dtype, backward: Backward
) -> None:
    agree(
        *both(*operands(40, 200, 48, dtype=dtype, bias=bias), softcap=softcap, scale=scale, backward=backward),
        dtype=dtype,
    )


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("grad_rows", [0, 1, 33, 70])
def test_only_a_prefix_of_the_rows_is_differentiated(grad_rows: int, backward: Backward) -> None:
    ours, truth = both(*operands(70, 150, 48), grad_rows=grad_rows, backward=backward)
    agree(ours, truth)
    assert not ours[2][grad_rows:].any()


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("wants", [[True, False], [False, True]])
def test_one_side_frozen(wants: list[bool], backward: Backward) -> None:
    agree(*both(*operands(40, 150, 48), wants=wants, backward=backward))


@pytest.mark.parametrize("part", [0, 1])
def test_upstream_of_one_output_only(part: int) -> None:
    upstream = [torch.randn(40).to(DEVICE), torch.randn(40, 2).to(DEVICE)]
    upstream[part] = torch.zeros_like(upstream[part])
    agree(*both(*operands(40, 150, 48), upstream=tuple(upstream)))


@pytest.mark.parametrize("backward", BACKWARDS)
def test_all_targets_empty_and_the_same_target_in_both_slots(backward: Backward) -> None:
    hidden, weight, _, targets = operands(40, 150, 48)
    ours, truth = both(hidden, weight, None, torch.full_like(targets, EMPTY), backward=backward)
    agree(ours, truth)
    assert not ours[1].any()
    targets[:, 1] = targets[:, 0]
    agree(*both(hidden, weight, None, targets, backward=backward))


@pytest.mark.parametrize("backward", BACKWARDS)
def test_large_equal_and_certain_logits(backward: Backward) -> None:
    hidden, weight, _, targets = operands(40, 150, 48)
    # Logits of +-1e4: exp would overflow without the running maximum.
    large = both(hidden * 1e3, weight, None, targets, backward=backward)
    agree(*large, largest=1.5e4)
    equal = both(torch.zeros_like(hidden), weight, None, targets, backward=backward)
    agree(*equal)
    torch.testing.assert_close(equal[0][0], torch.full_like(equal[0][0], 150.0).log(), atol=2e-6, rtol=0)
    # The target's probability is 1 - 1e-4: p - 1 is formed before anything is rounded.
    certain = torch.zeros_like(hidden), torch.zeros_like(weight)
    certain[0][:, 0], certain[1][3, 0] = 1.0, 14.2
    targets = torch.full_like(targets, 3)
    ones = torch.ones(40).to(DEVICE), torch.stack([-torch.ones(40), torch.zeros(40)], 1).to(DEVICE)
    ours, truth = both(certain[0], certain[1], None, targets, upstream=ones, backward=backward)
    # The log-sum-exp is kept in fp32: half a unit in its last place is 5e-7, another is lost in its logarithm, and p - 1 is 1e-4.
    assert (ours[3].double() - truth[3]).norm() <= 1e-2 * truth[3].norm()


@pytest.mark.parametrize("backward", BACKWARDS)
def test_forbidden_words(backward: Backward) -> None:
    hidden, weight, bias, targets = operands(40, 300, 48, bias=True)
    bias[64:200] = float("-inf")
    targets = targets % 64
    ours, truth = both(hidden, weight, bias, targets, backward=backward)
    agree(ours, truth)
    assert not ours[3][64:200].any()


def test_a_view_with_strides_and_rows_that_are_no_multiple_of_16_bytes() -> None:
    hidden, weight, _, targets = operands(40, 150, 96)
    agree(*both(hidden[:, ::2], weight[:, :48], None, targets))
    agree(*both(hidden[:, 1:48], weight[:, 1:48], None, targets))
    # One row has any stride, and only one side needs a copy.
    agree(*both(hidden[:1, 1:49], weight[:, :48], None, targets[:1]))


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_depth_that_fills_no_16_elements(dtype: torch.dtype, backward: Backward) -> None:
    hidden, weight, bias, targets = operands(40, 150, 123, dtype=dtype, bias=True)
    ours, truth = both(hidden, weight, bias, targets, grad_rows=33, backward=backward)
    agree(ours, truth, dtype=dtype)
    assert ours[2].shape == hidden.shape and ours[3].shape == weight.shape and not ours[2][33:].any()


def test_every_launch_has_aligned_operands() -> None:
    hidden, weight, _, targets = operands(40, 150, 96, dtype=torch.bfloat16)
    sliced = ((hidden[:, 1:49], weight[:, 1:49]), (hidden[:, :37], weight[:, :37]), (hidden.T[:40].T, weight[:, 8:88]))
    for first, second in ((hidden, weight), *sliced, (hidden[:1, :37], weight[:1, :37])):
        depth = min(first.shape[1], second.shape[1])
        made = prepared(first[:, :depth], second[:, :depth], targets, None)[:2]
        assert made[0].shape[1] == made[1].shape[1] and takes_descriptors(*made)
        assert all(size % 16 == 0 for one in made for size in (one.stride(0), one.shape[1]))
        for one, given in zip(made, (first, second), strict=True):
            assert torch.equal(one[:, :depth], given[:, :depth]) and not one[:, depth:].any()
    assert all(a is b for a, b in zip(prepared(hidden, weight, targets, None), (hidden, weight), strict=False))


@pytest.mark.parametrize("backward", BACKWARDS)
def test_a_bias_that_is_a_column(backward: Backward) -> None:
    hidden, weight, bias, targets = operands(40, 150, 48, bias=True)
    column = torch.stack([bias, bias + 5], 1)[:, 0]
    lse, z, *grads = both(hidden, weight, bias, targets, backward=backward)[1]
    leaf = column.detach().requires_grad_()
    assert not leaf.is_contiguous()
    given = hidden.clone().requires_grad_(), weight.clone().requires_grad_(), leaf
    mine = lse_gather(given[0], given[1], targets, leaf, kernels="triton", backward=backward)
    torch.manual_seed(7)
    up = torch.randn(40).to(DEVICE), torch.randn(40, 2).to(DEVICE)
    agree([*mine, *torch.autograd.grad(mine, given, up)], [lse, z, *grads])


def test_gradients_are_linear_in_the_upstream_and_follow_a_permutation() -> None:
    hidden, weight, _, targets = operands(40, 150, 48)
    parts = [(torch.randn(40).to(DEVICE), torch.randn(40, 2).to(DEVICE)) for _ in range(2)]
    one, two = (both(hidden, weight, None, targets, upstream=u)[0] for u in parts)
    whole = both(hidden, weight, None, targets, upstream=tuple(a + b for a, b in zip(*parts, strict=True)))[0]
    for a, b, c in zip(one[2:], two[2:], whole[2:], strict=True):
        assert (a + b - c).norm() <= 1e-6 * c.norm()
    order = torch.randperm(40).to(DEVICE)
    moved = both(hidden[order], weight, None, targets[order], upstream=tuple(u[order] for u in parts[0]))[0]
    torch.testing.assert_close(moved[0], one[0][order], atol=2e-6, rtol=0)
    torch.testing.assert_close(moved[2], one[2][order], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("backward", BACKWARDS)
def test_a_permutation_of_the_vocabulary(backward: Backward) -> None:
    hidden, weight, bias, targets = operands(40, 150, 48, bias=True)
    plain = both(hidden, weight, bias, targets, backward=backward)[0]
    order = torch.randperm(150).to(DEVICE)
    renamed = torch.where(targets == EMPTY, EMPTY, order.argsort()[targets.clamp(min=0)])
    moved = both(hidden, weight[order], bias[order], renamed, backward=backward)[0]
    for mine, expected in zip(moved, (*plain[:3], plain[3][order], plain[4][order]), strict=True):
        # Words change tiles, and with them the order of additions.
        torch.testing.assert_close(mine, expected, atol=5e-6, rtol=1e-5)


def test_a_tied_weight_accumulates_over_two_calls() -> None:
    hidden, weight, _, targets = operands(40, 150, 48)
    tied = weight.clone().requires_grad_()
    ids = torch.arange(40, device=DEVICE)

    def loss(gather: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]], kind: torch.dtype) -> Tensor:
        total = torch.zeros((), dtype=kind, device=DEVICE)
        for part in (slice(0, 25), slice(25, 40)):
            lse, z = gather((hidden.to(kind) + tied.to(kind)[ids])[part], tied.to(kind), targets[part])
            total = total + (lse - z[:, 0]).mean()
        return total

    ours = loss(lambda h, w, t: lse_gather(h, w, t, kernels="triton"), torch.float32)
    mine = torch.autograd.grad(ours, tied)[0]
    exact = loss(lambda h, w, t: lse_gather_reference(h, w, t, None, HeadShape(None, 1.0, len(h), 0)), torch.float64)
    truth = torch.autograd.grad(exact, tied)[0]
    assert (mine - truth).norm() <= 1e-5 * truth.norm()


@pytest.mark.parametrize(("N", "V", "D"), [(40, 150, 64), (33, 65, 16), (31, 64, 48), (129, 37, 80)])
def test_tiles_that_are_no_descriptors_give_the_same(monkeypatch: pytest.MonkeyPatch, N: int, V: int, D: int) -> None:
    given = operands(N, V, D)
    with_descriptors = both(*given)[0]
    monkeypatch.setattr("compact_ds.kernels.lse_triton.takes_descriptors", lambda *_: False)
    without = both(*given)[0]
    assert all(torch.equal(a, b) for a, b in zip(with_descriptors, without, strict=True))


@pytest.mark.parametrize("descriptors", [True, False])
@pytest.mark.parametrize("backward", BACKWARDS)
def test_rows_behind_2_to_the_31_elements(
    monkeypatch: pytest.MonkeyPatch, backward: Backward, descriptors: bool
) -> None:
    monkeypatch.setattr("compact_ds.kernels.lse_triton.takes_descriptors", lambda *_: descriptors)
    hidden, small, _, targets = operands(40, 3, 16, dtype=torch.bfloat16)
    # Of four gigabytes only three rows are ever touched: on a CPU the others take no memory.
    apart = torch.empty(2**31 + 64, dtype=torch.bfloat16, device=DEVICE).as_strided((3, 16), (2**30, 1))
    apart.copy_(small)
    found, beside = (both(hidden, weight, None, targets, backward=backward) for weight in (apart, small))
    agree(*found, dtype=torch.bfloat16)
    assert all(torch.equal(a, b) for a, b in zip(found[0], beside[0], strict=True)) or backward == "atomic"


def test_tile_sizes_do_not_change_the_sums_beyond_rounding() -> None:
    hidden, weight, _, targets = operands(40, 301, 48)
    shape, found = HeadShape(None, 1.0, 40, 1 << 20), []
    for vocab in (16, 64, 512):
        found.append(lse_forward.forward(hidden, weight, targets.int(), None, shape, Tiles(16, vocab, 16, 4, 1))[0])
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found[0], found[2], atol=1e-6, rtol=1e-6)


def test_the_triton_node_is_what_runs() -> None:
    hidden, weight, _, targets = operands(8, 20, 16)
    shape = HeadShape(None, 1.0, 8, 1 << 20)
    direct, _ = lse_gather_triton(hidden, weight, targets, None, shape)
    assert torch.equal(direct, lse_gather(hidden, weight, targets, kernels="triton")[0])
