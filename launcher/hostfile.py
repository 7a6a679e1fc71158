"""Hostfiles in DeepSpeed's form, and which of their slots are taken.

Owns the text: `worker-1 slots=4` a line, `#` before a comment; --include and --exclude as `worker-1@worker-2:0,2`. Nothing here
reaches a host.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from compact_ds.errors import UserError, nearest

Slots = dict[str, list[int]]
"""Slot numbers by host, in the file's order, which is the order of ranks."""

_LINE = re.compile(r"^(?P<host>[^\s-]\S*)\s+slots=(?P<slots>\d+)\s*(#.*)?$")


def read_hostfile(file: Path) -> Slots:
    """All slots of a hostfile. Raises UserError."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise UserError(f"--hostfile {file}", reason, "a readable hostfile", "check the path") from None
    found: Slots = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match, where = _LINE.match(text), f"{file}:{number}"
        if match is None or not int(match["slots"]):
            raise UserError(where, text, "HOST slots=N", "write for example worker-1 slots=4")
        if match["host"] in found:
            raise UserError(where, text, "each host once", f"add the slots of {match['host']} up in one line")
        found[match["host"]] = list(range(int(match["slots"])))
    if not found:
        raise UserError(f"--hostfile {file}", "no host", "a line HOST slots=N for each node", "add them")
    return found


def choose(slots: Slots, include: str | None, exclude: str | None) -> Slots:
    """The slots that are left by `NAME[:SLOT,...]@...` to take or to leave out. Raises UserError."""
    if include and exclude:
        raise UserError("--exclude", exclude, "only one of --include and --exclude", "drop one of them")
    if include:
        wanted = _parse("--include", include, slots)
        return {host: wanted[host] for host in slots if host in wanted}
    if exclude:
        dropped = _parse("--exclude", exclude, slots)
        left = {
            host: [slot for slot in of_host if slot not in dropped.get(host, [])] for host, of_host in slots.items()
        }
        found = {host: of_host for host, of_host in left.items() if of_host}
        if not found:
            raise UserError("--exclude", exclude, "at least one slot that is left", "exclude less")
        return found
    return slots


def _parse(option: str, text: str, known: Mapping[str, list[int]]) -> Slots:
    found: Slots = {}
    for part in text.split("@"):
        host, colon, numbers = part.partition(":")
        if host not in known:
            raise UserError(option, part, "a host of the hostfile", nearest(host, known))
        if colon and not re.fullmatch(r"\d+(,\d+)*", numbers):
            raise UserError(option, part, "NAME:SLOT,SLOT", f"write for example {host}:0,1")
        wanted = [int(number) for number in numbers.split(",")] if colon else known[host]
        unknown = sorted(set(wanted) - set(known[host]))
        if unknown:
            raise UserError(option, part, f"slots below {len(known[host])}", f"leave out slot {unknown[0]}")
        found[host] = sorted({*found.get(host, []), *wanted})
    return found
