"""N processes of one module on this machine, beneath DeepSpeed's launcher, from start to the last one gone.

Owns ports, environment, signals, what the ranks write to stderr, and exit codes. Knows nothing of training: `launch`
says which module to run and judges the outcome.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import IO

import psutil

from compact_ds.errors import ERROR_PREFIX

GRACE_SECONDS = 600.0
"""How long ranks that were asked to stop may take over their checkpoint."""


def run_ranks(
    module: str, arguments: Sequence[str], devices: Sequence[str], on_cpu: bool, grace_seconds: float = GRACE_SECONDS
) -> int:
    """Run `python -m module *arguments` once per device, and return one exit code for all of them.

    The code of the first rank that failed, as DeepSpeed's launcher reports it (a signal n as 256 - n), 0 when none did,
    and 128 + n when signal n stopped ranks that could not end by themselves. SIGINT and SIGTERM are passed on to every
    rank; a second one, or `grace_seconds` without an end, kills them. None of the processes outlives this call.
    """
    launcher = subprocess.Popen(
        _command(module, arguments, devices),
        env=environment(len(devices), on_cpu),
        stderr=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C at the terminal must reach the ranks once, from here, and not the launcher
    )
    assert launcher.stderr is not None
    relay = threading.Thread(target=relay_errors, args=(launcher.stderr, sys.stderr.buffer), daemon=True)
    relay.start()
    try:
        return _supervise(launcher, grace_seconds)
    finally:
        _end_group(launcher)
        relay.join(timeout=10)
        launcher.stderr.close()


def environment(num_ranks: int, on_cpu: bool) -> dict[str, str]:
    """The environment of the ranks: this one, with threads that share the cores out, and DeepSpeed's accelerator named.

    What the caller has set already stays.
    """
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // num_ranks)))
    if on_cpu:
        environment.setdefault("DS_ACCELERATOR", "cpu")
    if sys.stderr.isatty():  # the ranks' own stderr is a pipe, which has no width for a progress bar
        environment.setdefault("COLUMNS", str(shutil.get_terminal_size().columns))
    return environment


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_port() -> int:
    """A TCP port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def relay_errors(source: IO[bytes], sink: IO[bytes]) -> None:
    """Copy bytes as they come, but a user's error line only the first time: every rank meets the same one.

    An error that follows on the open line of another rank's progress bar gets a line of its own.
    """
    prefix, seen, held, last = ERROR_PREFIX.encode(), set(), b"", b"\n"
    while chunk := os.read(source.fileno(), 1 << 16):
        apart = re.sub(rb"(?<![\r\n])" + re.escape(prefix), b"\n" + prefix, last + chunk)[1:]
        last = chunk[-1:]
        for piece in apart.splitlines(keepends=True):
            held += piece
            is_error = held.startswith(prefix)
            if (is_error or prefix.startswith(held)) and not held.endswith(b"\n"):
                continue
            if not (is_error and held in seen):
                sink.write(held)
                sink.flush()
            if is_error:
                seen.add(held)
            held = b""
    sink.write(held)
    sink.flush()


def _command(module: str, arguments: Sequence[str], devices: Sequence[str]) -> list[str]:
    # `deepspeed` itself would first look for a hostfile and then start this same module.
    world = base64.urlsafe_b64encode(json.dumps({"localhost": list(devices)}).encode()).decode()
    launcher = [sys.executable, "-u", "-m", "deepspeed.launcher.launch", f"--world_info={world}"]
    address = ["--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    return [*launcher, *address, "--module", "--no_local_rank", "--log_level=critical", module, *arguments]


def _supervise(launcher: subprocess.Popen[bytes], grace_seconds: float) -> int:
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    deadline = float("inf")
    try:
        while launcher.poll() is None:
            if received and deadline == float("inf"):
                deadline = time.monotonic() + (grace_seconds if _ask_to_stop(launcher) else 0)
            if len(received) > 1 or time.monotonic() > deadline:
                return 128 + received[0]
            time.sleep(0.1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    code = launcher.returncode
    return 128 + received[0] if received and code != 0 else code % 256


def _ask_to_stop(launcher: subprocess.Popen[bytes]) -> bool:
    """SIGTERM to every rank at once; False when none has started.

    DeepSpeed's launcher, given the signal, would ask one rank and wait for its end before it asks the next, and ranks
    that write a checkpoint together wait for each other. SIGTERM also for a Ctrl-C: a rank that is still importing then
    dies in silence.
    """
    try:
        ranks = psutil.Process(launcher.pid).children()
    except psutil.NoSuchProcess:
        return False
    for rank in ranks:
        try:
            rank.terminate()
        except psutil.NoSuchProcess:
            continue
    return bool(ranks)


def _end_group(launcher: subprocess.Popen[bytes]) -> None:
    """Kill what is left in the launcher's process group, and wait until the group is empty."""
    for _ in range(100):
        try:
            os.killpg(launcher.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            break
        launcher.poll()
        time.sleep(0.05)
    launcher.wait()
