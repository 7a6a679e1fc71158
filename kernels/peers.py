"""Kernels of other projects as they launch them on a model's head, to be compiled beside ours.

Owns the arguments that each of them specialises on: those of their own default launch, 8192 rows of a 128256-word vocabulary in
bf16, no autotuning. Not compiled are their plain matrix products, which are the library's. Compiling is `compile_check`'s.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from typing import Any

from compact_ds.kernels.compile_check import Launch
from compact_ds.kernels.tiles import Target

PACKAGES = {"cut-cross-entropy": "cut_cross_entropy", "liger-kernel": "liger_kernel"}

_LIGER_BLOCK = 32768


def missing() -> dict[str, str]:
    """Packages that are not compiled, with the reason."""
    absent = {name for name, module in PACKAGES.items() if importlib.util.find_spec(module) is None}
    return {name: f"not installed: pip install {name}, or compact-ds[bench]" for name in sorted(absent)}


def versions() -> dict[str, str]:
    """Versions of the packages that are compiled."""
    return {name: importlib.metadata.version(name) for name in PACKAGES if name not in missing()}


def launches(target: Target) -> Iterator[Launch]:
    """What the installed packages would launch on a target. Raises AttributeError where a package renamed its kernels."""
    absent = missing()
    if "cut-cross-entropy" not in absent:
        yield from _cut_cross_entropy()
    if "liger-kernel" not in absent:
        yield from _liger(target)


def _cut_cross_entropy() -> Iterator[Launch]:
    forward = importlib.import_module("cut_cross_entropy.cce_lse_forward")._cce_lse_forward_kernel
    backward = importlib.import_module("cut_cross_entropy.cce_backward")._cce_backward_kernel
    pointers = dict.fromkeys(("E", "C", "dE", "dC"), "*bf16") | dict.fromkeys(("LSE", "LA", "dOut"), "*fp32")
    pointers |= dict.fromkeys(("Locks", "dELocks", "dCLocks"), "*u32") | {"Targets": "*i64"}
    pointers |= {"Valids": "*i32", "VocabOrdering": "*i32"}
    # Rows of operands and results lie densely; Triton specialises on a stride of one.
    dense = dict.fromkeys(("stride_ed", "stride_cd", "stride_lse_b", "stride_vb"), 1)
    shape = {"GROUP_B": 8, "EVEN_D": True, "BLOCK_V": 128, "BLOCK_D": 32} | dense
    tile = {**shape, "BLOCK_B": 256, "DOT_PRECISION": "ieee"}
    for words, flags in (("", {}), (" row gather, logit mean", {"HAS_VALIDS": True, "HAS_LA": True})):
        constants = tile | {"HAS_VALIDS": False, "HAS_LA": False, "HAS_SOFTCAP": False} | flags
        constants |= _absent(constants, Valids="HAS_VALIDS", LA="HAS_LA", softcap="HAS_SOFTCAP")
        yield _launch(f"cut-cross-entropy forward 256x128x32{words}", forward, pointers, constants, 8, 3)
    tile = {**shape, "BLOCK_B": 128, "MM_BACK_BLOCK_D": 64, "MM_BACK_EVEN_D": True, "HAS_TARGETS": True}
    tile |= {"SHIFT": False, "REQUIRES_GRAD": True, "HAS_VALIDS": False, "ITEM_DO": False}
    for words, filters, caps in (
        ("filtered, sorted", True, False),
        ("exact", False, False),
        ("exact, cap", False, True),
    ):
        constants = tile | {"FILTER_GRAD": filters, "HAS_VOCAB_ORDERING": filters, "HAS_SOFTCAP": caps}
        constants |= _absent(constants, Valids="HAS_VALIDS", softcap="HAS_SOFTCAP")
        constants |= _absent(constants, VocabOrdering="HAS_VOCAB_ORDERING", filter_eps="FILTER_GRAD")
        yield _launch(f"cut-cross-entropy backward 128x128x32 {words}", backward, pointers, constants, 4, 4)


def _liger(target: Target) -> Iterator[Launch]:
    kernel = importlib.import_module("liger_kernel.ops.cross_entropy").liger_cross_entropy_kernel
    pointers = {"X_ptr": "*bf16", "Y_ptr": "*i64", "loss_ptr": "*fp32"}
    constants: dict[str, Any] = {"Y_stride": 1, "loss_stride": 1, "lse_square_scale": 0.0, "label_smoothing": 0.0}
    unused = ("weight_ptr", "z_loss_ptr", "token_accuracy_ptr", "predicted_tokens_ptr", "softcap")
    flags = ("RETURN_Z_LOSS", "RETURN_TOKEN_ACCURACY", "RETURN_PREDICTED_TOKENS", "HAS_WEIGHT", "HAS_SOFTCAPPING")
    constants |= dict.fromkeys(unused) | dict.fromkeys(flags, False)
    constants |= {"reduction": "none", "BLOCK_SIZE": _LIGER_BLOCK}
    warps, stages = (16, 2) if target == "gfx942" else (32, 3)
    for words, gradients in (("loss and gradient", True), ("loss", False)):
        given = constants | {"HAS_GRADIENTS": gradients}
        yield _launch(f"liger row of logits, {words}", kernel, pointers, given, warps, stages)


def _absent(constants: dict[str, Any], **flags: str) -> dict[str, None]:
    """Arguments that are None because their flag is off."""
    return {argument: None for argument, flag in flags.items() if not constants[flag]}


def _launch(
    name: str, kernel: Any, pointers: dict[str, str], constants: dict[str, Any], warps: int, stages: int
) -> Launch:
    while not hasattr(kernel, "arg_names") or hasattr(kernel, "values"):
        kernel = kernel.fn  # heuristics and autotuning wrap the kernel
    constants = {n: value for n, value in constants.items() if n in kernel.arg_names}
    names = [n for n in kernel.arg_names if n not in constants]
    floats = dict.fromkeys(("softcap", "grad_scale", "filter_eps", "weight_sum"), "fp32")
    types = {n: pointers.get(n) or floats.get(n, "i32") for n in names}
    # The sizes of the shape above that are multiples of 16, which the launcher would find.
    divisible = tuple(n for n in names if types[n] == "i32" and not n.startswith(("n_non", "sum_", "ignore", "n_d")))
    return Launch(name, kernel, types, constants, warps, stages, divisible)
