"""Tables for a terminal, narrow enough for 80 columns.

Owns their form: no frame, a space between columns, and what is still too wide goes on below, so that nothing is cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table


def terminal_table(headings: Sequence[str], rows: Iterable[Sequence[str]], caption: str | None = None) -> Table:
    """The first column on the left, the others on the right; every text as it stands, whatever markup it holds.

    A heading may hold a line break where it should be parted.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=0, caption=caption and escape(caption))
    for i, heading in enumerate(headings):
        table.add_column(escape(heading), justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table
