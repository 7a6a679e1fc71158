"""Starting ranks for tests, without a launcher.

Owns the one process that has torch, DeepSpeed and this package loaded, of which ranks are forks: loading takes a rank seconds,
and many tests start several.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import lru_cache
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# On a machine with a GPU too: two ranks need two of them, and the interpreter runs the kernels.
_NO_GPU = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1"}
_ALONE = _NO_GPU | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}


def start(command: Sequence[str], world_size: int, timeout: float = 300) -> tuple[list[int], list[str]]:
    """Run `python *command` as every rank of a world; exit codes and outputs."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / str(rank) for rank in range(world_size)]
        processes = [
            _loaded().Process(target=_run, args=(list(command), environment, os.getcwd(), str(output)))
            for environment, output in zip(_environments(world_size), outputs, strict=True)
        ]
        for process in processes:
            process.start()
        _wait(processes, time.monotonic() + timeout)
        return [process.exitcode or 0 for process in processes], [output.read_text("utf-8") for output in outputs]


def start_fresh(command: Sequence[str], world_size: int, timeout: float = 300) -> list[str]:
    """The same by processes of their own, for measurements: what is loaded already would change what garbage is held how long."""
    processes = [
        subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for environment in _environments(world_size)
    ]
    return [process.communicate(timeout=timeout)[0] for process in processes]


def _environments(world_size: int) -> list[dict[str, str]]:
    """What each rank is told."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    together = os.environ | {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} | _ALONE
    return [together | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world_size)]


@lru_cache(maxsize=1)
def _loaded() -> ForkServerContext:
    """The process to fork from; it starts with the first rank."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["loaded_for_ranks"])
    before = dict(os.environ)
    os.environ.update(_ALONE)
    multiprocessing.forkserver.ensure_running()
    os.environ.clear()
    os.environ.update(before)
    return context


def _run(command: list[str], environment: dict[str, str], folder: str, output: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(written, 1)
    os.dup2(written, 2)
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(command)
        sys.path.insert(0, str(Path(command[0]).parent))
        runpy.run_path(command[0], run_name="__main__")


def _wait(processes: Sequence[ForkServerProcess], deadline: float) -> None:
    try:
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            assert process.exitcode is not None, "a rank did not end in time"
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
