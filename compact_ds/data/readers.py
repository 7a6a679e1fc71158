"""Reads questions with their rationales from where the config says, one at a time, and refuses what is broken.

Owns the kinds of source and the order of what is done to their examples: keep teachers, thin long chains, add
misleading teachers. How a line becomes an `Example` is `schema`'s concern; nothing is tokenised or held here beyond
the ids seen.
"""

from __future__ import annotations

import json
import shlex
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

from compact_ds.data import arithmetic
from compact_ds.data.mislead import mislead
from compact_ds.data.records import Example
from compact_ds.data.schema import FieldMap
from compact_ds.data.seen import Seen
from compact_ds.data.steps import thinned
from compact_ds.errors import ConfigError, DataError, nearest
from compact_ds.sections import DataConfig

_TASK = "task:"
_HELD_OUT = ":eval"
_FILE_ENDINGS = (".jsonl", ".json", ".ndjson")
_IMPORTED_ENDINGS = (".csv", ".tsv", ".parquet", ".gz", ".zst", ".bz2", ".lz4")
_SAVED_DATASET = ("dataset_info.json", "dataset_dict.json")


def read(
    source: str, data: DataConfig, seed: int, *, limit: int | None = None, is_held_out: bool = False
) -> Iterator[Example]:
    """The examples of `source`, lazily and in its order, the first `limit` of them.

    `source` is a JSONL file, a folder that `datasets` saved, a `datasets` path or hub id (with a configuration's name
    as `id:name`), or a built-in task: `task:NAME`, held-out part `task:NAME:eval`. Of what `datasets` knows it is the split
    `data.split`, with `is_held_out` `data.eval_split`. `data.teachers` filters the
    rationales, `data.max_steps` merges steps of long ones, then `data.mislead` adds to them. An example may come
    without rationales: a test file's, or one that no kept teacher answered. The generator raises DataError where the
    source stops making sense, and ConfigError at its end when `data.teachers` names one that the training questions
    do not have or `data.mislead` could serve none of them.
    """
    seen: set[str] = set()
    misled = rationales = 0
    for example in islice(_unfiltered(source, data, seed, is_held_out), limit):
        seen.update(rationale.teacher for rationale in example.rationales)
        kept = _thin(_keep(example, data.teachers), data.max_steps)
        # A question without rationales is there to be answered, not to be learnt from.
        served = mislead(kept, data.mislead, seed) if data.mislead and kept.rationales else kept
        misled += served is not kept
        rationales += len(kept.rationales)
        yield served
    if source == data.train and not is_held_out:
        _check_teachers(data.teachers, seen, source)
        if data.mislead and rationales and not misled:
            expected = "word problems whose answer two of their numbers give by + - * or /"
            raise ConfigError("data.mislead", data.mislead, expected, f"set data.mislead=0 for {source}")


def held_out(data: DataConfig) -> str | None:
    """Where held-out questions come from: `data.eval`, else a built-in task's own part; None when there is neither."""
    if data.eval is None and data.train.startswith(_TASK) and not data.train.endswith(_HELD_OUT):
        return data.train + _HELD_OUT
    return data.eval


def _unfiltered(source: str, data: DataConfig, seed: int, is_held_out: bool) -> Iterator[Example]:
    fields = FieldMap(data.fields)  # a task has no fields to map, but a wrong name is told all the same
    if source.startswith(_TASK):
        name = source.removeprefix(_TASK)
        part: arithmetic.Part = "eval" if name.endswith(_HELD_OUT) else "train"
        return arithmetic.examples(name.removesuffix(_HELD_OUT), part, seed)
    file = Path(source).expanduser()
    key = "eval_split" if is_held_out else "split"
    rows = (
        _lines(file, source)
        if _is_file(file, source)
        else dataset_rows(source, getattr(data, key), f"data.{key}, or a command's --split,")
    )
    return _examples(rows, fields, source)


def _is_file(file: Path, source: str) -> bool:
    if file.is_file():
        return True
    if not file.is_dir() and (file.suffix in _FILE_ENDINGS or source.startswith((".", "/", "~"))):
        near = [other.name for other in file.parent.glob("*") if other.suffix in _FILE_ENDINGS]
        remedy = nearest(file.name, near) if near else "check the path"
        raise DataError(source, "no such file", "a JSONL file of questions and rationales", remedy)
    return False


def _examples(rows: Iterator[tuple[str, Mapping[str, Any]]], fields: FieldMap, source: str) -> Iterator[Example]:
    seen = Seen()
    for where, row in rows:
        example = fields.example(row, where)
        place, _, number = where.rpartition(":")
        first = seen.first(example.id, int(number))
        if first != int(number):
            taken = f"an id that {place}:{first} does not have"
            raise DataError(where, example.id, taken, "give every question its own id")
        yield example
    if not len(seen):
        raise DataError(source, "no questions", "at least one JSON object", "give a file that is not empty")


def _lines(file: Path, source: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if file.suffix.lower() in _IMPORTED_ENDINGS:
        raise _no_lines(source, f"a {file.suffix} file")
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            # Editors and tables of Windows put the mark before the first line.
            raw = line.removeprefix(BOM_UTF8) if number == 1 else line
            if number == 1 and raw.lstrip().startswith(b"["):
                raise _no_lines(source, "a list, where a line is to be an object")
            if raw.strip():
                where = f"{source}:{number}"
                yield where, _json_object(raw, where)


def _no_lines(source: str, found: str) -> DataError:
    """What `data import` reads and this does not."""
    lines = Path(source).name.split(".")[0] + "-lines.jsonl"
    remedy = f"convert it: compact-ds data import {shlex.quote(source)} --output {shlex.quote(lines)}"
    return DataError(source, found, "one JSON object a line, UTF-8, not compressed", remedy)


def _json_object(raw: bytes, where: str) -> Mapping[str, Any]:
    expected = "one JSON object a line, UTF-8"
    try:
        found = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(where, f"byte {error.object[error.start]:#04x}", expected, "save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        start = raw[:80].decode("utf-8", "replace").strip()
        raise DataError(where, f"{start} ({error})", expected, "mend the line or delete it") from None
    if not isinstance(found, dict):
        raise DataError(
            where, type(found).__name__, expected, "put the line's content into an object with the schema's fields"
        )
    return found


def dataset_rows(source: str, split: str, setting: str = "--split") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where it stands, row) of a folder that `datasets` saved, or of a path or hub id; `setting` is what chose the split.

    Raises DataError.
    """
    import datasets

    folder = Path(source).expanduser()
    try:
        if any((folder / name).is_file() for name in _SAVED_DATASET):
            loaded = datasets.load_from_disk(str(folder))
            if isinstance(loaded, datasets.DatasetDict) and split not in loaded:
                raise KeyError(f"{split!r} is none of {', '.join(map(str, loaded))}")
            table = loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
        else:
            name, _, configuration = source.partition(":")
            table = datasets.load_dataset(name, configuration or None, split=split)
    except (OSError, ValueError, KeyError) as error:
        found = f"{type(error).__name__}: {error}"
        remedy = f"check the spelling, {setting} and the connection, or give a JSONL file"
        raise DataError(source, found, f"a file, or a `datasets` path or id with split {split!r}", remedy) from None
    for number, row in enumerate(table):
        yield f"{source}[{split}]:{number + 1}", cast(Mapping[str, Any], row)


def _keep(example: Example, teachers: list[str] | None) -> Example:
    if not teachers:
        return example
    return replace(example, rationales=tuple(r for r in example.rationales if r.teacher in teachers))


def _thin(example: Example, most: int | None) -> Example:
    if most is None or all(len(r.steps) <= most for r in example.rationales):
        return example
    return replace(example, rationales=tuple(replace(r, steps=thinned(r.steps, most)) for r in example.rationales))


def _check_teachers(teachers: list[str] | None, seen: set[str], source: str) -> None:
    for name in teachers or []:
        if name not in seen:
            remedy = nearest(name, seen) if seen else "the questions have no rationales"
            raise ConfigError("data.teachers", name, f"a teacher of {source}", remedy)
