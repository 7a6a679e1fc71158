"""The progress bars of measuring, which one rank shows.

Owns what hides a bar. tqdm takes an explicit `disable=False` for more than the switch that `--quiet` sets, so a bar that is
shown must not name it.
"""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


def progress_bar(is_shown: bool, *iterable: Any, **settings: Any) -> Any:
    """tqdm's bar, hidden unless `is_shown` and, in either case, under `--quiet`."""
    return tqdm(*iterable, **settings, **({} if is_shown else {"disable": True}))
