"""Starting ranks for tests, without a launcher."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def start(command: Sequence[str], world_size: int, timeout: float = 300) -> tuple[list[int], list[str]]:
    """Run `python *command` as every rank of a world; exit codes and outputs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    together = os.environ | {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    together |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    places = [{"RANK": str(r), "LOCAL_RANK": str(r)} for r in range(world_size)]
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            env=together | place,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for place in places
    ]
    outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    return [process.returncode for process in processes], outputs
