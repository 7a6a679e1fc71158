"""Settings of `tree`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from compact_ds.sections.section import Section


class TreeConfig(Section):
    """How examples become token trees and trees become rows."""

    layout: Literal["tree", "rows"] = "tree"
    """`tree`: one shared question, tree attention. `rows`: separate rows, for students that cannot take a tree mask."""
    row_tokens: int = Field(2048, ge=8)
    """Token budget of a packed row. A rationale that does not fit with its question and probe is left out and listed."""
    rows: int = Field(1, ge=1)
    """Packed rows in a micro-batch."""
    max_probes: int = Field(8, ge=1)
    """Most probes along one rationale; they are spread over its steps, the last step always has one. Training hangs on no
    more than the last unless `compatibility.adaptability` looks at jumps."""
    probes: Literal["beside", "inside"] = "beside"
    """`beside`: probe tokens ride along without a gradient. `inside`: in the graph like any token (slower, for checks)."""
