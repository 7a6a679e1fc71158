"""Laws 1, 5 and 7 across processes: the split over ranks, resuming, a rank whose weights are all zero."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("gradient_of_a_step.py")
SHARED_MEMORY = Path("/dev/shm")

# fp32 sums in another order; gradients are up to about 1. Measured 1e-7.
TOLERANCE = 2e-6


def _start(command, world_size):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    together = os.environ | {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    together |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(WORKER.parents[1])}
    places = [{"RANK": str(r), "LOCAL_RANK": str(r)} for r in range(world_size)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [subprocess.Popen([sys.executable, *command], env=together | place, **pipes) for place in places]
    outputs = [process.communicate(timeout=150)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def _gradients(tmp_path, name, world_size, *overrides, mute=False):
    out = tmp_path / f"{name}.pt"
    common = [f"run_dir={tmp_path / name}", f"data.cache_dir={tmp_path / 'cache'}", "compatibility.warmup=0"]
    command = [str(WORKER), str(out), "mute" if mute else "all", *common, "data.batch_size=8", *overrides]
    _, outputs = _start(command, world_size)
    assert out.exists(), outputs[0][-3000:]
    return torch.load(out, weights_only=True)


def _assert_same(got, want):
    assert got["gradients"].keys() == want["gradients"].keys()
    for name, gradient in want["gradients"].items():
        difference = (got["gradients"][name] - gradient).abs()
        assert difference.max() < TOLERANCE and difference.mean() < TOLERANCE / 5, name


def test_the_split_over_ranks_and_micro_batches_changes_no_gradient(tmp_path):
    before = set(SHARED_MEMORY.iterdir())
    whole = _gradients(tmp_path, "1x1", 1)
    assert whole["num_batches"] == 1
    assert max(float(g.abs().max()) for g in whole["gradients"].values()) > 1e-2
    one_by_four = _gradients(tmp_path, "1x4", 1, "tree.row_tokens=220")
    assert one_by_four["num_batches"] >= 4
    _assert_same(one_by_four, whole)
    two_by_two = _gradients(tmp_path, "2x2", 2, "tree.row_tokens=220")
    assert two_by_two["num_batches"] >= 2
    _assert_same(two_by_two, whole)
    _assert_same(_gradients(tmp_path, "2x1x2", 2, "tree.row_tokens=220", "tree.rows=2", "engine.zero_stage=2"), whole)
    assert set(SHARED_MEMORY.iterdir()) <= before


def test_a_rank_whose_weights_are_zero_keeps_step_with_the_others(tmp_path):
    muted = _gradients(tmp_path, "muted", 2, mute=True)
    whole = _gradients(tmp_path, "whole", 2)
    assert all(torch.isfinite(g).all() for g in muted["gradients"].values())
    norm = [sum(float(g.square().sum()) for g in of["gradients"].values()) for of in (muted, whole)]
    assert 0 < norm[0] != norm[1]


@pytest.mark.parametrize("world_size", [1, 2])
def test_resuming_equals_never_having_stopped(tmp_path, world_size):
    common = ["train", "arithmetic", f"data.cache_dir={tmp_path / 'cache'}", "max_steps=5", "checkpoint_every=3"]
    common += ["evaluation.limit=4", "compatibility.warmup=1", "data.limit=100"]
    run = ["-m", "compact_ds.cli", *common]
    codes, outputs = _start([*run, f"run_dir={tmp_path / 'whole'}"], world_size)
    assert (tmp_path / "whole" / "summary.json").exists(), (codes, outputs[0][-3000:])
    (tmp_path / "part").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoints", tmp_path / "part" / "checkpoints")
    shutil.copy(tmp_path / "whole" / "metrics.jsonl", tmp_path / "part" / "metrics.jsonl")
    codes, outputs = _start([*run, f"run_dir={tmp_path / 'part'}", "--resume"], world_size)
    assert (tmp_path / "part" / "summary.json").exists(), (codes, outputs[0][-3000:])
    whole, part = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("whole", "part"))
    assert all(torch.equal(part[name], tensor) for name, tensor in whole.items())
    assert len((tmp_path / "part" / "metrics.jsonl").read_text().splitlines()) == 5
