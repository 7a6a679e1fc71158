"""The heads that the benchmark runs on, and figures that others published for one of them.

Owns names, sizes and sources. Does no arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

from compact_ds.errors import UserError, nearest


@dataclass(frozen=True, slots=True)
class Shape:
    """A language-model head [vocabulary, hidden_size]; `rows` replaces the default row counts where it is given."""

    name: str
    vocabulary: int
    hidden_size: int
    rows: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """Forward and backward of one implementation as somebody else reported it: milliseconds and gigabytes (10^9)."""

    shape: str
    rows: int
    provider: str
    milliseconds: float
    gigabytes: float
    device: str
    dtype: str
    source: str


YARDSTICK = "trl-6858"

SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("llama-3.2-1b", 128256, 2048),
        Shape("llama-3.2-3b", 128256, 3072),
        Shape("llama-3.1-8b", 128256, 4096),
        Shape("qwen3-1.7b", 151936, 2048),
        Shape("qwen3-4b", 151936, 2560),
        Shape("qwen3-8b", 151936, 4096),
        Shape("gemma-3-1b", 262144, 1152),
        Shape(YARDSTICK, 248320, 2048, rows=(16384,)),
        Shape("smollm2-135m", 49152, 576),
    )
}

_THREAD = "https://github.com/huggingface/trl/issues/6858"

# Reported in that thread, not measured with this benchmark: their inputs, and whether tiles were skipped, are unknown here.
PUBLISHED = (
    Published(YARDSTICK, 16384, "cut-cross-entropy", 92.6, 3.09, "H100", "bf16", _THREAD),
    Published(YARDSTICK, 16384, "Liger", 321.0, 6.05, "H100", "bf16", _THREAD),
    Published(YARDSTICK, 16384, "one bf16 GEMM with stored logits", 137.0, 47.6, "H100", "bf16", _THREAD),
)


def shape_named(name: str) -> Shape:
    """A shape by its name, or `VOCABULARYxHIDDEN` such as `32000x1024`; raises UserError for anything else."""
    if name in SHAPES:
        return SHAPES[name]
    sizes = name.split("x")
    if len(sizes) == 2 and all(size.isdecimal() and int(size) > 0 for size in sizes):
        return Shape(name, int(sizes[0]), int(sizes[1]))
    raise UserError("--shapes", name, "a known shape or VOCABULARYxHIDDEN", nearest(name, SHAPES))
