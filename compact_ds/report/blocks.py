"""What a section of the report consists of: notes, charts, tables, texts, side by side or one below the other.

Owns the contract between the sections, in Python, and the page's script, which draws every block by its `kind`. All of it is
data: the script sets texts as texts, whatever they hold.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

Block = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a sentence or two on how to read what follows, and blocks; none where the runs have nothing for it."""

    id: str
    title: str
    note: str
    blocks: list[Block]

    def data(self) -> dict[str, Any]:
        """For the page."""
        return asdict(self)


def chart(title: str, spec: dict[str, Any]) -> Block:
    """A Vega-Lite chart under a title."""
    return {"kind": "chart", "title": title, "spec": spec}


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Block:
    """A table; numbers are aligned right and shown with four digits."""
    return {"kind": "table", "title": title, "head": list(head), "rows": [list(row) for row in rows]}


def text(title: str, content: str) -> Block:
    """Text as it is, folded away until opened."""
    return {"kind": "text", "title": title, "content": content}


def column(title: str, blocks: Sequence[Block]) -> Block:
    """Blocks one below the other under a name: a run's."""
    return {"kind": "column", "title": title, "blocks": list(blocks)}


def beside(columns: Sequence[Block]) -> Block:
    """Columns side by side where there is room."""
    return {"kind": "beside", "columns": list(columns)}


def by_run(found: Sequence[tuple[str, Sequence[Block]]], number: int) -> Block:
    """Blocks of every run that has some, under its name; the only one of `number` runs needs none, and has its charts beside."""
    if number > 1:
        return beside([column(name, blocks) for name, blocks in found])
    (_, blocks), together = found[0], list[Block]()
    for is_chart, group in itertools.groupby(blocks, lambda block: block["kind"] == "chart"):
        own = list(group)
        together += [beside([column("", [one]) for one in own])] if is_chart and len(own) > 1 else own
    return column("", together)
