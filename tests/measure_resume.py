"""Kill a run at random points, resume it, and compare what it ends with, bit for bit, with a run that was left alone.

    python tests/measure_resume.py FOLDER [--kills 7] [--in-a-save 3] [--nprocs 2] [--seed 0]

All processes of the run get SIGKILL at once, at a random moment of a random step or while a checkpoint is being written, which
is seen from outside by its folder. Prints a row a kill and one JSON line; exit code 1 when anything differs. Minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[1]
MAX_STEPS, EVERY, LAST = 25, 4, 24
SETTINGS = [f"max_steps={MAX_STEPS}", f"checkpoint_every={EVERY}", "evaluation.every=10", "evaluation.limit=6"]
SETTINGS += ["evaluation.max_new_tokens=6", "data.limit=120", "data.batch_size=6", "compatibility.warmup=2"]
SETTINGS += ["student.scratch.hidden_size=64", "student.scratch.num_hidden_layers=2", "optimizer.warmup_steps=5"]
COSTS = ("step_seconds", "seconds", "traffic_bytes")
"""Not compared: times, and bytes, since ZeRO-3 gathers more in the first steps of a process."""


def start(folder: Path, run: str, nprocs: int, *options: str) -> subprocess.Popen[bytes]:
    """A run with its messages in a file beside its folder."""
    command = [sys.executable, "-m", "compact_ds.cli", "launch", "arithmetic", "--nprocs", str(nprocs), *options]
    command += [*SETTINGS, f"run_dir={folder / run}", f"data.cache_dir={folder / 'cache'}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    with (folder / f"{run}.txt").open("ab") as messages:
        return subprocess.Popen(command, env=environment, stdout=messages, stderr=messages)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for the launcher and everything beneath it."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in family:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family[1:], timeout=30)
    process.wait(30)


def wait(process: subprocess.Popen[bytes], seen: Callable[[], bool]) -> None:
    """Until something is seen; it must be before the run ends."""
    while not seen():
        if process.poll() is not None:
            raise RuntimeError(f"the run ended with exit code {process.returncode} before it was to be killed")
        time.sleep(0.0005)


def at_a_step(run: Path, process: subprocess.Popen[bytes], draw: random.Random) -> str:
    """Kill some time into a random step."""
    step, share = draw.randrange(1, MAX_STEPS - 1), draw.random()
    metrics = run / "metrics.jsonl"
    wait(process, lambda: metrics.is_file() and metrics.read_bytes().count(b"\n") >= step)
    time.sleep(share * float(json.loads(metrics.read_text(encoding="utf-8").splitlines()[0])["step_seconds"]))
    kill(process)
    return f"in step {step}"


def in_a_save(run: Path, process: subprocess.Popen[bytes], draw: random.Random) -> str:
    """Kill some time after a random checkpoint's folder has appeared."""
    step, delay = draw.randrange(1, LAST // EVERY + 1) * EVERY, draw.uniform(0.0, 0.02)
    work = run / "checkpoints" / f"step-{step}.unfinished"
    wait(process, work.is_dir)
    time.sleep(delay)
    kill(process)
    if not work.is_dir():
        raise RuntimeError("too late: the checkpoint was whole")
    return f"in the save of step {step}, {len(list(work.iterdir()))} files there"


def rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file without their costs."""
    found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in row.items() if key not in COSTS} for row in found]


def differences(run: Path, whole: Path) -> list[str]:
    """What is not bit for bit the same in two finished runs."""
    a, b = (load_file(folder / "final" / "model.safetensors") for folder in (run, whole))
    found = [name for name in b if a[name].tobytes() != b[name].tobytes()]
    files = [
        json.loads((folder / "checkpoints" / f"step-{LAST}" / "manifest.json").read_text(encoding="utf-8"))["files"]
        for folder in (run, whole)
    ]
    found += [f"checkpoint {name}" for name in files[1] if files[0].get(name) != files[1][name]]
    logs = ("metrics.jsonl", "evaluations.jsonl", "predictions.jsonl")
    return found + [log for log in logs if rows(run / log) != rows(whole / log)]


def one_kill(folder: Path, name: str, nprocs: int, how: Callable[..., str], draw: random.Random) -> dict[str, Any]:
    """Start, kill, resume, compare."""
    for _ in range(6):
        process = start(folder, name, nprocs)
        try:
            where = how(folder / name, process, draw)
            break
        except RuntimeError as error:
            if process.poll() is None:
                kill(process)
            print(f"{name}: {error}; again", flush=True)
            shutil.rmtree(folder / name)
    else:
        raise SystemExit(f"{name}: no kill hit its point in six runs")
    there = sorted(path.name for path in (folder / name / "checkpoints").glob("step-*"))
    code = start(folder, name, nprocs, "--resume").wait(600)
    found = differences(folder / name, folder / "whole") if code == 0 else [f"exit code {code}"]
    return {"killed": where, "checkpoints": there, "differs": found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=7)
    parser.add_argument("--in-a-save", type=int, default=3)
    parser.add_argument("--nprocs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder, draw = arguments.folder.resolve(), random.Random(arguments.seed)
    folder.mkdir(parents=True)
    if code := start(folder, "whole", arguments.nprocs).wait(600):
        raise SystemExit(f"the run that is left alone ended with exit code {code}: see {folder}/whole.txt")
    found = []
    for i, how in enumerate([in_a_save] * arguments.in_a_save + [at_a_step] * arguments.kills):
        found.append(one_kill(folder, f"kill-{i}", arguments.nprocs, how, draw))
        print(f"killed {found[-1]['killed']}; {found[-1]['checkpoints']}; differs: {found[-1]['differs']}", flush=True)
    same = sum(not one["differs"] for one in found)
    print(json.dumps({"kills": len(found), "bit_identical": same}))
    return 0 if same == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
