"""Where two students' hidden states lie on fixed prompts, layer by layer: one pass of each model over the prompts.

Owns the passes, and which states are kept for pictures. The formulas are in `moments` and `pooled`, the prompts in `prompts`.

Legend: B prompts, L tokens, D hidden size, S sampled tokens, P prompts with a rationale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from compact_ds.errors import DataError, UserError
from compact_ds.evaluation.moments import PairMoments
from compact_ds.evaluation.prompts import Prompt

SAMPLED = 400
"""Tokens of a source whose states are kept, for the picture of the states."""


@dataclass(frozen=True, slots=True)
class States:
    """What a source's prompts show. `layers` holds the moments of every layer: the embeddings, each block, the last one normed.

    At one layer: `sample_before_SD` and `sample_after_SD` are states of tokens drawn by the seed, `pooled_before_PD` and
    `pooled_after_PD` the means over each rationale's tokens, of the prompts in `pooled`; fp32, on the CPU.
    """

    layers: list[PairMoments]
    sample_before_SD: Tensor
    sample_after_SD: Tensor
    pooled_before_PD: Tensor
    pooled_after_PD: Tensor
    pooled: list[Prompt]


def number_of_layers(before: Any, after: Any) -> int:
    """Layers of states, embeddings included. Raises UserError where the two students differ in shape."""
    shapes = [
        tuple(getattr(lm.config.get_text_config(), name) for name in ("num_hidden_layers", "hidden_size"))
        for lm in (before, after)
    ]
    if shapes[0] != shapes[1]:
        raise UserError("AFTER", f"layers and width {shapes[1]}", f"{shapes[0]} as in BEFORE", "compare one student")
    return int(shapes[0][0]) + 1


@torch.no_grad()
def states_of(
    before: Any, after: Any, prompts: Sequence[Prompt], layer: int, batch_size: int, seed: int, name: str
) -> States:
    """Both students' states on the prompts of the source `name`; `layer` is the one kept for pictures. Raises DataError."""
    num_layers = number_of_layers(before, after)
    size = before.config.get_text_config().hidden_size
    layers = [PairMoments(size, before.device) for _ in range(num_layers)]
    counted = sum(max(0, len(prompt.ids) - prompt.first) for prompt in prompts)
    if counted < 2:
        raise DataError(name, f"{counted} tokens", "at least 2 tokens to compare", "give more or longer questions")
    chosen = np.sort(np.random.default_rng(seed).permutation(counted)[:SAMPLED])
    samples, pools, pooled, seen = [], [], [], 0
    with tqdm(total=len(prompts), desc=f"states: {name}", unit="prompt", leave=False) as bar:
        for part in _parts(prompts, batch_size):
            ids_BL, mask_BL = _padded(part)
            pair = [_hidden(lm, ids_BL, mask_BL) for lm in (before, after)]
            index_T = _counted(part, ids_BL.shape[1])
            for moments, hidden in zip(layers, zip(*pair, strict=True), strict=True):
                moments.add(*(h_BLD.flatten(0, 1)[index_T] for h_BLD in hidden))
            kept = [hidden[layer].float().cpu() for hidden in pair]
            own = chosen[(chosen >= seen) & (chosen < seen + len(index_T))] - seen
            samples.append([h_BLD.flatten(0, 1)[index_T[own]] for h_BLD in kept])
            reasoned = [b for b, prompt in enumerate(part) if len(prompt.ids) > prompt.start]
            pools += [[h_BLD[b, part[b].start : len(part[b].ids)].mean(0) for h_BLD in kept] for b in reasoned]
            pooled += [part[b] for b in reasoned]
            seen += len(index_T)
            bar.update(len(part))
    before_SD, after_SD = (torch.cat(one) for one in zip(*samples, strict=True))
    means = [torch.stack(one) for one in zip(*pools, strict=True)] if pools else [torch.zeros(0, size)] * 2
    return States(layers, before_SD, after_SD, means[0], means[1], pooled)


def _parts(prompts: Sequence[Prompt], batch_size: int) -> Iterator[list[Prompt]]:
    # Alike lengths together waste no padding.
    ordered = sorted(prompts, key=lambda prompt: len(prompt.ids))
    for start in range(0, len(ordered), batch_size):
        yield ordered[start : start + batch_size]


def _padded(part: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
    """Ids and mask, padded on the right, where causal attention never looks."""
    ids = [torch.from_numpy(prompt.ids).long() for prompt in part]
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(ids, batch_first=True), pad([torch.ones_like(one) for one in ids], batch_first=True)


def _counted(part: Sequence[Prompt], length: int) -> Tensor:
    """Places of the tokens that count, in the flattened batch."""
    return torch.cat([b * length + torch.arange(len(prompt.ids))[prompt.first :] for b, prompt in enumerate(part)])


def _hidden(lm: Any, ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, ...]:
    out = lm.get_decoder()(
        input_ids=ids_BL.to(lm.device), attention_mask=mask_BL.to(lm.device), use_cache=False, output_hidden_states=True
    )
    hidden: tuple[Tensor, ...] = out.hidden_states
    return hidden
