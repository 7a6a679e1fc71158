"""How a step's time and memory grow with the teachers of a question and with the length of their rationales.

A measurement, not a test: `OMP_NUM_THREADS=1 python tests/measure_step_scaling.py [LAPS]`. Random tokens and weights, four
questions a step, each in one tree; forward and backward passes of sizes in turn. Prints JSON: for each size tokens, seconds,
peak memory above the weights, and the bytes of attention masks, as kept and as one mask over every row would take;
with the exponents of their growth in tokens.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from compact_ds.engine.ranks import Ranks
from compact_ds.kernels.bench_measure import PeakMemory
from compact_ds.kernels.tree_attention import Ancestry
from compact_ds.optimizer_step.batches import StepBatches
from compact_ds.sections import TreeConfig
from compact_ds.student.measure import Student, measure
from compact_ds.tree.batch import Batch
from compact_ds.tree.tokenise import RationaleTokens, Record

VOCABULARY, PROMPT, LENGTH, STEPS, QUESTIONS = 8192, 64, 64, 4, 4
TEACHERS = [(k, 1) for k in (1, 2, 4, 8, 16)]
LENGTHS = [(3, times) for times in (1, 2, 4, 8)]
# One layer's masks serve all: a share of the peak that the model's depth does not change.
SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 8192,
}  # fmt: skip


def batches(teachers: int, times: int) -> list[Batch]:
    """The micro-batches of one step."""
    rng = np.random.default_rng(0)

    def ids(count: int) -> np.ndarray:
        return rng.integers(0, VOCABULARY, count).astype(np.int32)

    length = LENGTH * times
    ends = np.linspace(length / STEPS, length - 8, STEPS).astype(np.int32)
    records = [
        Record(str(q), f"made:{q}", ids(PROMPT), ids(6), 2,
               tuple(RationaleTokens(k, ids(length), ends, 0.5, -1, 1) for k in range(teachers)))
        for q in range(QUESTIONS)
    ]  # fmt: skip
    tree = TreeConfig(row_tokens=4096)
    alone = Ranks(0, 1, torch.device("cpu"))
    return StepBatches(records, [list(range(teachers))] * QUESTIONS, tree, 1, alone).batches


def lap(student: Student, work: list[Batch]) -> None:
    """One forward and backward pass a micro-batch."""
    for batch in work:
        lse_N, z_N1 = student(batch)
        (measure(lse_N, z_N1, batch, "torch").token_loss_R.sum() / QUESTIONS).backward()
    student.zero_grad()


def masks(work: list[Batch]) -> tuple[int, int]:
    """Bytes of the masks of the largest micro-batch: by branches, and one over its rows."""
    kept, whole = [], []
    for batch in work:
        tree = Ancestry(batch.order_BL, batch.end_BL, batch.positions_BL, batch.num_trunk, batch.places)
        found = tree.bundles(None)
        kept.append(sum(bundle.mask_NS1K.nbytes for bundle in found.trunk + found.leaves))
        whole.append(tree.dense(None).nbytes)
    return max(kept), max(whole)


def exponent(rows: list[dict[str, Any]], key: str) -> float:
    """Slope of log(key) over log(tokens), least squares."""
    tokens, values = (np.log([row[name] for row in rows]) for name in ("tokens", key))
    return float(np.polyfit(tokens, values, 1)[0])


def main(laps: int) -> None:
    """Measure and print."""
    torch.manual_seed(0)
    student = Student(AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SHAPE)), "tree")
    work = {size: batches(*size) for size in dict.fromkeys([*TEACHERS, *LENGTHS])}
    seconds: dict[tuple[int, int], list[float]] = {size: [] for size in work}
    for _ in range(1 + laps):
        for size, own in work.items():
            started = time.perf_counter()
            lap(student, own)
            seconds[size].append(time.perf_counter() - started)
    memory = PeakMemory("cpu")
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for size, own in work.items():
        memory.start()
        lap(student, own)
        kept, whole = masks(own)
        rows[size] = {
            "teachers": size[0],
            "times_longer": size[1],
            "tokens": sum(b.ids_BL.numel() for b in own),
            "micro_batches": len(own),
            "seconds": statistics.median(seconds[size][1:]),
            "peak_bytes": memory.read(),
            "mask_bytes": kept,
            "whole_mask_bytes": whole,
        }
    found = {"teachers": [rows[size] for size in TEACHERS], "lengths": [rows[size] for size in LENGTHS]}
    growth = {name: {key: exponent(own, key) for key in ("seconds", "peak_bytes")} for name, own in found.items()}
    print(json.dumps({"laps": laps, **found, "exponents": growth}, indent=2))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
