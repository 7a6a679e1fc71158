"""The head's backward passes by Triton: blocks and chunks, what they hold in memory, fp16's range, and what they refuse."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from against_float64 import BACKWARDS, DEVICE, agree, both, operands, poison_buffers
from largest_storage import Largest

from compact_ds.kernels import lse_backward, lse_forward, products
from compact_ds.kernels.lse_gather import Backward, lse_gather
from compact_ds.kernels.segment_scores import plan_scores, segment_scores
from compact_ds.kernels.tiles import Tiles


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    poison_buffers(monkeypatch)


@pytest.mark.parametrize("workspace_bytes", [1, 8_000, 60_000])
def test_any_workspace_gives_the_same(workspace_bytes: int) -> None:
    agree(*both(*operands(129, 300, 48, bias=True), workspace_bytes=workspace_bytes))


def test_two_runs_agree_bit_for_bit() -> None:
    given = operands(70, 300, 48, dtype=torch.bfloat16)
    first, second = both(*given)[0], both(*given)[0]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_blocks_and_chunks_keep_to_the_workspace() -> None:
    tiles = Tiles(128, 128, 64, 8, 3)
    for rows, vocabulary, workspace in itertools.product((1, 4800, 40_000), (37, 151_936), (1 << 20, 256 << 20)):
        block, chunk = lse_backward._block_and_chunk(rows, vocabulary, 2, workspace, tiles)
        assert block * chunk * 2 <= max(workspace, 2 * 128 * 128) and 1 <= block <= rows and 1 <= chunk <= vocabulary


@pytest.mark.parametrize("backward", BACKWARDS)
def test_more_row_tiles_than_share_a_panel(backward: Backward) -> None:
    # Ten tiles of 32 rows, the last not full, in groups of eight.
    agree(*both(*operands(300, 70, 16), backward=backward))


def test_a_running_sum_over_blocks_of_rows_is_not_rounded() -> None:
    # Ten blocks: a sum that is kept in bf16 between them errs by 1.34 of what a single rounding does.
    ours, truth = both(*operands(300, 150, 48, dtype=torch.bfloat16), workspace_bytes=8000)
    whole = both(*operands(300, 150, 48, dtype=torch.bfloat16))[0]
    agree(ours, truth, dtype=torch.bfloat16)
    assert (ours[3].double() - truth[3]).norm() <= 1.1 * (whole[3].double() - truth[3]).norm()


def test_autocast_changes_nothing() -> None:
    given = operands(40, 150, 48)
    plain = both(*given)[0]
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        inside = both(*given)[0]
    assert all(torch.equal(a, b) for a, b in zip(plain, inside, strict=True))


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("size", [2.0**-14, 2.0**13])
def test_fp16_loses_no_gradient_of_a_logit(size: float, backward: Backward) -> None:
    # A word's probability is near 1e-3: times 2^-14 it is half of fp16's smallest number. Times 2^13, sums exceed its largest.
    given = operands(70, 1003, 16, dtype=torch.float16, bias=True)
    upstream = torch.full((70,), size).to(DEVICE), torch.full((70, 2), -size / 2).to(DEVICE)
    if size > 1:
        given[0].div_(256)
    ours, truth = both(*given, upstream=upstream, backward=backward)
    for mine, exact in zip(ours[2:], truth[2:], strict=True):
        # The result is rounded to fp16 in any case; gradients of logits with 11 bits add little to that.
        unavoidable = (exact.half().double() - exact).norm()
        assert (mine.double() - exact).norm() <= 1.3 * unavoidable + 3e-4 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_an_upstream_may_lie_in_memory_as_it_likes(dtype: torch.dtype) -> None:
    hidden, weight, _, targets = operands(70, 103, 16, dtype=dtype)
    draw = torch.Generator().manual_seed(3)
    lse_N, z_KN = torch.randn(70, generator=draw).to(DEVICE), torch.randn(2, 70, generator=draw).to(DEVICE)

    def gradient(upstream_NK: Tensor) -> Tensor:
        leaf = hidden.clone().requires_grad_()
        outputs = lse_gather(leaf, weight, targets, kernels="triton")
        return torch.autograd.grad(outputs, leaf, (lse_N, upstream_NK))[0]

    assert torch.equal(gradient(z_KN.T), gradient(z_KN.T.contiguous()))


@pytest.mark.parametrize("backward", BACKWARDS)
def test_fp16_keeps_zeros_and_overflows(backward: Backward) -> None:
    hidden, weight, _, targets = operands(40, 70, 16, dtype=torch.float16)
    for value, expected in ((0.0, 0.0), (float("inf"), float("nan")), (float("nan"), float("nan"))):
        leaf = hidden.clone().requires_grad_()
        lse, _ = lse_gather(leaf, weight, targets, kernels="triton", backward=backward)
        (grad,) = torch.autograd.grad(lse, leaf, torch.full_like(lse, value))
        # What a loss scaler looks for must not vanish.
        assert not grad.any() if expected == 0.0 else not grad.isfinite().any()


def test_a_second_derivative_is_refused() -> None:
    hidden, weight, _, targets = operands(37, 70, 16)
    leaf = hidden.requires_grad_()
    lse, z = lse_gather(leaf, weight, targets, kernels="triton")
    plan = plan_scores(37, 2, torch.tensor([0, 37])).to(torch.device(DEVICE))
    for result in (lse, segment_scores(lse, z, plan, kernels="triton").nll_S):
        (grad,) = torch.autograd.grad((result * result).sum(), leaf, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            grad.sum().backward()
    inputs = lse.detach().requires_grad_(), z.detach()
    nll_S = segment_scores(*inputs, plan, kernels="triton").nll_S
    (grad,) = torch.autograd.grad((nll_S * nll_S).sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_nothing_of_the_size_of_the_logits_is_held() -> None:
    hidden, weight, _, targets = operands(128, 512, 16)
    leaf, parameter = hidden.requires_grad_(), weight.requires_grad_()
    operand_bytes = 4 * 512 * 16
    with Largest() as largest, torch.no_grad():
        lse_gather(leaf, parameter, targets, kernels="triton")
    assert largest.bytes <= operand_bytes < 4 * 128 * 512
    with Largest() as largest:
        lse, _ = lse_gather(leaf, parameter, targets, kernels="triton", workspace_bytes=operand_bytes)
        lse.sum().backward()
    assert largest.bytes <= operand_bytes


def test_nothing_takes_a_gradient() -> None:
    hidden, weight, _, targets = operands(40, 70, 16)
    lse, z = lse_gather(hidden, weight, targets, kernels="triton")
    assert not lse.requires_grad and not z.requires_grad
    expected = torch.logsumexp(hidden.double() @ weight.double().T, 1)
    torch.testing.assert_close(lse.double(), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("backward", BACKWARDS)
def test_launches_go_to_the_device_of_the_operands(monkeypatch: pytest.MonkeyPatch, backward: Backward) -> None:
    entered: list[torch.device] = []
    inside: list[list[torch.device]] = []

    class Entered:
        def __init__(self, tensor: Tensor) -> None:
            self.device = tensor.device

        def __enter__(self) -> None:
            entered.append(self.device)

        def __exit__(self, *_: object) -> None:
            entered.pop()

    def watched(run: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            inside.append(list(entered))
            return run(*args)

        return call

    monkeypatch.setattr(torch.cuda, "device_of", Entered)
    monkeypatch.setattr(lse_forward, "forward", watched(lse_forward.forward))
    for name in ("workspace_backward", "atomic_backward"):
        monkeypatch.setattr(lse_backward, name, watched(getattr(lse_backward, name)))
    hidden, weight, _, targets = operands(40, 70, 16)
    lse, _ = lse_gather(hidden.requires_grad_(), weight, targets, kernels="triton", backward=backward)
    lse.sum().backward()
    assert inside == [[hidden.device], [hidden.device]]


def test_the_first_way_of_summing_in_fp32_that_this_torch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(total: Tensor, left: Tensor, right: Tensor) -> None:
        raise RuntimeError("self and mat2 must have the same dtype")

    def lacks(total: Tensor, left: Tensor, right: Tensor) -> None:
        raise TypeError("mm() got an unexpected keyword argument 'out_dtype'")

    def adds(total: Tensor, left: Tensor, right: Tensor) -> None:
        total.addmm_(left.float(), right.float())

    def adds_nothing(total: Tensor, left: Tensor, right: Tensor) -> None:
        pass

    device = torch.device(DEVICE)
    for ways, expected in (
        ((adds, refuses), adds),
        ((refuses, adds), adds),
        ((adds_nothing, adds), adds),
        ((refuses, lacks), products._widened),
    ):
        products.adder.cache_clear()
        monkeypatch.setattr(products, "_at_once", ways[0])
        monkeypatch.setattr(products, "_apart", ways[1])
        assert products.adder(device, torch.bfloat16) is expected
    products.adder.cache_clear()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_way_of_summing_in_fp32_gives_the_same(dtype: torch.dtype) -> None:
    left, right = torch.randn(32, 64).to(DEVICE, dtype), torch.randn(64, 16).to(DEVICE, dtype)
    start = torch.randn(32, 16).to(DEVICE)
    expected = start.double() + left.double() @ right.double()
    for add in (products._at_once, products._apart, products._widened, products.add_product):
        total = start.clone()
        try:
            add(total, left, right)
        except (AttributeError, TypeError, RuntimeError):
            assert add not in (products._widened, products.add_product)
            continue
        # 64 products of about 1 in fp32: some ulp of 8.
        torch.testing.assert_close(total.double(), expected, atol=1e-5, rtol=0)
