"""Progress bars that one rank shows, and none under `--quiet`.

Owns that `--quiet` holds. tqdm reads its switch `TQDM_DISABLE` only where nothing is said about `disable`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress_bar(shown: bool, iterable: Iterable[T] | None = None, **arguments: Any) -> tqdm[T]:
    """tqdm of `arguments`, and no bar where `shown` is false."""
    return tqdm(iterable, **arguments, **({} if shown else {"disable": True}))
