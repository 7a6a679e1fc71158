"""Other ways to weigh several teachers, by the papers that proposed them, in the terms of this project.

Owns their formulas. Each returns shares that sum to 1 over an example, fp32, [R], without a gradient. Which method uses which is
said in `methods`. Legend: `compatibility.segments`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compact_ds.compatibility.segments import maxima, sums
from compact_ds.methods.evidence import Evidence


@torch.no_grad()
def token_weights(evidence: Evidence) -> Tensor:
    """Every token of an example's rationales alike, so that long ones count for more: T_k / sum T.

    This is what plain fine-tuning makes of the union of all rationales as rows of their own.
    """
    return _shares(evidence.tokens_R.double(), evidence).float()


@torch.no_grad()
def confidence_weights(evidence: Evidence) -> Tensor:
    """softmax(-L_k): the geometric mean probability that the student gives a token of the rationale, as a share.

    Weighing teachers by the negative cross-entropy of their text, as the x-token distillation of NVIDIA's NeMo RL weighs its
    teachers' distributions; here the cross-entropy is the student's on the teacher's tokens.
    """
    logit_R = -evidence.token_loss_R.double()
    largest_R = maxima(logit_R, evidence.example_R, evidence.num_examples)[evidence.example_R]
    return _shares((logit_R - largest_R).exp(), evidence).float()


@torch.no_grad()
def lowest_rank_ratio(evidence: Evidence) -> Tensor:
    """All weight on the rationale with the smallest rank-surprisal ratio (arXiv 2601.14249), shared evenly where several have it.

    The paper selects once, by the untrained student; here it is the student of the step.
    """
    assert evidence.rank_ratio_R is not None
    ratio_R = -evidence.rank_ratio_R.double()
    best_R = ratio_R == maxima(ratio_R, evidence.example_R, evidence.num_examples)[evidence.example_R]
    # A ratio that is no number must show as one: the step then names the rationale.
    return _shares(torch.where(ratio_R.isnan(), ratio_R, best_R.double()), evidence).float()


def rank_surprisal_ratio(rank_R: Tensor, nll_R: Tensor) -> Tensor:
    """Sum of the tokens' clipped ranks over the sum of their negative log-likelihoods in nats, [R] (arXiv 2601.14249, its RSR).

    Low means informative (the tokens are unlikely) and within reach (few words are likelier): worth learning from.
    """
    return rank_R.double() / nll_R.double()


def _shares(value_R: Tensor, evidence: Evidence) -> Tensor:
    return value_R / sums(value_R, evidence.example_R, evidence.num_examples)[evidence.example_R]
