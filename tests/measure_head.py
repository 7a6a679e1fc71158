"""The head on a CPU beside plain torch: seconds and peak memory of a forward and backward pass, and the products alone.

A measurement, not a test: `python tests/measure_head.py [--rounds 7] [--threads 2] [--vocabulary 49152] [--features 576]`
on an idle machine. Every variant computes the losses of all rows in fp32 and propagates a random gradient per row, negative
ones too. Variants take turns in every round, so that a busy machine is unfair to none, and the share of the processors that
others had is printed. `peak` is resident memory above inputs and gradients, in units of the logits' size, of a fresh process
per variant (Linux only).

Legend: N rows, V vocabulary, D hidden size.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from compact_ds.kernels.lse_gather import lse_gather

CHUNKS = (256, 512, 1024, 2048)
Shape = tuple[int, int, int, bool, int]


class Head:
    """Operands, and the variants as functions that leave gradients on them."""

    def __init__(self, rows: int, vocabulary: int, features: int, frozen: bool, grad_rows: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.hidden_ND = torch.randn(rows, features, generator=generator).requires_grad_()
        # Logits of unit spread.
        weight_VD = torch.randn(vocabulary, features, generator=generator) / features**0.5
        self.weight_VD = weight_VD.requires_grad_(not frozen)
        self.targets_N = torch.randint(vocabulary, (rows,), generator=generator)
        self.upstream_N = torch.randn(rows, generator=generator)
        self.grad_rows = grad_rows
        self.upstream_N[grad_rows:] = 0.0

    def ours(self) -> None:
        lse_N, z_N1 = lse_gather(self.hidden_ND, self.weight_VD, self.targets_N[:, None], grad_rows=self.grad_rows)
        (lse_N - z_N1[:, 0]).backward(self.upstream_N)

    def plain(self) -> None:
        logits_NV = functional.linear(self.hidden_ND, self.weight_VD)
        functional.cross_entropy(logits_NV, self.targets_N, reduction="none").backward(self.upstream_N)

    def plain_split(self) -> None:
        """Rows without a gradient in a pass of their own that records no graph."""
        first, rest = slice(self.grad_rows), slice(self.grad_rows, None)
        with torch.no_grad():
            logits_NV = functional.linear(self.hidden_ND[rest], self.weight_VD)
            functional.cross_entropy(logits_NV, self.targets_N[rest], reduction="none")
        logits_NV = functional.linear(self.hidden_ND[first], self.weight_VD)
        functional.cross_entropy(logits_NV, self.targets_N[first], reduction="none").backward(self.upstream_N[first])

    def chunked(self, size: int) -> None:
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=size, chunking_method=None)
        functional.linear_cross_entropy(
            self.hidden_ND, self.weight_VD, self.targets_N, reduction="none", options=options
        ).backward(self.upstream_N)

    def run(self, variant: str) -> None:
        self.hidden_ND.grad = self.weight_VD.grad = None
        name, _, size = variant.partition(" ")
        getattr(self, name)(*([int(size)] if size else []))


def busy_seconds() -> float:
    """Seconds that all processors together have worked, for anybody."""
    with open("/proc/stat") as stat:
        ticks = [int(field) for field in stat.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / 100


def resident(field: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def peak_of(variant: str, threads: int, shape: Shape) -> int:
    torch.set_num_threads(threads)
    head = Head(*shape)
    # Code that is loaded and threads that are started at first use are nobody's.
    Head(256, 512, shape[2], shape[3], 128).run(variant.partition(" ")[0] + (" 64" if " " in variant else ""))
    before = resident("VmRSS")
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")  # resets the peak
    head.run(variant)
    gradients = [t.grad for t in (head.hidden_ND, head.weight_VD) if t.grad is not None]
    return resident("VmHWM") - before - sum(4 * t.numel() for t in gradients)


def compare(
    title: str, variants: list[str], args: argparse.Namespace, frozen: bool = False, grad_rows: int | None = None
) -> None:
    shape = args.rows, args.vocabulary, args.features, frozen, args.rows if grad_rows is None else grad_rows
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peaks = {variant: pool.apply(peak_of, (variant, args.threads, shape)) for variant in variants}
    head = Head(*shape)
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    others: list[float] = []
    for turn in range(args.rounds + 1):
        for variant in variants:
            busy, own, started = busy_seconds(), time.process_time(), time.perf_counter()
            head.run(variant)
            spent = time.perf_counter() - started
            if turn:
                seconds[variant].append(spent)
                others.append((busy_seconds() - busy - (time.process_time() - own)) / spent / args.threads)
    logits = 4 * args.rows * args.vocabulary
    print(f"\n{title} (others had {100 * max(0.0, statistics.mean(others)):.0f} % of the threads)")
    for variant in variants:
        ratios = [mine / plain for mine, plain in zip(seconds[variant], seconds["plain"], strict=True)]
        print(
            f"  {variant:13s} {statistics.median(seconds[variant]):6.2f} s  {statistics.median(ratios):.2f} of plain "
            f"({min(ratios):.2f} to {max(ratios):.2f})  peak {peaks[variant] / logits:5.3f} of the logits"
        )


def products(args: argparse.Namespace) -> None:
    """Rates of the products in the tile's shape and in that of all logits, over fresh operands as in a training step."""
    size, features = 1024, args.features
    hidden_ND, weight_VD = torch.randn(args.rows, features), torch.randn(args.vocabulary // 8, features)
    grad_hidden_ND, grad_weight_VD = torch.zeros_like(hidden_ND), torch.zeros_like(weight_VD)
    print("\nproducts, GFLOP/s: best of five")
    for title, rows, words in (("tile", size, size), ("all", args.rows, len(weight_VD))):
        block = torch.zeros(rows, words)
        calls: dict[str, Callable[..., Tensor]] = {
            "H W^T": lambda block, h, w, gh, gw: torch.mm(h, w.T, out=block),
            "G W": lambda block, h, w, gh, gw: gh.addmm_(block, w),
            "G^T H": lambda block, h, w, gh, gw: gw.addmm_(block.T, h),
        }
        for name, call in calls.items():
            best = float("inf")
            for _ in range(5):
                started = time.perf_counter()
                for weights in zip(weight_VD.split(words), grad_weight_VD.split(words), strict=True):
                    for hiddens in zip(hidden_ND.split(rows), grad_hidden_ND.split(rows), strict=True):
                        call(block, hiddens[0], weights[0], hiddens[1], weights[1])
                best = min(best, time.perf_counter() - started)
            print(f"  {title:5s} {name:6s} {2 * hidden_ND.numel() * len(weight_VD) / best / 1e9:6.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--features", type=int, default=576)
    parser.add_argument("--cases", nargs="+", choices=["products", "all", "quarter", "frozen"])
    args = parser.parse_args()
    cases = args.cases or ["products", "all", "quarter", "frozen"]
    torch.set_num_threads(args.threads)
    chunked = [f"chunked {size}" for size in CHUNKS if size < args.rows]
    print(f"torch {torch.__version__}, {vars(args)}")
    if "products" in cases:
        products(args)
    if "all" in cases:
        compare("all rows take a gradient", ["plain", "ours", *chunked], args)
    if "quarter" in cases:
        compare("a quarter takes a gradient", ["plain", "ours", "plain_split"], args, grad_rows=args.rows // 4)
    if "frozen" in cases:
        compare("frozen head", ["plain", "ours", *chunked[-2:]], args, frozen=True)


if __name__ == "__main__":
    main()
