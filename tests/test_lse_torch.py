"""The head's primitive against float64 by definition, forward and every gradient."""

import pytest
import torch

from compact_ds.kernels.lse_gather import EMPTY, lse_gather
from compact_ds.kernels.lse_torch import HeadShape, lse_gather_reference

# fp32 sums over at most 64 features and 301 words: a few ulp, measured 3e-7 relative.
TOLERANCE = 1e-5


@pytest.mark.parametrize("vocabulary", [1, 37, 301])
@pytest.mark.parametrize(("softcap", "scale", "bias"), [(None, 1.0, False), (30.0, 0.5, True)])
@pytest.mark.parametrize("grad_rows", [0, 9, 23])
def test_values_and_gradients_equal_float64(vocabulary, softcap, scale, bias, grad_rows):
    torch.manual_seed(0)
    hidden, weight = torch.randn(23, 64, requires_grad=True), torch.randn(vocabulary, 64, requires_grad=True)
    bias_V = torch.randn(vocabulary, requires_grad=True) if bias else None
    targets = torch.randint(vocabulary, (23, 2))
    targets[::5, 1] = EMPTY
    # Negative and uneven on purpose: a uniform upstream gradient hides wrong weighting.
    up_lse, up_z = torch.randn(23), torch.randn(23, 2)
    inputs = [t for t in (hidden, weight, bias_V) if t is not None]
    lse, z = lse_gather(
        hidden,
        weight,
        targets,
        bias_V,
        softcap=softcap,
        scale=scale,
        grad_rows=grad_rows,
        workspace_bytes=4 * vocabulary * 7,
    )
    got = torch.autograd.grad((lse * up_lse).sum() + (z * up_z).sum(), inputs)
    doubles = [t.detach().double().requires_grad_() for t in inputs]
    shape = HeadShape(softcap, scale, grad_rows, 0)
    lse64, z64 = lse_gather_reference(doubles[0], doubles[1], targets, doubles[2] if bias else None, shape)
    keep = torch.arange(23) < grad_rows
    loss = ((lse64 * up_lse) * keep).sum() + ((z64 * up_z) * keep[:, None]).sum()
    want = torch.autograd.grad(loss, doubles)
    torch.testing.assert_close(lse.double(), lse64, atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(z.double(), z64, atol=TOLERANCE, rtol=TOLERANCE)
    for mine, theirs in zip(got, want, strict=True):
        assert (mine.double() - theirs).norm() <= TOLERANCE * theirs.norm().clamp(min=1)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="features"):
        lse_gather(torch.zeros(2, 3), torch.zeros(5, 4), torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="grad_rows"):
        lse_gather(torch.zeros(2, 4), torch.zeros(5, 4), torch.zeros(2, 1, dtype=torch.int64), grad_rows=3)
