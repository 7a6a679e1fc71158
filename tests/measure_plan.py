"""Plan against measurement: memory, bytes and step time of 14 configurations on 1 to 3 ranks, as a table in Markdown.

`python tests/measure_plan.py [FOLDER]`; some minutes. What a folder holds is not measured again. Memory is the peak
of a step by PyTorch's record of its CPU allocator (see `memory_of_steps`), of the rank that needs most; bytes are
those of `engine.traffic`. Time is a rank's processor time in one step, the mean over ranks: it is predicted from one
step of each of three other runs, which calibrate what arithmetic, a carried byte and ZeRO-3's hooks cost.
"""

import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from processes import start_fresh
from scipy.optimize import nnls

from compact_ds.config import load
from compact_ds.launcher.plan import Plan, plan
from compact_ds.launcher.plan_shape import shape
from compact_ds.launcher.plan_time import Machine, host_calls, step_flops
from compact_ds.launcher.plan_traffic import seconds
from compact_ds.launcher.plan_workload import MicroBatch, Workload
from compact_ds.student.load import load_tokenizer

WORKER = Path(__file__).with_name("memory_of_steps.py")
BUCKETS = {
    "reduce_bucket_size": 2_000_000, "allgather_bucket_size": 2_000_000, "stage3_prefetch_bucket_size": 1_000_000,
    "stage3_param_persistence_threshold": 1000, "stage3_max_live_parameters": 10**9, "stage3_max_reuse_distance": 10**9,
}  # fmt: skip
Run = tuple[str, int, str, str]
Measured = dict[int, list[list[dict[str, Any]]]]
SIZES = {"A": (256, 1024, 4, 4), "B": (384, 1024, 4, 6)}
RUNS: dict[int, list[Run]] = {
    1: [("A", 0, "", ""), ("A", 1, "", ""), ("B", 2, "", ""), ("A", 3, "", "c"), ("B", 3, "lora", "c")],
    2: [
        ("A", 1, "", ""),
        ("A", 0, "lora", ""),
        ("B", 1, "", ""),
        ("A", 2, "", ""),
        ("A", 3, "", ""),
        ("B", 3, "lora", ""),
    ],
    3: [("A", 2, "", "c"), ("B", 3, "", ""), ("A", 3, "", "c")],
}
"""World size -> (shape, ZeRO stage, adapters, checkpointing)."""
CALIBRATING = ((1, 0), (2, 0), (2, 4))
"""(world size, number of the run): arithmetic, what carrying a byte costs, what ZeRO-3's hooks cost."""


def overrides(folder: Path, size: str, stage: int, lora: str, checkpointing: str) -> list[str]:
    hidden, inner, layers, heads = SIZES[size]
    scratch = {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
    return [
        f"run_dir={folder / 'run'}", f"data.cache_dir={folder}", f"engine.deepspeed={folder / 'deepspeed.json'}",
        "data.batch_size=6", "compatibility.warmup=0", "mixer.diagnose_every=0", "tree.row_tokens=384", "tree.rows=2",
        f"student.scratch={json.dumps(scratch)}", f"engine.zero_stage={stage}",
        f"student.gradient_checkpointing={'true' if checkpointing else 'false'}",
        *(["student.lora={r: 8}"] if lora else []),
    ]  # fmt: skip


def predicted(own: list[str], batches: list[dict[str, Any]], world_size: int, machine: Machine) -> Plan:
    config = load("arithmetic", own)
    work = Workload(tuple(MicroBatch(**b) for b in batches), 1)
    return plan(config, shape(config, len(load_tokenizer(config.student))), machine, world_size, work)


def calibrated(found: Measured, folder: Path) -> Machine:
    """A machine from three steps: seconds are linear in arithmetic, host calls and what is carried."""
    plain = Machine("cpu", 1.0, 16e9, 1.0, 1.0, 1.0, 0.0, efficiency=1.0, link_efficiency=1.0, per_node=10**6)
    parts, took = [], []
    for world_size, number in CALIBRATING:
        run = RUNS[world_size][number]
        ranks_found = [rank[number] for rank in found[world_size]]
        for one in ranks_found:
            made = predicted(overrides(folder, *run), one["micro_batches"], world_size, plain)
            checkpointing = made.config.student.gradient_checkpointing
            flops = step_flops(made.shape, made.work, checkpointing, False)
            calls = host_calls(made.shape, made.work, checkpointing, made.zero.stage)
            parts.append([flops / 1e9, calls / 1e3, seconds(made.traffic, world_size, 1e6) if made.traffic else 0.0])
            took.append(one["processor_seconds"])
    (flop, call, byte), _ = nnls(np.array(parts), np.array(took))
    rate = 1e6 / max(byte, 1e-6)
    return replace(plain, flops=1e9 / flop, host_seconds=call / 1e3, inside=rate, outside=rate)


def line(
    world_size: int, run: Run, ranks_found: list[dict[str, Any]], own: list[str], machine: Machine
) -> tuple[str, list[float]]:
    """A row of the table, and the three errors."""
    plans = [predicted(own, one["micro_batches"], world_size, machine) for one in ranks_found]
    peaks = [(one["memory"]["peak"], made.memory.total) for one, made in zip(ranks_found, plans, strict=True)]
    peak, planned = max(peaks)
    carried = sum(ranks_found[0]["traffic"]["bytes_per_step"].values())
    sent = sum(plans[0].traffic.values())
    took = sum(one["processor_seconds"] for one in ranks_found) / world_size
    expected = sum(made.step_seconds for made in plans) / world_size
    wall = max(one["seconds"] for one in ranks_found)
    errors = [planned / peak - 1, sent / carried - 1 if carried else 0.0, expected / took - 1]
    size, stage, lora, checkpointing = run
    what = f"{size}, {'LoRA' if lora else 'full'}{', checkpointed' if checkpointing else ''}"
    cells = [
        str(world_size), str(stage), what, f"{peak / 1e6:.1f}", f"{planned / 1e6:.1f}", f"{errors[0]:+.1%}",
        f"{carried / 1e6:.2f}", f"{sent / 1e6:.2f}", f"{errors[1]:+.2%}", f"{took:.2f}", f"{expected:.2f}", f"{errors[2]:+.0%}",
        f"{wall:.2f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |", errors


def measured(folder: Path, world_size: int) -> list[list[dict[str, Any]]]:
    """The figures of every run on so many ranks, by rank."""
    wanted = json.dumps([overrides(folder, *run) for run in RUNS[world_size]])
    out = folder / f"ranks{world_size}"
    files = [Path(f"{out}-{rank}.json") for rank in range(world_size)]
    if all(file.exists() for file in files):
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]
    outputs = start_fresh([str(WORKER), str(out), "arithmetic", wanted], world_size, timeout=1500)
    if not all(file.exists() for file in files):
        raise RuntimeError(outputs[0][-3000:])
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def main(folder: Path) -> None:
    (folder / "deepspeed.json").write_text(json.dumps({"zero_optimization": BUCKETS}), encoding="utf-8")
    with ThreadPoolExecutor(len(RUNS)) as together:
        found = dict(zip(RUNS, together.map(lambda world_size: measured(folder, world_size), RUNS), strict=True))
    machine = calibrated(found, folder)
    head = "ranks | ZeRO | student | peak MB | plan | off by | sent MB | plan | off by | CPU s | plan | off by | wall s"
    print(f"| {head} |\n|{'---|' * 13}")
    worst = [0.0, 0.0, 0.0]
    for world_size, runs in RUNS.items():
        for number, run in enumerate(runs):
            calibrates = (world_size, number) in CALIBRATING
            own = overrides(folder, *run)
            text, errors = line(world_size, run, [rank[number] for rank in found[world_size]], own, machine)
            print(text + (" calibrates" if calibrates else ""))
            worst = [max(w, abs(e)) for w, e in zip(worst, errors, strict=True)]
    print(f"\nworst: memory {worst[0]:.1%}, bytes {worst[1]:.2%}, time {worst[2]:.0%}")
    print(
        f"calibration: {machine.flops / 1e9:.2f} GFLOP/s, {machine.inside / 1e6:.0f} MB/s, "
        f"{machine.host_seconds * 1e3:.2f} ms a hook"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        kept = Path(sys.argv[1])
        kept.mkdir(parents=True, exist_ok=True)
        main(kept)
    else:
        with tempfile.TemporaryDirectory() as name:
            main(Path(name))
