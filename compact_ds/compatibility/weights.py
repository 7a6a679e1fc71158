"""From metrics to weights: w = softmax((alpha C + beta A - gamma D) / tau) over an example's teachers, with a floor.

Owns standardisation, the softmax, the floor and the warm-up of DESIGN's section 3. Which coefficients a method uses is
said in `methods`. No gradient flows through a weight. Legend: `segments`; `teacher_R` indexes the global teacher list.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compact_ds.compatibility.running import RunningScales
from compact_ds.compatibility.segments import maxima, sums
from compact_ds.sections import CompatibilityConfig


@torch.no_grad()
def uniform_weights(example_R: Tensor, teacher_R: Tensor, num_examples: int) -> Tensor:
    """Equal shares for the teachers of an example, each split evenly among its rationales; fp32, [R]."""
    return _uniform(example_R, teacher_R, num_examples).float()


@torch.no_grad()
def weights(
    metrics_MR: Tensor,
    example_R: Tensor,
    teacher_R: Tensor,
    num_examples: int,
    scales: RunningScales,
    settings: CompatibilityConfig,
    step: int,
) -> Tensor:
    """w_k of every rationale, fp32, [R]; they sum to 1 over each example.

    `metrics_MR` holds C, A, D, then the metrics of `settings.added` in its order; `scales` are those from before the step;
    `step` counts optimizer steps from 0, and those below `settings.warmup` are uniform. A teacher with m rationales on a
    question enters the softmax with a prior of 1/m each and the centring with a weight of 1/m each, so that it counts once
    however often it answers. A term with coefficient 0, or with a metric that has not spread yet, is left out.
    """
    uniform_R = _uniform(example_R, teacher_R, num_examples)
    if step < settings.warmup:
        return uniform_R.float()
    score_R = _score(metrics_MR.double(), uniform_R, example_R, num_examples, scales, settings)
    logit_R = uniform_R.log() + score_R / settings.tau
    power_R = (logit_R - maxima(logit_R, example_R, num_examples)[example_R]).exp()
    soft_R = power_R / sums(power_R, example_R, num_examples)[example_R]
    return ((1 - settings.floor) * soft_R + settings.floor * uniform_R).float()


def _uniform(example_R: Tensor, teacher_R: Tensor, num_examples: int) -> Tensor:
    same_RR = (example_R[:, None] == example_R) & (teacher_R[:, None] == teacher_R)
    share_R = 1 / same_RR.sum(1).double()
    return share_R / sums(share_R, example_R, num_examples)[example_R]


def _score(
    metrics_MR: Tensor,
    uniform_R: Tensor,
    example_R: Tensor,
    num_examples: int,
    scales: RunningScales,
    settings: CompatibilityConfig,
) -> Tensor:
    """alpha C + beta A - gamma D + what was added, each centred over its example and divided by its running scale; [R]."""
    coefficients = (settings.alpha, settings.beta, -settings.gamma, *settings.added.values())
    scale_M = scales.scale_M
    score_R = torch.zeros_like(uniform_R)
    for m, coefficient in enumerate(coefficients):
        if coefficient == 0:
            continue
        mean_X = sums(uniform_R * metrics_MR[m], example_R, num_examples)
        centred_R = metrics_MR[m] - mean_X[example_R]
        score_R += coefficient * torch.where(scale_M[m] > 0, centred_R / scale_M[m], 0.0)
    return score_R
