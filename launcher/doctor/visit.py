"""Asks every node for its facts, here or over ssh, and lets their ranks sum something together.

Owns who is asked how. What is right is `checks`'.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from compact_ds.launcher import nodes, ranks
from compact_ds.launcher.commands import Task
from compact_ds.launcher.doctor.checks import Speed
from compact_ds.launcher.doctor.facts import Facts, existing, mark
from compact_ds.launcher.exports import exports
from compact_ds.launcher.nodes import Cluster

FACTS = "compact_ds.launcher.doctor.facts"
SUM = "compact_ds.launcher.doctor.all_reduce"
VISIT_SECONDS = 120
SUM_SECONDS = 180
LATE_SECONDS = 1.0
"""So long an answer may be on its way."""


@dataclass(frozen=True)
class Visit:
    """The nodes' facts, and what those said that gave none."""

    facts: dict[str, Facts]
    unreachable: dict[str, str]


@dataclass(frozen=True)
class Answer:
    """The line with which a node ended what it said, and when it came; or why there is none."""

    refusal: str | None
    line: str = ""
    came: float = 0.0


def visit(hosts: Sequence[str] | None, run_dir: Path, master: str, port: int, files: Sequence[str]) -> Visit:
    """Ask all hosts at once; this machine alone when there are none."""
    token, folder = uuid.uuid4().hex[:12], existing(run_dir)
    names = hosts or ["localhost"]
    found = Visit({}, {})
    with contextlib.suppress(OSError):  # the nodes' own attempts tell it
        (folder / mark(token, "asker")).touch()
    try:
        asked = {}
        with ThreadPoolExecutor(len(names)) as listeners:
            for index, host in enumerate(names):
                words = ["-m", FACTS, str(run_dir), token, str(index), master, str(port), *files]
                asked[host] = listeners.submit(_listen, _ask(host if hosts else None, words))
        for index, (host, answer) in enumerate(asked.items()):
            _take(host, answer.result(), found, folder / mark(token, index))
    finally:
        for file in folder.glob(mark(token, "*")):
            file.unlink(missing_ok=True)
    return found


def _ask(host: str | None, words: Sequence[str]) -> subprocess.Popen[str]:
    command = [sys.executable, *words]
    if host is None:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in exports(os.environ).items())
    return nodes.ssh(host, f"cd {shlex.quote(str(Path.cwd()))} && {settings} {shlex.join(command)}", os.environ)


def _listen(process: subprocess.Popen[str]) -> Answer:
    """Wait for a node's answer, beside the other nodes' listeners: who heard it later would take its clock to be slow."""
    assert process.stdout is not None and process.stderr is not None
    last, came, silent = "", 0.0, threading.Event()

    def give_up() -> None:
        silent.set()
        process.kill()

    patience = threading.Timer(VISIT_SECONDS, give_up)
    patience.start()
    for line in process.stdout:
        last, came = line, time.time()
    err = process.stderr.read()
    code = process.wait()
    patience.cancel()
    if silent.is_set():
        return Answer(f"no answer in {VISIT_SECONDS} s")
    return Answer((err.strip().splitlines() or [f"exit code {code}"])[-1] if code else None, last, came)


def _take(host: str, answer: Answer, found: Visit, own_mark: Path) -> None:
    if answer.refusal is not None:
        found.unreachable[host] = answer.refusal
        return
    facts = Facts(**json.loads(answer.line))
    skew = facts.time - answer.came if abs(facts.time - answer.came) > LATE_SECONDS else 0.0
    found.facts[host] = replace(facts, skew=skew, shares=facts.shares and own_mark.is_file())


def all_reduce(cluster: Cluster | None, nprocs: int | None, run_dir: Path) -> Speed | str:
    """Latency and bandwidth of an all-reduce over all ranks, or why there is none."""
    file = existing(run_dir) / f".doctor-speed-{uuid.uuid4().hex[:12]}"
    task = Task(SUM, [str(file)])
    if cluster is not None:
        command, _ = nodes.over_hostfile(task, cluster, nprocs)
        words, environment = command.words, {**os.environ, **command.environment}
    else:
        devices = [str(rank) for rank in range(nprocs or 1)]
        words, environment = ranks.local_command(task, devices), ranks.environment(len(devices), False)
    try:
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=SUM_SECONDS)
        if file.is_file():
            return Speed(**json.loads(file.read_text(encoding="utf-8")))
        said = [line for line in done.stderr.splitlines() if "Error" in line] or done.stderr.splitlines()
        return (said or [f"exit code {done.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        return f"the ranks did not meet in {SUM_SECONDS} s"
    finally:
        file.unlink(missing_ok=True)
