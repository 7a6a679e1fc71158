"""Every kernel configuration that is shipped, and what the compiler must make of it.

Owns the list and the limits. Compiling and counting is `compile_check`'s, the command is `check`'s.

The list has each line of `tiles` with each number of targets and with all of a head's options or none. That operands are
aligned, as it assumes, is seen to by `operands.prepared`. Not in it: the further variants that Triton makes where N, V or a
chunk's width happens to be 1 or a multiple of 16, where a vector (bias, targets, upstream) does not begin at 16 bytes, and
where only some options are set or only some gradients are wanted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from compact_ds.kernels.compile_check import Compiled, Launch
from compact_ds.kernels.lse_backward import grad_fused, grad_logits_chunk
from compact_ds.kernels.lse_forward import MERGE_ROWS, MERGE_TILES, MERGE_WARPS, merge_lse, partial_lse
from compact_ds.kernels.segment_triton import BLOCK, ROWS, WARPS, grad_rows_of_segments, score_segments
from compact_ds.kernels.tiles import FEW_ROWS, Kernel, Target, tiles_for

# Bytes of shared memory that one program can have.
SHARED_LIMIT = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}
# Against regressions: the largest of ours takes 161.
FORWARD_REGISTERS = {"sm_90": 170}

_MANY_ROWS = 8192
_KERNELS: dict[Kernel, Any] = {"forward": partial_lse, "workspace": grad_logits_chunk, "atomic": grad_fused}
_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
_SIZES = ("N", "V", "D", "stride_hidden", "stride_weight", "first_column", "width")
# `operands.prepared` makes depths and strides so, chunks are whole tiles; numbers of rows are anything.
_DIVISIBLE = ("D", "stride_hidden", "stride_weight", "first_column")


def launches(target: Target) -> Iterator[Launch]:
    """What is launched on a target for 16-bit operands, see above, and each kernel once for fp32 ones."""
    for kernel in _KERNELS:
        for slots in (1, 2, 4):
            for full in (False, True):
                yield _head(target, kernel, torch.bfloat16, slots, full, _MANY_ROWS)
        yield _head(target, kernel, torch.float16, 2, False, _MANY_ROWS)
        if kernel != "atomic":
            yield _head(target, kernel, torch.bfloat16, 2, False, FEW_ROWS)
        yield _head(target, kernel, torch.float32, 2, True, _MANY_ROWS)
        if target in ("sm_90", "sm_100") and kernel != "atomic":
            yield _head(target, kernel, torch.bfloat16, 4, True, _MANY_ROWS, descriptors=False)
    floats = dict.fromkeys(("peak", "mass", "lse"), "*fp32")
    constants = {"BN": MERGE_ROWS, "BT": MERGE_TILES}
    yield Launch("merge", merge_lse, {**floats, "N": "i32", "num_tiles": "i32"}, constants, MERGE_WARPS, 3)
    yield from _segments()


def failures(compiled: Compiled) -> list[str]:
    """What of the limits a compiled kernel breaks, in words."""
    found = []
    if compiled.stack_bytes or compiled.spill_bytes:
        found.append(f"{compiled.stack_bytes} bytes of stack, {compiled.spill_bytes} spilled")
    if compiled.shared_bytes > SHARED_LIMIT[compiled.target]:
        found.append(f"{compiled.shared_bytes} bytes of shared memory, {SHARED_LIMIT[compiled.target]} are there")
    head = compiled.name.split()[0] in _KERNELS
    if head and "fp32" not in compiled.name and not compiled.matrix:
        found.append("no matrix instruction")
    # gfx942 multiplies fp32 matrices as fp32.
    if head and "fp32" in compiled.name and compiled.target != "gfx942" and compiled.matrix:
        found.append(f"{compiled.matrix} matrix instructions on fp32 operands, which TF32 would round to 11 bits")
    if "TMA" in compiled.name and not compiled.tma_loads:
        found.append("no TMA load")
    limit = FORWARD_REGISTERS.get(compiled.target)
    if compiled.name.startswith("forward") and "16" in compiled.name and limit and compiled.registers > limit:
        found.append(f"{compiled.registers} registers, {limit} is the limit")
    return found


def _head(
    target: Target, kernel: Kernel, dtype: torch.dtype, slots: int, full: bool, rows: int, descriptors: bool = True
) -> Launch:
    tiles = tiles_for(target, kernel, dtype, rows, slots, capped=full, descriptors=descriptors)
    function, operand = _KERNELS[kernel], f"*{_NAMES[dtype]}"
    constants: dict[str, Any] = {
        "K": slots,
        "BN": tiles.rows,
        "BV": tiles.vocab,
        "BD": tiles.depth,
        "GROUP": tiles.group,
    }
    constants |= {"HAS_BIAS": full, "HAS_SCALE": full, "HAS_CAP": full}
    constants |= {"TMA": tiles.tma, "WANTS_HIDDEN": True, "WANTS_WEIGHT": True, "WANTS_BIAS": full}
    if not full:
        constants |= {"bias": None, "grad_bias": None}
    constants = {name: value for name, value in constants.items() if name in function.arg_names}
    types = dict.fromkeys(function.arg_names, "*fp32")
    types |= {"bias": operand, "targets": "*i32", "grad": operand, "scale": "fp32", "softcap": "fp32"}
    types |= dict.fromkeys(_SIZES, "i32")
    types |= {"hidden": operand, "weight": operand}
    if tiles.tma:
        types["hidden"] = f"tensordesc<{_NAMES[dtype]}[{tiles.rows}, {tiles.depth}]>"
        types["weight"] = f"tensordesc<{_NAMES[dtype]}[{tiles.vocab}, {tiles.depth}]>"
    types = {name: types[name] for name in function.arg_names if name not in constants}
    words = [kernel, _NAMES[dtype], f"K={slots}", f"{tiles.rows}x{tiles.vocab}x{tiles.depth}"]
    words += ["bias+scale+cap"] * full + ["TMA"] * tiles.tma
    return Launch(" ".join(words), function, types, constants, tiles.warps, tiles.stages, _DIVISIBLE)


def _segments() -> Iterator[Launch]:
    index = dict.fromkeys(("row", "slot", "offsets", "base", "chain", "step", "segment"), "*i64")
    for slots in (1, 2, 4):
        for name, function, block in (
            ("score segments", score_segments, {"BLOCK": BLOCK}),
            ("grad of segments", grad_rows_of_segments, {"ROWS": ROWS}),
        ):
            constants = {"K": slots, **block}
            types = dict.fromkeys(function.arg_names, "*fp32") | index | {"S": "i32", "N": "i32"}
            types = {n: types[n] for n in function.arg_names if n not in constants}
            yield Launch(f"{name} K={slots}", function, types, constants, WARPS, 3)
