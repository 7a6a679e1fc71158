"""The head's Triton kernels against float64 by definition: in the interpreter here, compiled where there is a GPU.

The interpreter multiplies bf16 operands in fp32 and truncates instead of rounding when it stores them, so gradients in bf16
have about twice a GPU's error there.
"""

import itertools

import pytest
import torch

pytest.importorskip("triton")

from against_float64 import BACKWARDS, DEVICE, agree, both, operands, poison_buffers

from compact_ds.kernels import lse_forward
from compact_ds.kernels.lse_gather import EMPTY, lse_gather
from compact_ds.kernels.lse_reference import HeadShape
from compact_ds.kernels.lse_triton import lse_gather_triton
from compact_ds.kernels.tiles import Tiles


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    poison_buffers(monkeypatch)


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("V", [1, 37, 127, 128, 129, 1003])
def test_vocabularies_that_do_and_do_not_fill_tiles(V, dtype, backward):
    agree(*both(*operands(40, V, 48, dtype=dtype), backward=backward), dtype=dtype)


def test_a_large_vocabulary():
    agree(*both(*operands(31, 32001, 16)))


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("N", [0, 1, 31, 128, 129])
def test_numbers_of_rows(N, backward):
    agree(*both(*operands(N, 130, 33), backward=backward))


@pytest.mark.parametrize(("D", "K"), list(itertools.product([16, 37, 64], [1, 2, 4])))
def test_hidden_sizes_and_slots(D, K):
    agree(*both(*operands(40, 130, D, K), workspace_bytes=20_000))


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize(("softcap", "scale", "bias"), [(1.0, 1.0, False), (30.0, 0.5, True), (None, 2.0, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bias_scale_and_soft_cap(softcap, scale, bias, dtype, backward):
    agree(
        *both(*operands(40, 200, 48, dtype=dtype, bias=bias), softcap=softcap, scale=scale, backward=backward),
        dtype=dtype,
    )


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("grad_rows", [0, 1, 33, 70])
def test_only_a_prefix_of_the_rows_is_differentiated(grad_rows, backward):
    ours, truth = both(*operands(70, 150, 48), grad_rows=grad_rows, backward=backward)
    agree(ours, truth)
    assert not ours[2][grad_rows:].any()


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("wants", [[True, False], [False, True]])
def test_one_side_frozen(wants, backward):
    agree(*both(*operands(40, 150, 48), wants=wants, backward=backward))


@pytest.mark.parametrize("part", [0, 1])
def test_upstream_of_one_output_only(part):
    upstream = [torch.randn(40).to(DEVICE), torch.randn(40, 2).to(DEVICE)]
    upstream[part] = torch.zeros_like(upstream[part])
    agree(*both(*operands(40, 150, 48), upstream=tuple(upstream)))


def test_all_targets_empty_and_the_same_target_in_both_slots():
    hidden, weight, _, targets = operands(40, 150, 48)
    ours, truth = both(hidden, weight, None, torch.full_like(targets, EMPTY))
    agree(ours, truth)
    assert not ours[1].any()
    targets[:, 1] = targets[:, 0]
    agree(*both(hidden, weight, None, targets))


def test_large_equal_and_certain_logits():
    hidden, weight, _, targets = operands(40, 150, 48)
    # Logits of +-1e4: exp would overflow without the running maximum.
    large = both(hidden * 1e3, weight, None, targets)
    agree(*large, largest=1.5e4)
    equal = both(torch.zeros_like(hidden), weight, None, targets)
    agree(*equal)
    torch.testing.assert_close(equal[0][0], torch.full_like(equal[0][0], 150.0).log(), atol=2e-6, rtol=0)
    # The target's probability is 1 - 1e-4: p - 1 is formed before anything is rounded.
    certain = torch.zeros_like(hidden), torch.zeros_like(weight)
    certain[0][:, 0], certain[1][3, 0] = 1.0, 14.2
    targets = torch.full_like(targets, 3)
    ones = torch.ones(40).to(DEVICE), torch.stack([-torch.ones(40), torch.zeros(40)], 1).to(DEVICE)
    ours, truth = both(certain[0], certain[1], None, targets, upstream=ones)
    # The log-sum-exp is kept in fp32: half a unit in its last place is 5e-7, another is lost in its logarithm, and p - 1 is 1e-4.
    assert (ours[3].double() - truth[3]).norm() <= 1e-2 * truth[3].norm()


def test_forbidden_words():
    hidden, weight, bias, targets = operands(40, 300, 48, bias=True)
    bias[64:200] = float("-inf")
    targets = targets % 64
    ours, truth = both(hidden, weight, bias, targets)
    agree(ours, truth)
    assert not ours[3][64:200].any()


def test_a_view_with_strides_and_rows_that_are_no_multiple_of_16_bytes():
    hidden, weight, _, targets = operands(40, 150, 96)
    agree(*both(hidden[:, ::2], weight[:, :48], None, targets))
    agree(*both(hidden[:, 1:48], weight[:, 1:48], None, targets))


@pytest.mark.parametrize("workspace_bytes", [1, 8_000, 60_000])
def test_any_workspace_gives_the_same(workspace_bytes):
    agree(*both(*operands(129, 300, 48, bias=True), workspace_bytes=workspace_bytes))


def test_two_runs_agree_bit_for_bit():
    given = operands(70, 300, 48, dtype=torch.bfloat16)
    first, second = both(*given)[0], both(*given)[0]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_gradients_are_linear_in_the_upstream_and_follow_a_permutation():
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


def test_a_tied_weight_accumulates_over_two_calls():
    hidden, weight, _, targets = operands(40, 150, 48)
    tied = weight.clone().requires_grad_()
    ids = torch.arange(40, device=DEVICE)

    def loss(gather, kind):
        total = 0
        for part in (slice(0, 25), slice(25, 40)):
            lse, z = gather((hidden.to(kind) + tied.to(kind)[ids])[part], tied.to(kind), targets[part])
            total = total + (lse - z[:, 0]).mean()
        return total

    ours = loss(lambda h, w, t: lse_gather(h, w, t, kernels="triton"), torch.float32)
    mine = torch.autograd.grad(ours, tied)[0]
    exact = loss(lambda h, w, t: lse_gather_reference(h, w, t, None, HeadShape(None, 1.0, len(h), 0)), torch.float64)
    truth = torch.autograd.grad(exact, tied)[0]
    assert (mine - truth).norm() <= 1e-5 * truth.norm()


def test_autocast_changes_nothing():
    given = operands(40, 150, 48)
    plain = both(*given)[0]
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        inside = both(*given)[0]
    assert all(torch.equal(a, b) for a, b in zip(plain, inside, strict=True))


def test_what_cannot_run_is_refused():
    hidden, weight, _, targets = operands(8, 20, 16, K=3)
    with pytest.raises(ValueError, match="1, 2 or 4"):
        lse_gather(hidden, weight, targets, kernels="triton")
    with pytest.raises(ValueError, match="types must agree"):
        lse_gather(hidden.bfloat16(), weight, targets[:, :1], kernels="triton")
    if DEVICE == "cpu":
        targets[0, 0] = 20
        with pytest.raises(ValueError, match=r"target 20 is neither in \[0, 20\)"):
            lse_gather(hidden, weight, targets[:, :1], kernels="triton")


@pytest.mark.parametrize("backward", ["workspace"])
def test_tiles_that_are_no_descriptors_give_the_same(monkeypatch, backward):
    given = operands(40, 150, 64)
    with_descriptors = both(*given, backward=backward)[0]
    monkeypatch.setattr("compact_ds.kernels.lse_triton.takes_descriptors", lambda *_: False)
    without = both(*given, backward=backward)[0]
    assert all(torch.equal(a, b) for a, b in zip(with_descriptors, without, strict=True))


def test_tile_sizes_do_not_change_the_sums_beyond_rounding():
    hidden, weight, _, targets = operands(40, 301, 48)
    shape, found = HeadShape(None, 1.0, 40, 1 << 20), []
    for vocab in (16, 64, 512):
        found.append(lse_forward.forward(hidden, weight, targets.int(), None, shape, Tiles(16, vocab, 16, 4, 1))[0])
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found[0], found[2], atol=1e-6, rtol=1e-6)


def test_blocks_and_chunks_keep_to_the_workspace():
    tiles = Tiles(128, 128, 64, 8, 3)
    for rows, vocabulary, workspace in itertools.product((1, 4800, 40_000), (37, 151_936), (1 << 20, 256 << 20)):
        block, chunk = lse_backward._block_and_chunk(rows, vocabulary, 2, workspace, tiles)
        assert block * chunk * 2 <= max(workspace, 2 * 128 * 128) and 1 <= block <= rows and 1 <= chunk <= vocabulary


def test_the_triton_node_is_what_runs():
    hidden, weight, _, targets = operands(8, 20, 16)
    shape = HeadShape(None, 1.0, 8, 1 << 20)
    direct, _ = lse_gather_triton(hidden, weight, targets, None, shape)
    assert torch.equal(direct, lse_gather(hidden, weight, targets, kernels="triton")[0])
