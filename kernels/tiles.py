"""The shipped tile sizes, by target, operand type and kernel.

Owns the table and the look-up. `kernels check` compiles every line of it ahead of time, in the variants that `shipped` lists,
and refuses spills. Needs neither Triton nor a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

Kernel = Literal["forward", "workspace", "atomic"]
Target = Literal["sm_80", "sm_90", "sm_100", "gfx942", "interpreter"]

# Targets a row can have.
SLOTS = (1, 2, 4)
TARGETS: tuple[Target, ...] = ("sm_80", "sm_90", "sm_100", "gfx942")
# Below this many rows a tile of 128 would multiply mostly padding.
FEW_ROWS = 64


@dataclass(frozen=True, slots=True)
class Tiles:
    """A tile's rows, vocabulary columns and depth, its launch, and the row tiles that share a panel of the weight."""

    rows: int
    vocab: int
    depth: int
    warps: int
    stages: int
    tma: bool = False
    group: int = 8


# fp32 operands run on the vector units (TF32 would lose ten bits), where a thread can hold far fewer accumulators.
_FP32 = Tiles(64, 64, 16, warps=4, stages=2)

_HALF: dict[Target, dict[Kernel, Tiles]] = {
    "sm_80": {
        "forward": Tiles(128, 128, 64, warps=8, stages=3),
        "workspace": Tiles(128, 128, 64, warps=8, stages=3),
        "atomic": Tiles(64, 128, 32, warps=8, stages=3),
    },
    "sm_90": {
        "forward": Tiles(128, 128, 64, warps=8, stages=3, tma=True),
        "workspace": Tiles(128, 128, 64, warps=8, stages=3, tma=True),
        "atomic": Tiles(64, 128, 64, warps=8, stages=3),
    },
    "sm_100": {
        "forward": Tiles(128, 128, 64, warps=8, stages=3, tma=True),
        "workspace": Tiles(128, 128, 64, warps=8, stages=3, tma=True),
        "atomic": Tiles(64, 128, 32, warps=8, stages=3),
    },
    "gfx942": {
        "forward": Tiles(128, 128, 64, warps=8, stages=2),
        "workspace": Tiles(128, 128, 64, warps=8, stages=2),
        "atomic": Tiles(64, 128, 64, warps=8, stages=2),
    },
    # Small, so that a test's few rows and words still make several tiles each way.
    "interpreter": {
        "forward": Tiles(32, 64, 32, warps=4, stages=1),
        "workspace": Tiles(32, 64, 32, warps=4, stages=1),
        "atomic": Tiles(32, 64, 32, warps=4, stages=1),
    },
}


def tiles_for(
    target: Target, kernel: Kernel, dtype: torch.dtype, num_rows: int, slots: int, capped: bool, descriptors: bool
) -> Tiles:
    """The tiles of a launch for `num_rows` rows with `slots` targets each.

    `capped` says that logits pass a soft cap, `descriptors` that the operands' layout lets TMA read them.
    """
    if target == "interpreter":
        return replace(_HALF[target][kernel], tma=descriptors and kernel != "atomic")
    if dtype == torch.float32:
        return _FP32
    tiles = _HALF[target][kernel]
    # Four targets and a cap want more registers than 128 rows leave, most of all where pointers take theirs besides.
    crowded = capped and slots == SLOTS[-1] and (kernel == "workspace" or (tiles.tma and not descriptors))
    if num_rows <= FEW_ROWS or crowded:
        tiles = replace(tiles, rows=FEW_ROWS)
    return tiles if descriptors else replace(tiles, tma=False)


def target_of(device: torch.device) -> Target:
    """The column of the table that serves a device: the newest target that its architecture can run."""
    if device.type == "cpu":
        return "interpreter"
    if torch.version.hip is not None:
        return "gfx942"
    major, _ = torch.cuda.get_device_capability(device)
    return "sm_100" if major >= 10 else "sm_90" if major == 9 else "sm_80"
