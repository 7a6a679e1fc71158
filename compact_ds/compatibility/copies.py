"""Teachers who copy one another, found by the texts of a whole file, and counted as one voice.

Owns when two teachers are copies and what becomes of an example then. Who copies in words of his own is not seen here: that
looks like agreement.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import combinations

import networkx as nx

from compact_ds.data.overlap import near_duplicates
from compact_ds.data.records import Example

SHARE = 0.5
"""Teachers whose rationales are near-duplicates in at least this share of their common questions are copies."""

_LEAST = 10
_LOG = logging.getLogger(__name__)


def copies(examples: Iterable[Example]) -> dict[str, str]:
    """Teacher -> whose voice it is, for copies only: the first of their names in the alphabet.

    Two who met on fewer than ten questions are not judged. What is found is logged once.
    """
    together: Counter[tuple[str, str]] = Counter()
    alike: Counter[tuple[str, str]] = Counter()
    for example in examples:
        names = sorted({rationale.teacher for rationale in example.rationales})
        together.update(combinations(names, 2))
        pairs = near_duplicates(example.rationales)
        found = {tuple(sorted((example.rationales[i].teacher, example.rationales[j].teacher))) for i, j in pairs}
        alike.update((a, b) for a, b in found)
    linked: nx.Graph[str] = nx.Graph()
    for (a, b), number in sorted(together.items()):
        if number >= _LEAST and alike[a, b] >= SHARE * number:
            linked.add_edge(a, b)
            share = 100 * alike[a, b] / number
            _LOG.info("%s and %s write near-duplicates on %.0f %% of their common questions: one voice", a, b, share)
    return {name: min(group) for group in nx.connected_components(linked) for name in group}


def as_voices(example: Example, copied: Mapping[str, str]) -> Example:
    """The example with copies under one name, so that they are samples of one teacher."""
    if not copied:
        return example
    renamed = (replace(r, teacher=copied.get(r.teacher, r.teacher)) for r in example.rationales)
    return replace(example, rationales=tuple(renamed))
