"""Rows of files in the forms that people keep: JSONL, JSON, CSV, Parquet, plain or compressed, and `datasets`.

Owns the forms and where a row stands (for messages). What a row means is `importers`' concern. One row is held at a time, except
of a JSON file, which is one value.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compact_ds.errors import DataError

Row = tuple[str, Mapping[str, Any]]

_COMPRESSED = (".gz", ".zst", ".bz2", ".lz4")
_LINES = (".jsonl", ".ndjson")
_FORMS = (*_LINES, ".json", ".csv", ".tsv", ".parquet")


def rows(source: str, split: str = "train") -> Iterator[Row]:
    """(where it stands, row) of a file, or of a `datasets` path or id. Raises DataError for what cannot be read."""
    file = Path(source).expanduser()
    if not file.is_file():
        if file.suffix in (*_FORMS, *_COMPRESSED):
            raise DataError(source, "no such file", "a file of rows", "check the path")
        from compact_ds.data.readers import dataset_rows

        yield from dataset_rows(source, split)
        return
    suffixes = [suffix for suffix in file.suffixes if suffix in (*_FORMS, *_COMPRESSED)]
    form = next((suffix for suffix in reversed(suffixes) if suffix in _FORMS), None)
    if form is None:
        expected = f"a name that ends in {', '.join(_FORMS)}, or one of them and {', '.join(_COMPRESSED)}"
        raise DataError(source, file.name, expected, "rename the file after what it holds")
    try:
        yield from _of_form(file, form, source)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            source, f"{type(error).__name__}: {error}", f"a readable {form} file", "mend the file"
        ) from None


def _of_form(file: Path, form: str, source: str) -> Iterator[Row]:
    import pyarrow as pa

    if form == ".parquet":
        yield from _parquet(file, source)
        return
    with (
        pa.input_stream(str(file), compression="detect") as stream,
        io.TextIOWrapper(stream, encoding="utf-8-sig") as text,
    ):
        if form in _LINES:
            for number, line in enumerate(text, start=1):
                if line.strip():
                    yield f"{source}:{number}", _object(line, f"{source}:{number}")
        elif form == ".json":
            yield from _json(text.read(), source)
        else:
            csv.field_size_limit(2**31 - 1)  # a rationale may be longer than the module's 128 KiB
            yield from _table(csv.DictReader(text, delimiter="\t" if form == ".tsv" else ","), source)


def _table(table: csv.DictReader[str], source: str) -> Iterator[Row]:
    """Rows of cells under a header. Raises DataError where they are cut elsewhere than their writer meant."""
    heads = table.fieldnames or ()
    if len(heads) == 1 and any(separator in heads[0] for separator in ",;\t|"):
        remedy = "save it with commas as .csv, or with tabs as .tsv"
        raise DataError(f"{source}:1", f"one field, {heads[0]!r:.80}", "a header of several fields", remedy)
    for row in table:
        where = f"{source}:{table.line_num}"
        surplus: Any = row.pop(None, ())
        if any(cell.strip() for cell in surplus):
            found = f"{len(heads) + len(surplus)} cells, the last {surplus[-1]!r:.60}"
            raise DataError(where, found, f"{len(heads)}, as the header has", "put quotes around cells with separators")
        yield where, row


def _parquet(file: Path, source: str) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        for batch in pq.ParquetFile(file).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield f"{source}:{number}", row
    except pa.ArrowException as error:
        raise DataError(source, str(error), "a Parquet file", "write it again") from None


def _json(text: str, source: str) -> Iterator[Row]:
    try:
        whole = json.loads(text)
    except ValueError as error:
        raise DataError(source, str(error), "one JSON value", "mend it, or name a file of lines .jsonl") from None
    listed = whole
    if isinstance(whole, dict):
        lists = {name: value for name, value in whole.items() if isinstance(value, list) and _has_objects(value)}
        if len(lists) != 1:
            named = " and ".join(map(repr, lists)) or "nothing"
            found = f"an object in which {named} lists objects"
            raise DataError(source, found, "a list of objects, or one in an object", "put the rows into a list")
        listed = next(iter(lists.values()))
    elif not isinstance(whole, list):
        raise DataError(source, type(whole).__name__, "a list of objects", "put the objects into a list")
    for number, row in enumerate(listed, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{source}:{number}", type(row).__name__, "an object", "write each row as an object")
        yield f"{source}:{number}", row


def _has_objects(values: list[Any]) -> bool:
    return any(isinstance(value, dict) for value in values)


def _object(line: str, where: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(where, f"{line[:80].strip()} ({error})", "one JSON object a line", "mend the line") from None
    if not isinstance(found, dict):
        raise DataError(where, type(found).__name__, "one JSON object a line", "put the content into an object")
    return found
