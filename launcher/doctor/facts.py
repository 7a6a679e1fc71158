"""One node's facts, gathered there: `python -m compact_ds.launcher.doctor.facts RUN_DIR TOKEN INDEX MASTER PORT [FILE ...]`.

Owns what is looked at, not what is right. Prints one JSON object, last of all, so that its time of arrival tells the clock.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import resource
import shutil
import socket
import stat
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

PACKAGES = ("torch", "deepspeed", "transformers")


@dataclass(frozen=True)
class Facts:
    """What one node says of itself; `skew` is filled in by who asked."""

    host: str
    versions: dict[str, str]
    hashes: dict[str, str]
    """SHA-256 by file, `missing` where there is none."""
    devices: int
    cores: int
    address: str | None
    """Of the interface towards the first node; None without a route."""
    interface: str | None
    writes: bool
    """Whether the run's folder can be written."""
    shares: bool
    """Whether it sees the mark that who asks has left in the run's folder, and who asks sees its own."""
    world_writable: bool
    free_bytes: int
    shm_free_bytes: int
    open_files: int
    locked_memory: int
    """Bytes that may be locked, -1 for no limit."""
    port_is_free: bool
    time: float
    skew: float = 0.0


def gather(run_dir: Path, token: str, index: int, master: str, port: int, files: Sequence[str]) -> Facts:
    """Look at this node. Leaves a mark in the run's folder, or in the nearest one above that exists."""
    import torch

    folder = existing(run_dir)
    writes = _mark(folder, token, index)
    address, interface = _towards(master)
    return Facts(
        host=socket.gethostname(),
        versions=versions(),
        hashes={file: digest(Path(file)) for file in files},
        devices=torch.accelerator.device_count() if torch.accelerator.is_available() else 0,
        cores=len(os.sched_getaffinity(0)),
        address=address,
        interface=interface,
        writes=writes,
        shares=(folder / mark(token, "asker")).is_file(),
        world_writable=run_dir.is_dir() and bool(run_dir.stat().st_mode & stat.S_IWOTH),
        free_bytes=shutil.disk_usage(folder).free,
        shm_free_bytes=shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        locked_memory=resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
        port_is_free=index != 0 or _is_free(port),
        time=time.time(),
    )


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    while not folder.is_dir():
        folder = folder.parent
    return folder


def versions() -> dict[str, str]:
    """Releases of what must be alike on all nodes."""
    from compact_ds import __version__

    found = {"python": sys.version.split()[0], "compact_ds": __version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def digest(file: Path) -> str:
    """SHA-256 of a file's content, or `missing`."""
    found = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                found.update(block)
    except OSError:
        return "missing"
    return found.hexdigest()


def mark(token: str, name: object) -> str:
    """The file that one node leaves in the run's folder for the others to see."""
    return f".doctor-{token}-{name}"


def _mark(folder: Path, token: str, index: int) -> bool:
    try:
        (folder / mark(token, index)).write_text(socket.gethostname(), encoding="utf-8")
    except OSError:
        return False
    return True


def _towards(master: str) -> tuple[str | None, str | None]:
    import psutil

    try:
        family, *_, place = socket.getaddrinfo(master, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(place)
            address = str(probe.getsockname()[0])
    except OSError:
        return None, None
    held = ((name, a.address) for name, of_name in psutil.net_if_addrs().items() for a in of_name)
    return address, next((name for name, one in held if one == address), None)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


if __name__ == "__main__":
    _run_dir, _token, _index, _master, _port, *_files = sys.argv[1:]
    _facts = gather(Path(_run_dir), _token, int(_index), _master, int(_port), _files)
    print(json.dumps(asdict(_facts) | {"time": time.time()}))
