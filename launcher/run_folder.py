"""Whether a run may begin in a folder, asked by its first rank, and by `launch` for runs that may start again.

Owns the rule alone. What lies in a run's folder is `train`'s.
"""

from __future__ import annotations

from pathlib import Path

from compact_ds.errors import ConfigError
from compact_ds.launcher import heartbeat


def check_run_dir(folder: Path, resume: bool) -> None:
    """Refuse to mix two runs in one folder. Raises ConfigError."""
    # Other ranks may already have left a sign of life.
    if not resume and folder.is_dir() and any(file.name != heartbeat.FOLDER for file in folder.iterdir()):
        raise ConfigError("run_dir", str(folder), "an empty or new folder", "give another run_dir or add --resume")
