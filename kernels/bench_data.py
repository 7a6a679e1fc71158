"""Inputs of the benchmark: hidden states, head weights, targets and upstream gradients of a stated distribution.

Owns how they are made and the figures that describe them. How much a kernel that skips small gradients may skip depends on
them more than on the kernel, so those figures stand beside every time.

Legend: N rows, K target slots a row, V vocabulary, D hidden size, B rows of a block, J candidates of a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from compact_ds.kernels.bench_shapes import Shape

DISTRIBUTIONS = {
    "random": "hidden ~ N(0, 1), weight ~ N(0, 0.02^2), targets uniform: nearly flat logits, as of an untrained head",
    "peaked": (
        "weight ~ N(0, 1/D) plus a direction that carries a Zipf prior over the vocabulary; hidden = 16 weight rows drawn by "
        "that prior with weights falling as 1/j, plus noise, lengths log-normal, scaled so that the mean entropy is 2 nats; "
        "targets drawn from the softmax itself, so the head is calibrated and the target often its largest logit"
    ),
}

TILE = 128
SKIP_BELOW = 2.0**-12
"""A filter leaves out a tile none of whose |p - 1[target]| reaches this: bf16's epsilon / 32, as in cut-cross-entropy."""

_ENTROPY_NATS = 2.0
_CANDIDATES = 16
_BLOCK_ELEMENTS = 1 << 25


@dataclass(frozen=True, slots=True)
class Problem:
    """One input. The first `grad_rows` rows have an upstream gradient, non-uniform and of both signs; the rest have zero."""

    hidden_ND: Tensor
    weight_VD: Tensor
    targets_NK: Tensor
    upstream_NK: Tensor
    grad_rows: int
    softcap: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """What an input looks like, over a sample of its rows; nats and shares.

    `tiles_skippable` is the share of 128 x 128 tiles that a filter at bf16's threshold would leave out of the backward
    pass; `..._sorted` the same after ordering the vocabulary by mean logit, as cut-cross-entropy does.
    """

    nll_mean: float
    entropy_mean: float
    target_is_argmax: float
    logit_std: float
    tiles_skippable: float
    tiles_skippable_sorted: float


def make_problem(
    shape: Shape, rows: int, slots: int, dtype: torch.dtype, device: str, distribution: str,
    grad_rows: int, softcap: float | None, seed: int = 0,
) -> Problem:  # fmt: skip
    """Draw one input; the same arguments on the same device give the same tensors."""
    generator = torch.Generator(device).manual_seed(seed)
    if distribution == "random":
        hidden_ND = _normal(generator, rows, shape.hidden_size)
        weight_VD = _normal(generator, shape.vocabulary, shape.hidden_size).mul_(0.02)
    else:
        hidden_ND, weight_VD = _peaked(generator, rows, shape, softcap)
    hidden_ND, weight_VD = hidden_ND.to(dtype), weight_VD.to(dtype)
    if distribution == "random":
        targets_NK = torch.randint(shape.vocabulary, (rows, slots), generator=generator, device=device)
    else:
        targets_NK = torch.cat(
            [
                torch.multinomial(logits(block_BD, weight_VD, softcap).softmax(1), slots, True, generator=generator)
                for block_BD in hidden_ND.split(max(1, _BLOCK_ELEMENTS // shape.vocabulary))
            ]
        )
    upstream_NK = _normal(generator, rows, slots).div_(rows)
    upstream_NK[grad_rows:] = 0.0
    return Problem(hidden_ND.requires_grad_(), weight_VD.requires_grad_(), targets_NK, upstream_NK, grad_rows, softcap)


@torch.no_grad()
def describe(problem: Problem, tile_rows: int = 4) -> Figures:
    """Figures of the first slot over `tile_rows` blocks of 128 rows that lie evenly over the input."""
    num_rows, vocabulary = problem.hidden_ND.shape[0], problem.weight_VD.shape[0]
    # The mean logit of a word is the mean hidden state's logit; with a softcap only the order survives, which is all we need.
    order_V = (problem.hidden_ND.float().mean(0) @ problem.weight_VD.float().T).argsort()
    starts = torch.linspace(0, max(0, num_rows - TILE), min(tile_rows, math.ceil(num_rows / TILE))).long().tolist()
    blocks = [_describe_block(problem, slice(start, start + TILE), order_V) for start in starts]
    nll, entropy, argmax, std, plain, ordered = torch.tensor(blocks, dtype=torch.float64).mean(0).tolist()
    tiles = math.ceil(vocabulary / TILE)
    return Figures(nll, entropy, argmax, std, plain / tiles, ordered / tiles)


def logits(hidden_BD: Tensor, weight_VD: Tensor, softcap: float | None) -> Tensor:
    """fp32 logits [B, V] of a block of rows."""
    logits_BV = hidden_BD.float() @ weight_VD.float().T
    return logits_BV if softcap is None else torch.tanh(logits_BV / softcap) * softcap


def _describe_block(problem: Problem, rows: slice, order_V: Tensor) -> list[float]:
    logits_BV = logits(problem.hidden_ND[rows], problem.weight_VD, problem.softcap)
    target_B1 = problem.targets_NK[rows, :1]
    log_p_BV = logits_BV.log_softmax(1)
    nll = -log_p_BV.gather(1, target_B1).mean()
    p_BV = log_p_BV.exp()
    entropy = -(p_BV * log_p_BV).sum(1).mean()
    is_argmax = (logits_BV.argmax(1, keepdim=True) == target_B1).float().mean()
    largest_V = p_BV.scatter_add_(1, target_B1, -torch.ones_like(p_BV[:, :1])).abs_().amax(0)
    skippable = (_small(largest_V), _small(largest_V[order_V]))
    return [*(float(x) for x in (nll, entropy, is_argmax, logits_BV.std())), *skippable]


def _small(largest_V: Tensor) -> float:
    tiles = torch.nn.functional.pad(largest_V, (0, -len(largest_V) % TILE)).view(-1, TILE).amax(1)
    return float((tiles < SKIP_BELOW).sum())


def _peaked(generator: torch.Generator, rows: int, shape: Shape, softcap: float | None) -> tuple[Tensor, Tensor]:
    device, size = generator.device, shape.hidden_size
    prior_V = 1 / (torch.arange(shape.vocabulary, device=device) + 10.0)
    prior_V = prior_V[torch.randperm(shape.vocabulary, generator=generator, device=device)]
    direction_D = torch.nn.functional.normalize(_normal(generator, size), dim=0)
    weight_VD = _normal(generator, shape.vocabulary, size).div_(size**0.5)
    weight_VD.addr_(prior_V.log() - prior_V.log().mean(), direction_D, alpha=0.15)

    # torch.multinomial takes at most 2^24 categories; a vocabulary is far below.
    candidates_NJ = torch.multinomial(prior_V, rows * _CANDIDATES, True, generator=generator).view(rows, -1)
    shares_NJ = torch.exp(0.5 * _normal(generator, rows, _CANDIDATES)) / torch.arange(1, _CANDIDATES + 1, device=device)
    hidden_ND = torch.zeros(rows, size, device=device)
    for j in range(_CANDIDATES):
        hidden_ND.addcmul_(shares_NJ[:, j : j + 1], weight_VD[candidates_NJ[:, j]])
    hidden_ND = torch.nn.functional.normalize(hidden_ND).add_(_normal(generator, rows, size), alpha=1.5 / size**0.5)
    hidden_ND = torch.nn.functional.normalize(hidden_ND).mul_(torch.exp(0.5 * _normal(generator, rows, 1)))
    hidden_ND.add_(direction_D, alpha=0.03)
    return hidden_ND.mul_(_scale_for_entropy(hidden_ND[:TILE], weight_VD, softcap)), weight_VD


def _scale_for_entropy(hidden_BD: Tensor, weight_VD: Tensor, softcap: float | None) -> float:
    """The factor on the hidden states at which their softmax has a mean entropy of 2 nats, by bisection of its logarithm."""
    unscaled_BV = logits(hidden_BD, weight_VD, None)
    low, high = math.log(1e-2), math.log(1e4)
    for _ in range(24):
        middle = (low + high) / 2
        scaled_BV = unscaled_BV * math.exp(middle)
        if softcap is not None:
            scaled_BV = torch.tanh(scaled_BV / softcap) * softcap
        log_p_BV = scaled_BV.log_softmax(1)
        too_flat = -(log_p_BV.exp() * log_p_BV).sum(1).mean() > _ENTROPY_NATS
        low, high = (middle, high) if too_flat else (low, middle)
    return math.exp((low + high) / 2)


def _normal(generator: torch.Generator, *sizes: int) -> Tensor:
    return torch.randn(sizes, generator=generator, device=generator.device)
