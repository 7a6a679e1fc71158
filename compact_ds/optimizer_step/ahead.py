"""What the next optimizer step needs from the host, made while the device works on this one.

Owns one thread and one thing made ahead. What is made is a function of what is asked for alone, so that a run is the same
with it and without.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Made = TypeVar("Made")


class Ahead(Generic[Asked, Made]):
    """Makes what is asked for, and what follows it in a thread once two have followed one another."""

    def __init__(self, make: Callable[[Asked], Made]) -> None:
        self._make = make
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._following: Asked | None = None
        self._begun: Future[Made] | None = None

    def take(self, asked: Asked, following: Asked) -> Made:
        """What was asked for. `following` is what will be asked for next if all goes well."""
        follows, begun = asked == self._following, self._begun
        self._following, self._begun = following, None
        # What was begun for another question is of no use; an error of its making is that of the one who asks.
        made = begun.result() if begun is not None and follows else self._make(asked)
        if follows:
            self._begun = self._pool.submit(self._make, following)
        return made
