"""Turns one row of a source into an `Example`, or says exactly which field of which line is wrong.

Owns the schema's field names, their types and the map from another source's names. Where rows come from is `readers`'
concern.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unicodedata import category

from compact_ds.data.records import Example, Rationale
from compact_ds.data.steps import cut
from compact_ds.errors import ConfigError, DataError, nearest

FIELDS = ("id", "question", "answer", "rationales", "teacher", "text", "steps", "is_correct")
"""The schema: of a question `id`, `question`, `answer` and `rationales`; of a rationale the others."""


class FieldMap:
    """The schema read under the names that a source uses."""

    def __init__(self, names: Mapping[str, str]) -> None:
        """`names` maps schema field -> the source's. Raises ConfigError for a field that the schema does not have."""
        for name in names:
            if name not in FIELDS:
                raise ConfigError("data.fields", name, "a field of the schema", nearest(name, FIELDS))
        self._names = {field: names.get(field, field) for field in FIELDS}

    def example(self, row: Mapping[str, Any], where: str) -> Example:
        """The example of a row. Raises DataError at `where` for a field that is missing, empty or of a wrong type."""
        listed = row.get(self._names["rationales"])
        if listed is None:
            listed = []
        if not isinstance(listed, list):
            raise self._wrong_type("rationales", listed, "a list of objects", where)
        return Example(
            id=self._text(row, "id", where),
            question=self._text(row, "question", where),
            answer=self._text(row, "answer", where),
            rationales=tuple(self._rationale(entry, where) for entry in listed),
            where=where,
        )

    def _rationale(self, entry: Any, where: str) -> Rationale:
        if not isinstance(entry, Mapping):
            raise self._wrong_type("rationales", entry, "an object with teacher and text", where)
        teacher = self._text(entry, "teacher", where)
        # The name stands in tables, plots and on a terminal, where a line break or an escape does harm.
        if not teacher.isprintable() and any(category(character) == "Cc" for character in teacher):
            raise DataError(
                where, f"the teacher {teacher!r:.100}", "a name without control characters", "rename the teacher"
            )
        text = self._text(entry, "text", where)
        verdict = entry.get(self._names["is_correct"])
        if verdict is not None and not isinstance(verdict, bool):
            raise self._wrong_type("is_correct", verdict, "true or false", where)
        known = entry.get(self._names["steps"])
        if known is not None and not (isinstance(known, list) and all(isinstance(step, str) for step in known)):
            raise self._wrong_type("steps", known, "a list of strings", where)
        try:
            steps, answer_sentence = cut(text, known)
        except ValueError as error:
            expected = "steps that stand in the text, in order"
            raise DataError(
                where, f"teacher {teacher}: {error}", expected, "correct the steps or leave them out"
            ) from None
        return Rationale(teacher, steps, answer_sentence, verdict)

    def _text(self, row: Mapping[str, Any], field: str, where: str) -> str:
        name = self._names[field]
        if name not in row:
            found = f"no field {name!r} among {', '.join(map(str, row)) or 'none'}"
            given = f"data.fields.{field}=THEIR_NAME"
            remedy = f"add it, convert the source first (compact-ds data import), or where settings are given map it: {given}"
            raise DataError(where, found, f"the schema's field {field!r}", remedy)
        value = row[name]
        if not isinstance(value, str):
            raise self._wrong_type(field, value, "text", where)
        if not value.strip():
            raise DataError(where, f"an empty {name!r}", "text that is not blank", "fill it in or delete the line")
        # A lone surrogate (\ud800 in JSON) is a str that no tokenizer and no file takes.
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise DataError(
                where, f"half a surrogate pair in {name!r}", "valid Unicode text", "repair the text's encoding"
            )
        return value

    def _wrong_type(self, field: str, value: object, expected: str, where: str) -> DataError:
        name = self._names[field]
        remedy = f"write {name!r} as the schema does"
        return DataError(where, f"{name!r}: {value!r:.100} ({type(value).__name__})", expected, remedy)
