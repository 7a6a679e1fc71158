"""The batch script: as Slurm's own controller reads it, and as a shell runs it with Slurm's commands played."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compact_ds.cli import main
from compact_ds.errors import UserError
from compact_ds.launcher import slurm

MACHINE = Path(__file__).parent / "slurm_machine.sh"


def _job(folder: Path, **changed: object) -> slurm.Job:
    given: dict[str, object] = {"config": "arithmetic", "overrides": ["seed=3"], "run_dir": folder / "my run"}
    given |= {"num_nodes": 2, "nprocs": 2, "port": 29500, "gpus": False, "max_restarts": 1}
    return slurm.Job(**(given | changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "answer"),
    [
        ({}, "using 4 processors on nodes node[1-2]"),
        ({"gpus": True, "nprocs": 8}, "on nodes node[1-2]"),
        ({"options": ["--time=1:00:00", "--partition=all"]}, "on nodes node[1-2]"),
        ({"num_nodes": 3}, "Requested node configuration is not available"),
        ({"options": ["--partition=nowhere"]}, "invalid partition specified: nowhere"),
    ],
)
def test_slurms_own_controller_takes_the_script(tmp_path: Path, changed: dict[str, object], answer: str) -> None:
    file = slurm.write(_job(tmp_path, **changed))
    command = [str(MACHINE), str(tmp_path / "slurm"), "sbatch", "--test-only", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert answer in done.stderr


def _play(folder: Path, code: int, finished: bool) -> tuple[int, str, str]:
    """Run the script with `srun` and `scontrol` that note how they were called."""
    commands = folder / "bin"
    commands.mkdir()
    summary = f'touch "{folder}/my run/summary.json"' if finished else ":"
    node = 'shift 2; SLURM_NODEID=1 SLURMD_NODENAME=n2 "$@"'
    srun = f'echo "$SRUN_CPUS_PER_TASK" > {folder}/srun; {node}; {summary}; exit {code}'
    scontrol = f'if [ $1 = show ]; then printf "n1\\nn2\\n"; else echo "$*" > {folder}/scontrol; fi'
    python = f'printf "%s\\n" "$@" > {folder}/words'
    for name, text in (("srun", srun), ("scontrol", scontrol), ("python", python)):
        (commands / name).write_text(f"#!/bin/bash\n{text}\n")
        (commands / name).chmod(0o755)
    script = slurm.script(_job(folder, overrides=["seed=3", "student.lora={r: 8}"])).replace(sys.executable, "python")
    played = {"PATH": f"{commands}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "7"}
    (folder / "my run").mkdir()
    done = subprocess.run(["bash"], input=script, env=os.environ | played | {"SLURM_CPUS_PER_TASK": "2"}, text=True)
    assert (folder / "srun").read_text() == "2\n"
    asked = folder / "scontrol"
    return done.returncode, (folder / "words").read_text(), asked.read_text() if asked.exists() else ""


@pytest.mark.parametrize(
    ("code", "finished", "requeued"), [(0, False, "requeue 7\n"), (0, True, ""), (2, False, ""), (247, False, "")]
)
def test_a_job_queues_again_only_when_it_was_stopped(tmp_path: Path, code: int, finished: bool, requeued: str) -> None:
    ended, words, asked = _play(tmp_path, code, finished)
    assert (ended, asked) == (code, requeued)
    assert words.splitlines() == [
        "-m", "compact_ds.cli", "launch", "arithmetic", "--resume", "--nprocs=2", "--max-restarts=1", "--num-nodes=2",
        "--master-port=29500", "--node-rank=1", "--local-addr=n2", "--master-addr=n1", "seed=3", "student.lora={r: 8}",
    ]  # fmt: skip


def test_submitting_without_slurm_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["launch", "arithmetic", "--submit", "--num-nodes", "2", f"run_dir={tmp_path / 'run'}"]
    assert main(words) == 2
    assert "--submit: found no sbatch here" in capsys.readouterr().err
    assert (tmp_path / "run" / "launch.sbatch").read_text().startswith("#!/bin/bash\n#SBATCH --job-name=compact-run\n")
    assert main([*words, "--nprocs", "5"]) == 2
    assert "expected a multiple of the world size 10" in capsys.readouterr().err
    with pytest.raises(UserError, match="one option of sbatch"):
        slurm.script(_job(tmp_path, options=["time 3"]))
