"""The head's Triton kernels beside float64 by definition, for the tests of their values and of their backward passes."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

import pytest
import torch
from torch import Tensor

from compact_ds.kernels.lse_gather import EMPTY, lse_gather
from compact_ds.kernels.lse_reference import HeadShape, lse_gather_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKWARDS = ("workspace", "atomic")
# fp32 sums in another order than float64's: 3e-7 measured for gradients. bf16: the stored gradient of a logit keeps 8 bits.
GRADIENT = {torch.float32: 1e-5, torch.bfloat16: 5e-3 if DEVICE == "cpu" else 2.5e-3}


def poison_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every buffer that kernels are to fill starts as NaN or -7, so that an element left unwritten shows."""
    new_empty = torch.Tensor.new_empty

    def poison(self: Tensor, *size: Any, **kwargs: Any) -> Tensor:
        made = new_empty(self, *size, **kwargs)
        return made.fill_(float("nan")) if made.is_floating_point() else made.fill_(-7)

    monkeypatch.setattr(torch.Tensor, "new_empty", poison)


@overload
def operands(
    N: int, V: int, D: int, K: int = 2, dtype: torch.dtype = ..., *, bias: Literal[True], spread: float = 0.3
) -> tuple[Tensor, Tensor, Tensor, Tensor]: ...


@overload
def operands(
    N: int, V: int, D: int, K: int = 2, dtype: torch.dtype = ..., bias: bool = False, spread: float = 0.3
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]: ...


def operands(
    N: int, V: int, D: int, K: int = 2, dtype: torch.dtype = torch.float32, bias: bool = False, spread: float = 0.3
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    torch.manual_seed(N + V + D)
    hidden, weight = torch.randn(N, D).to(dtype), torch.randn(V, D).mul(spread).to(dtype)
    bias_V = torch.randn(V).to(dtype) if bias else None
    targets = torch.randint(V, (N, K))
    if N:
        targets[0], targets[-1] = 0, V - 1
        targets[::5, -1] = EMPTY
    return hidden.to(DEVICE), weight.to(DEVICE), None if bias_V is None else bias_V.to(DEVICE), targets.to(DEVICE)


def both(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    softcap: float | None = None,
    scale: float = 1.0,
    grad_rows: int | None = None,
    upstream: Sequence[Tensor] | None = None,
    wants: Sequence[bool] | None = None,
    **settings: Any,
) -> tuple[list[Tensor], list[Tensor]]:
    """Values and gradients of the kernels and of float64, as ((lse, z, *gradients), the same)."""
    N, K = targets.shape
    inputs = [t for t in (hidden, weight, bias) if t is not None]
    wants = wants or [True] * len(inputs)
    if upstream is None:
        torch.manual_seed(7)
        # Uneven and negative: a uniform upstream gradient hides wrong weighting.
        upstream = torch.randn(N).to(DEVICE), torch.randn(N, K).to(DEVICE)
    keep = (torch.arange(N) < (N if grad_rows is None else grad_rows)).to(DEVICE)

    def run(
        call: Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]], kind: torch.dtype | None
    ) -> list[Tensor]:
        leaves = [t.detach().to(kind or t.dtype).requires_grad_(w) for t, w in zip(inputs, wants, strict=True)]
        lse, z = call(leaves[0], leaves[1], targets, leaves[2] if bias is not None else None)
        loss = (lse * upstream[0] * keep).sum() + (z * upstream[1] * keep[:, None]).sum()
        return [lse, z, *torch.autograd.grad(loss, [t for t in leaves if t.requires_grad])]

    ours = run(
        lambda h, w, t, b: lse_gather(
            h, w, t, b, softcap=softcap, scale=scale, grad_rows=grad_rows, kernels="triton", **settings
        ),
        None,
    )
    whole = HeadShape(softcap, scale, N, 0)
    return ours, run(lambda h, w, t, b: lse_gather_reference(h, w, t, b, whole), torch.float64)


def agree(
    ours: Sequence[Tensor], truth: Sequence[Tensor], largest: float = 100.0, dtype: torch.dtype = torch.float32
) -> None:
    for mine, exact in zip(ours[:2], truth[:2], strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine.double(), exact, atol=2e-5 + 2e-6 * largest, rtol=0)
    for mine, exact in zip(ours[2:], truth[2:], strict=True):
        error = (mine.double() - exact).norm()
        assert error <= GRADIENT[dtype] * exact.norm() + 1e-12, float(error / exact.norm())
