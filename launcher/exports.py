"""The environment that ranks on other nodes get: just what they need, and never a key.

Owns which variables travel. They stand in the command line of every node's shell, where anybody on it can read them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from compact_ds.errors import UserError

NAMES = (
    "PYTHONPATH", "LD_LIBRARY_PATH", "DS_ACCELERATOR", "HF_HOME", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE",
    "TRITON_CACHE_DIR",
)  # fmt: skip
PREFIXES = ("OMP_", "GLOO_", "NCCL_", "TORCH_NCCL_", "UCX_", "FI_")

_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ON_NODE = "set it on the nodes themselves, in the shell's profile or ~/.ssh/environment"


def exports(environment: Mapping[str, str], wanted: Sequence[str] = (), home: Path | None = None) -> dict[str, str]:
    """What travels: our list where set, a `.deepspeed_env` file as DeepSpeed reads it, and `wanted` (NAME or NAME=VALUE).

    Raises UserError for a name that looks like a secret, and for one that is not set.
    """
    found = {
        name: value
        for name, value in environment.items()
        if (name in NAMES or name.startswith(PREFIXES)) and not _SECRET.search(name)
    }
    for folder in (home or Path.home(), Path(".")):
        file = folder / environment.get("DS_ENV_FILE", ".deepspeed_env")
        if file.is_file():
            lines = file.read_text(encoding="utf-8").splitlines()
            for number, line in enumerate(lines, start=1):
                if line.strip() and not line.lstrip().startswith("#"):
                    name, value = _pair(f"{file}:{number}", line.strip(), {})
                    found[name] = value
    for word in wanted:
        name, value = _pair("--export", word, environment)
        found[name] = value
    return dict(sorted(found.items()))


def _pair(where: str, text: str, environment: Mapping[str, str]) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not _NAME.fullmatch(name):
        raise UserError(where, name, "NAME=VALUE", "mend the name")
    if _SECRET.search(name):
        # Only the name: the message may be logged.
        raise UserError(where, name, "no secret, since exports stand in the process list of every node", _ON_NODE)
    if not equals and name not in environment:
        raise UserError(where, name, "a variable that is set", f"write {name}=VALUE")
    return name, value if equals else environment[name]
