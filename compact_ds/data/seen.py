"""Which ids a source has shown already, in some thirty bytes each.

Owns the table. A dictionary of ids and places takes more than two hundred bytes an example, 200 MB for a million.
"""

from __future__ import annotations

import hashlib

import numpy as np

_LARGEST_LOAD = 2 / 3


class Seen:
    """Ids by the number of the row that showed them first, as 64-bit hashes.

    Two different ids of a million share a hash with a probability of 3e-8.
    """

    def __init__(self) -> None:
        self._count = 0
        self._hashes = np.zeros(1024, dtype=np.uint64)
        self._numbers = np.zeros(1024, dtype=np.uint32)

    def __len__(self) -> int:
        return self._count

    def first(self, name: str, number: int) -> int:
        """The number under which `name` was seen first: `number` itself for a new one, from 0 on."""
        # Zero marks an empty place.
        key = (
            int.from_bytes(hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest(), "little") or 1
        )
        place = self._place(key)
        if self._hashes[place]:
            return int(self._numbers[place])
        self._hashes[place], self._numbers[place] = key, number
        self._count += 1
        if self._count > _LARGEST_LOAD * len(self._hashes):
            self._grow()
        return number

    def _place(self, key: int) -> int:
        """Where a key is, or the empty place where it belongs: linear probing."""
        size = len(self._hashes)
        place = key & (size - 1)
        while (found := int(self._hashes[place])) and found != key:
            place = (place + 1) & (size - 1)
        return place

    def _grow(self) -> None:
        kept = np.flatnonzero(self._hashes)
        hashes, numbers = self._hashes[kept], self._numbers[kept]
        self._hashes = np.zeros(2 * len(self._hashes), dtype=np.uint64)
        self._numbers = np.zeros(len(self._hashes), dtype=np.uint32)
        for key, number in zip(hashes.tolist(), numbers.tolist(), strict=True):
            place = self._place(key)
            self._hashes[place], self._numbers[place] = key, number
