"""The batch script that runs a launch under Slurm, and how it is handed in.

Owns the script's text. Under it runs one `compact-ds launch --node-rank` a node, as anybody could type it.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compact_ds.errors import UserError

WARNING_SECONDS = 300
"""How long before the end of its time a job is asked to save a checkpoint."""


@dataclass(frozen=True)
class Job:
    """A launch as a batch job. `options`: further `#SBATCH` words, such as `--partition=gpu`."""

    config: str
    overrides: Sequence[str]
    run_dir: Path
    num_nodes: int
    nprocs: int
    port: int
    gpus: bool
    max_restarts: int = 0
    trust: bool = False
    options: Sequence[str] = ()


def script(job: Job) -> str:
    """The batch script. It starts or goes on, is asked to stop before its time ends, and queues itself again until it is done.

    Raises UserError for an option that Slurm would not take from a script.
    """
    for option in job.options:
        if not option.startswith("--") or len(option.split()) != 1:
            raise UserError(
                "--sbatch", option, "one option of sbatch, --NAME=VALUE", "write for example --partition=gpu"
            )
    launch = [sys.executable, "-m", "compact_ds.cli", "launch", job.config, "--resume", f"--nprocs={job.nprocs}"]
    launch += [f"--max-restarts={job.max_restarts}"] * bool(job.max_restarts) + ["--trust"] * job.trust
    words = shlex.join([*launch, f"--num-nodes={job.num_nodes}", f"--master-port={job.port}"])
    place = '--node-rank="$SLURM_NODEID" --local-addr="$SLURMD_NODENAME" --master-addr="$0"'
    inner = f"exec {words} {place} {shlex.join(job.overrides)}".rstrip()
    directives = [
        f"--job-name=compact-{_plain(job.run_dir.name)}",
        f"--nodes={job.num_nodes}",
        "--ntasks-per-node=1",
        *([f"--gpus-per-node={job.nprocs}"] if job.gpus else [f"--cpus-per-task={job.nprocs}"]),
        "--requeue",
        "--open-mode=append",
        f"--signal=TERM@{WARNING_SECONDS}",
        f'--output="{job.run_dir}/slurm-%j.log"',
        *job.options,
    ]
    done = shlex.quote(str(job.run_dir / "summary.json"))
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {word}" for word in directives),
        "",
        "# SIGTERM comes before the time is over and on preemption: the ranks write a checkpoint and end with code 0.",
        "# The job then queues again and goes on; an error (code 2) or a fault that restarts did not mend ends it.",
        "set -u",
        'master=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        f"cd {shlex.quote(str(Path.cwd()))} || exit 1",
        "# srun does not take this from the job by itself.",
        '[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"',
        f'srun --kill-on-bad-exit=1 --wait=60 bash -c {shlex.quote(inner)} "$master"',
        "code=$?",
        f"if [ $code -eq 0 ] && [ ! -e {done} ]; then",
        '    scontrol requeue "$SLURM_JOB_ID"',
        "fi",
        "exit $code",
    ]
    return "\n".join(lines) + "\n"


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]", "-", name)


def write(job: Job) -> Path:
    """Write the script into the run's folder, beside which Slurm puts its output. Raises UserError."""
    file = job.run_dir / "launch.sbatch"
    try:
        job.run_dir.mkdir(parents=True, exist_ok=True)
        file.write_text(script(job), encoding="utf-8")
    except OSError as error:
        raise UserError("run_dir", f"{file}: {error.strerror}", "a folder to write", "give another run_dir") from None
    return file


def submit(file: Path) -> str:
    """Hand the script to sbatch; its answer, which has the job's number. Raises UserError."""
    try:
        done = subprocess.run(["sbatch", str(file)], capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError("--submit", "no sbatch here", "Slurm's commands", "submit the script on a login node") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"sbatch {file}", said, "a job that Slurm takes", "add what it lacks with --sbatch=--NAME=VALUE"
        )
    return done.stdout.strip()
