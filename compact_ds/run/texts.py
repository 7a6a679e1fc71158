"""A step's most and least compatible rationale as text for TensorBoard.

Owns the form: a block of code in Markdown, since a teacher's text may hold markup of its own.
"""

from __future__ import annotations

from compact_ds.optimizer_step.ends import Noted
from compact_ds.tree.tokenise import Ints, Tokeniser


def texts(ends: tuple[Noted, Noted], tokeniser: Tokeniser) -> dict[str, str]:
    """Tag -> Markdown."""
    return {name: _shown(one, tokeniser) for name, one in zip(("most", "least"), ends, strict=True)}


def _shown(one: Noted, tokeniser: Tokeniser) -> str:
    def decoded(ids: Ints) -> str:
        return str(tokeniser.tokenizer.decode(ids.tolist(), skip_special_tokens=True)).strip()

    head = f"{one.teacher}: weight {one.weight:.3f}, equal share {one.equal:.3f}, question {one.id}"
    lines = [head, "", *decoded(one.prompt_ids).splitlines(), "", *decoded(one.ids).splitlines()]
    return "\n".join(f"    {line}" for line in lines)
