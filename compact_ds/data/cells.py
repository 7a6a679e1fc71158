"""What a cell of somebody else's row says: a message, a gold answer, a verdict.

Owns the kinds of value that hold one. Which field a cell stands in, and what a row means, is `importers`' concern.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compact_ds.errors import DataError

_EXACT = 2**53
"""Above it a float may not be the whole number that was written."""


def message_text(content: Any, where: str) -> str:
    """The text of a message, which may be a list of parts. Raises DataError for a part that is no text, a picture say."""
    texts = []
    for part in content if isinstance(content, list | tuple) else [content]:
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            remedy = "leave the row out, or write in words what the part shows"
            raise DataError(where, f"{part!r:.80}", "a message of text alone", remedy)
        texts.append(text)
    return "".join(texts)


def gold_answer(value: Any, where: str) -> str | None:
    """A gold answer as text; None for a cell that is empty, of a list the only member."""
    if isinstance(value, list | tuple) and len(value) <= 1:
        value = value[0] if value else None
    if value is None or value != value:  # a table's NaN
        return None
    if isinstance(value, list | tuple | Mapping):
        expected = "one answer as text or a number"
        raise DataError(where, f"{value!r:.60}", expected, "choose one of them, or name its field: --field answer=NAME")
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        value = int(value)  # a column of whole numbers with an empty cell, which pandas keeps as floats
    return str(value).strip()


def verdict(value: Any, is_sure: bool, where: str) -> bool | None:
    """What a source says of a rationale; None where it says nothing.

    A table has words and numbers for it. Where it `is_sure` that the field holds verdicts anything else is refused; a field that
    is only called so, `correct` say, may hold the gold answer: there 1 and 0 say nothing. Raises DataError.
    """
    word = str(value).strip().lower()
    if word == "true" or (is_sure and word in ("1", "1.0")):
        return True
    if word == "false" or (is_sure and word in ("0", "0.0")):
        return False
    if is_sure and word not in ("", "none", "nan"):
        remedy = "correct the verdict, or check --field is_correct=NAME"
        raise DataError(where, f"{value!r:.60}", "true or false, or 1 or 0", remedy)
    return None
