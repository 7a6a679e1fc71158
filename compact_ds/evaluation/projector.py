"""A comparison's states for TensorBoard's projector: tokens and rationales before and after, in one space each.

Owns which points are written and what is said of each. The states come from `latent_space`.

Legend: P rationales, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compact_ds.evaluation.latent_space import States


def write(states: Mapping[str, States], layer: int, folder: Path) -> None:
    """Two sets of points a source: its rationales, where it has some, and sampled tokens; `layer` stands as their step."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as board:
        for name, one in states.items():
            said = [[_cell(str(prompt.teacher)), str(prompt.question)] for prompt in one.pooled]
            if said:
                sides = (one.pooled_before_PD, one.pooled_after_PD)
                _add(board, f"rationales of {name}", layer, sides, ("side", "teacher", "question"), said)
            sides = (one.sample_before_SD, one.sample_after_SD)
            _add(board, f"tokens of {name}", layer, sides, ("side",), [[]] * len(sides[0]))


def _add(
    board: Any, tag: str, layer: int, sides: tuple[Tensor, Tensor], head: Sequence[str], said: Sequence[Sequence[str]]
) -> None:
    """Both sides' points [P, D] one below the other, so that any projection shows a shift as a shift."""
    labels = [[side, *words] for side in ("before", "after") for words in said]
    # With one column the projector expects bare labels and no header.
    metadata, header = (labels, list(head)) if len(head) > 1 else ([label[0] for label in labels], None)
    board.add_embedding(torch.cat(sides), metadata, tag=tag, global_step=layer, metadata_header=header)


def _cell(text: str) -> str:
    """Text without what would end a cell of the projector's table."""
    return " ".join(text.split())
