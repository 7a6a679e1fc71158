"""The head's primitive on a CPU against float64 by definition: forward, every gradient, and what it may hold in memory.

Tolerances. Log-sum-exp and target logits: 2e-5 and 2e-6 of the largest logit, a few ulp of fp32 at the logits' size.
Gradients: 1e-5 of the norm, fp32 sums over at most 64 features and 301 words (measured 4e-7).
"""

import math
from typing import Any

import pytest
import torch
from largest_storage import Largest
from matrix_products import Multiplications
from torch import Tensor

from compact_ds.kernels import lse_torch
from compact_ds.kernels.lse_gather import EMPTY, lse_gather
from compact_ds.kernels.lse_torch import HeadShape, lse_gather_reference

GRADIENT_TOLERANCE = 1e-5
ROWS, FEATURES = 23, 64
Upstream = tuple[Tensor, Tensor]
Operands = tuple[Tensor, Tensor, Tensor | None, Tensor, Upstream]
Results = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]
Wanted = tuple[bool, bool, bool]


@pytest.fixture(params=["one tile", "many tiles"])
def tiling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    # 7 divides neither the rows nor the words: the last tiles are narrower.
    if request.param == "many tiles":
        monkeypatch.setattr(lse_torch, "CPU_TILE", (7, 50))


def operands(
    vocabulary: int, slots: int, bias: bool = False, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Operands:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(ROWS, FEATURES, generator=generator).to(dtype)
    weight = torch.randn(vocabulary, FEATURES, generator=generator).to(dtype)
    bias_V = torch.randn(vocabulary, generator=generator).to(dtype) if bias else None
    targets = torch.randint(vocabulary, (ROWS, slots), generator=generator)
    targets[::5, slots - 1] = EMPTY
    targets[1] = targets[1, 0]
    # Negative and uneven on purpose: a uniform upstream gradient hides wrong weighting.
    upstream = torch.randn(ROWS, generator=generator), torch.randn(ROWS, slots, generator=generator)
    return hidden, weight, bias_V, targets, upstream


def run(case: Operands, wanted: Wanted = (True, True, True), **options: Any) -> Results:
    """Values and gradients of the primitive, None for inputs that want none."""
    hidden, weight, bias, targets, upstream = case
    leaves = hidden.detach().requires_grad_(wanted[0]), weight.detach().requires_grad_(wanted[1])
    given = *leaves, None if bias is None else bias.detach().requires_grad_(wanted[2])
    lse, z = lse_gather(given[0], given[1], targets, given[2], **options)
    assert lse.dtype == z.dtype == torch.float32
    inputs = [t for t in given if t is not None and t.requires_grad]
    grads = iter(torch.autograd.grad((lse * upstream[0]).sum() + (z * upstream[1]).sum(), inputs))
    of_hidden, of_weight, of_bias = (None if t is None or not t.requires_grad else next(grads) for t in given)
    return lse.detach(), z.detach(), of_hidden, of_weight, of_bias


def truth(case: Operands, softcap: float | None = None, scale: float = 1.0, grad_rows: int = ROWS) -> Results:
    """The same in float64 by definition, every gradient."""
    hidden, weight, bias, targets, upstream = case
    leaves = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    doubles = *leaves, None if bias is None else bias.detach().double().requires_grad_()
    lse, z = lse_gather_reference(doubles[0], doubles[1], targets, doubles[2], HeadShape(softcap, scale, grad_rows, 0))
    keep = torch.arange(len(hidden)) < grad_rows
    loss = (lse * upstream[0] * keep).sum() + (z * upstream[1] * keep[:, None]).sum()
    grads = iter(torch.autograd.grad(loss, [t for t in doubles if t is not None]))
    of_hidden, of_weight, of_bias = (None if t is None else next(grads) for t in doubles)
    return lse.detach(), z.detach(), of_hidden, of_weight, of_bias


def check(got: Results, want: Results, gradient_tolerance: float = GRADIENT_TOLERANCE) -> None:
    for value, exact in zip(got[:2], want[:2], strict=True):
        finite = want[1][want[1].isfinite()]
        largest = finite.abs().max().item() if finite.numel() else 0.0
        torch.testing.assert_close(value.double(), exact, rtol=0, atol=2e-5 + 2e-6 * max(largest, 10.0))
    for mine, true in zip(got[2:], want[2:], strict=True):
        if mine is not None:
            assert true is not None
            assert (mine.double() - true).norm() <= gradient_tolerance * true.norm().clamp(min=1)


HEADS = [(None, 1.0, False), (None, 0.3, True), (30.0, 0.5, True), (3.0, 1.0, False)]


@pytest.mark.parametrize(("vocabulary", "slots"), [(1, 1), (37, 2), (301, 4)])
@pytest.mark.parametrize(("softcap", "scale", "bias"), HEADS)
@pytest.mark.parametrize("grad_rows", [0, 9, ROWS])
def test_values_and_gradients_equal_float64(
    tiling: None, vocabulary: int, slots: int, softcap: float | None, scale: float, bias: bool, grad_rows: int
) -> None:
    case = operands(vocabulary, slots, bias)
    options: dict[str, Any] = {"softcap": softcap, "scale": scale, "grad_rows": grad_rows}
    check(run(case, **options), truth(case, **options))


@pytest.mark.parametrize(("vocabulary", "slots"), [(1, 1), (37, 2), (301, 4)])
@pytest.mark.parametrize(("softcap", "scale", "bias"), HEADS)
@pytest.mark.parametrize("grad_rows", [9, ROWS])
def test_frozen_head_equals_float64(
    tiling: None, vocabulary: int, slots: int, softcap: float | None, scale: float, bias: bool, grad_rows: int
) -> None:
    case = operands(vocabulary, slots, bias)
    options: dict[str, Any] = {"softcap": softcap, "scale": scale, "grad_rows": grad_rows}
    check(run(case, wanted=(True, False, False), **options), truth(case, **options))


@pytest.mark.parametrize(
    "wanted", [(True, True, False), (True, False, True), (False, True, True), (False, False, True)]
)
def test_any_input_may_be_frozen(tiling: None, wanted: Wanted) -> None:
    case = operands(301, 2, bias=True)
    got = run(case, wanted=wanted, softcap=3.0)
    assert tuple(grad is not None for grad in got[2:]) == wanted
    check(got, truth(case, softcap=3.0))


@pytest.mark.parametrize("wanted", [(True, True, True), (True, False, False)])
def test_half_operands_are_multiplied_in_fp32(tiling: None, wanted: Wanted) -> None:
    case = operands(301, 2, bias=True, dtype=torch.bfloat16)
    got = run(case, wanted=wanted)
    assert {grad.dtype for grad in got[2:] if grad is not None} == {torch.bfloat16}
    # Gradients are rounded once, to 8 bits: at most 2^-9 of each element.
    check(got, truth(case), gradient_tolerance=2**-9)


@pytest.mark.parametrize("wanted", [(True, True, False), (True, False, False)])
def test_without_rows_gradients_are_zero(wanted: Wanted) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        case = operands(37, 2, dtype=dtype)
        empty: Operands = case[0][:0], case[1], None, case[3][:0], (case[4][0][:0], case[4][1][:0])
        for inputs, rows in ((empty, None), (case, 0)):
            lse, _, *grads = run(inputs, wanted=wanted, grad_rows=rows)
            assert lse.shape == inputs[0].shape[:1]
            assert all(not grad.any() for grad in grads if grad is not None)


def test_huge_logits(tiling: None) -> None:
    case = operands(301, 2)
    huge = case[0] * (1e4 / (case[0] @ case[1].T).abs().max()), *case[1:]
    got, want = run(huge), truth(huge)
    # exp of a logit near 1e4 is off by the logit's own rounding, 1e4 * 2^-24 and the sum of 64 such products.
    check(got, want, gradient_tolerance=1e-3)
    assert all(t.isfinite().all() for t in got if t is not None)


def test_equal_logits(tiling: None) -> None:
    hidden, _, _, targets, upstream = operands(301, 2)
    got = run((hidden, torch.zeros(301, FEATURES), None, targets, upstream))
    torch.testing.assert_close(got[0], torch.full((ROWS,), math.log(301)), rtol=0, atol=2e-6)
    assert not got[1].any()
    check(got, truth((hidden, torch.zeros(301, FEATURES), None, targets, upstream)))


@pytest.mark.parametrize("wanted", [(True, True, False), (True, False, False)])
def test_a_sure_prediction_leaves_the_small_rest(tiling: None, wanted: Wanted) -> None:
    # p of the target is 1 - 1e-6, so that a gradient of one row is 1e-6 of the target's word against 1e-6 of the others.
    vocabulary = 301
    targets = torch.arange(ROWS)[:, None]
    bias = torch.zeros(vocabulary)
    hidden = torch.eye(ROWS, FEATURES)
    weight = torch.randn(vocabulary, FEATURES, generator=torch.Generator().manual_seed(0)) / 64
    weight[:ROWS, :ROWS] += torch.eye(ROWS) * (math.log(vocabulary) + math.log(1e6))
    upstream = torch.ones(ROWS), -torch.ones(ROWS, 1)
    got = run((hidden, weight, bias, targets, upstream), wanted=wanted)
    want = truth((hidden, weight, bias, targets, upstream))
    assert 1e-7 < (want[0] - want[1][:, 0]).min() < 1e-5
    # A probability near 1 is known to an ulp of its logit, 20 here: 2e-6 of the word's norm, and 1 if p stood for p - 1.
    bound = 2**-23 * 20
    for mine, true, size in zip(got[2:], want[2:], (weight.norm(dim=1).max(), 1.0, 1.0), strict=True):
        if mine is not None:
            assert true is not None and (mine - true).abs().max() <= bound * size


@pytest.mark.parametrize("wanted", [(True, True, True), (True, False, False)])
def test_forbidden_words(tiling: None, wanted: Wanted) -> None:
    # The whole first tile is forbidden, and single words of others; no target is.
    hidden, weight, bias, _, upstream = operands(301, 2, bias=True)
    assert bias is not None
    bias[:60], bias[200::7] = -torch.inf, -torch.inf
    targets = torch.randint(60, 200, (ROWS, 2))
    got = run((hidden, weight, bias, targets, upstream), wanted=wanted)
    check(got, truth((hidden, weight, bias, targets, upstream)))
    if got[3] is not None:
        assert not got[3][:60].any()


@pytest.mark.parametrize("wanted", [(True, True, False), (True, False, False)])
@pytest.mark.parametrize("used", ["lse", "z"])
def test_one_result_alone(tiling: None, wanted: Wanted, used: str) -> None:
    hidden, weight, bias, targets, (up_lse, up_z) = operands(301, 2)
    upstream = (up_lse, torch.zeros_like(up_z)) if used == "lse" else (torch.zeros_like(up_lse), up_z)
    want = truth((hidden, weight, bias, targets, upstream))
    given = hidden.requires_grad_(), weight.requires_grad_(wanted[1])
    results = dict(zip(("lse", "z"), lse_gather(*given, targets), strict=True))
    loss = (results[used] * (up_lse if used == "lse" else up_z)).sum()
    grads = torch.autograd.grad(loss, [t for t in given if t.requires_grad])
    for mine, true in zip(grads, want[2 : 2 + len(grads)], strict=True):
        assert true is not None and (mine - true).norm() <= GRADIENT_TOLERANCE * true.norm()


def test_strides_and_the_width_of_ids_do_not_matter(tiling: None) -> None:
    hidden, weight, bias, targets, upstream = operands(301, 2)
    want = truth((hidden, weight, bias, targets, upstream))
    strided = torch.stack([hidden, hidden + 1], dim=2)[..., 0]
    check(run((strided, weight, bias, targets.int(), upstream)), want)
    check(run((hidden.T.contiguous().T, weight.T.contiguous().T, bias, targets, upstream)), want)


@pytest.mark.parametrize("wanted", [(True, True, False), (True, False, False)])
def test_runs_are_bitwise_equal_and_the_graph_can_be_kept(tiling: None, wanted: Wanted) -> None:
    case = operands(301, 2)
    first, second = run(case, wanted=wanted), run(case, wanted=wanted)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    hidden, weight = case[0].requires_grad_(), case[1].requires_grad_(wanted[1])
    lse, _ = lse_gather(hidden, weight, case[3])
    once, twice = (torch.autograd.grad(lse.sum(), hidden, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(once, twice)


@pytest.mark.parametrize("wanted", [(True, True, False), (True, False, False)])
def test_autocast_changes_nothing(wanted: Wanted) -> None:
    case = operands(301, 2)
    outside = run(case, wanted=wanted)
    with torch.autocast("cpu", torch.bfloat16):
        inside = run(case, wanted=wanted)
    torch.testing.assert_close(inside, outside, rtol=0, atol=0)


@pytest.mark.parametrize("wanted", [(True, True, False), (True, False, False)])
def test_a_weight_that_is_gathered_again_is_read_again(wanted: Wanted) -> None:
    # What ZeRO-3 does between the passes: the parameter is emptied, then filled with other memory.
    hidden, weight, _, targets, upstream = operands(301, 2)
    want = truth((hidden, weight, None, targets, upstream))[2]
    hidden.requires_grad_()
    parameter = torch.nn.Parameter(weight.clone(), requires_grad=wanted[1])
    lse, z = lse_gather(hidden, parameter, targets)
    parameter.data.fill_(torch.nan)
    parameter.data = weight.clone()
    (grad,) = torch.autograd.grad((lse * upstream[0]).sum() + (z * upstream[1]).sum(), hidden)
    assert want is not None and (grad - want).norm() <= GRADIENT_TOLERANCE * want.norm()


@pytest.mark.parametrize("wanted", [(True, True, False), (True, False, False)])
def test_a_second_derivative_is_refused(wanted: Wanted) -> None:
    hidden, weight, _, targets, _ = operands(37, 1)
    lse, _ = lse_gather(hidden.requires_grad_(), weight.requires_grad_(wanted[1]), targets)
    (grad,) = torch.autograd.grad((lse * lse).sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("wanted", [(True, True, False), (True, False, False)])
def test_no_buffer_exceeds_a_tile_or_an_operand(wanted: Wanted) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(512, 8, generator=generator), torch.randn(4096, 8, generator=generator)
    targets, workspace = torch.zeros(512, 1, dtype=torch.int64), 256 << 10
    with Largest() as largest, torch.no_grad():
        lse_gather(hidden.requires_grad_(), weight.requires_grad_(wanted[1]), targets, workspace_bytes=workspace)
    assert largest.bytes <= workspace
    with Largest() as largest:
        lse, _ = lse_gather(hidden, weight, targets, workspace_bytes=workspace)
        lse.sum().backward()
    assert largest.bytes <= workspace < 512 * 4096


def test_few_rows_of_a_wide_head_keep_to_the_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a GPU: a tile is bounded by the workspace alone, which holds four rows of every word, but no fp32 copy of all words.
    monkeypatch.setattr(lse_torch, "CPU_TILE", (1 << 30, 1 << 30))
    hidden, weight = torch.randn(4, 64).bfloat16(), torch.randn(4096, 64).bfloat16()
    targets = torch.zeros(4, 1, dtype=torch.int64)
    with Largest() as largest, torch.no_grad():
        lse, _ = lse_gather(hidden, weight, targets, workspace_bytes=64 << 10)
    assert largest.bytes <= weight.nbytes
    torch.testing.assert_close(lse.double(), (hidden.double() @ weight.double().T).logsumexp(1), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("wanted", "grad_rows", "products"),
    [((True, True, False), ROWS, 4), ((True, False, False), ROWS, 2), ((True, True, False), 0, 1)],
)
def test_products_of_a_training_step(tiling: None, wanted: Wanted, grad_rows: int, products: int) -> None:
    case = operands(301, 2)
    with Multiplications(ROWS * 301 * FEATURES) as count:
        run(case, wanted=wanted, grad_rows=grad_rows)
    assert count.units == pytest.approx(products)
    with Multiplications(ROWS * 301 * FEATURES) as count, torch.no_grad():
        lse_gather(case[0].requires_grad_(wanted[0]), case[1].requires_grad_(wanted[1]), case[3])
    assert count.units == pytest.approx(1)
