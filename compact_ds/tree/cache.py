"""The tokenised examples on disk: one Arrow file per set of inputs, written once and memory-mapped by every rank.

Owns the file and its key, which covers everything that shapes the ids: source, tokenizer, cue, settings and the code that
cuts and scores. Training reads records by index; a million examples cost no memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import FileLock

import compact_ds
from compact_ds.data.answers import final_answer, same_answer, votes
from compact_ds.data.records import Example
from compact_ds.errors import DataError
from compact_ds.tree.tokenise import RationaleTokens, Record, Tokeniser, tokenise

_ROWS = 1024
_READS_OF_A_MAP = 64
"""A record lies in some ten places, each mapped with up to 64 KiB around it: tens of MB between renewals."""

_INTS = pa.list_(pa.int32())
_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "where": pa.string(),
        "prompt_ids": _INTS,
        "probe_ids": _INTS,
        "answer_tokens": pa.int32(),
        "teacher": _INTS,
        "ids": _INTS,
        "length": _INTS,
        "step_ends": _INTS,
        "num_steps": _INTS,
        "verdict": _INTS,
        "answer_right": _INTS,
        "votes": _INTS,
        "consensus": pa.list_(pa.float64()),
    }
)
_LABELS = ("teacher", "consensus", "verdict", "answer_right", "votes")
_SHAPING_CODE = ("data", "tree/tokenise.py", "tree/cache.py", "compatibility/consensus.py", "compatibility/copies.py")


def cache_key(source: str, settings: dict[str, Any], tokeniser: Tokeniser) -> str:
    """Hash of a source's content, the settings that shape its examples, the tokenizer, the cue and our own code."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(tokeniser.fingerprint.encode())
    root = Path(compact_ds.__file__).parent
    code = [f for part in _SHAPING_CODE for f in sorted((root / part).rglob("*.py")) or [root / part]]
    path = Path(source).expanduser()
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    digest.update(source.encode())
    for file in (*code, *files):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:24]


def ensure(
    file: Path,
    examples: Callable[[], Iterable[Example]],
    tokeniser: Tokeniser,
    consensus: Callable[[Example], list[float]],
) -> None:
    """Write the cache file unless it is there; of several processes one writes and the others wait. Raises DataError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if file.exists():
            return
        # On some shared disks the lock holds back nobody on another node: nodes then write a file each, alike to the byte.
        node = f"{file.stem}.{socket.gethostname()}"
        for left in file.parent.glob(f"{node}-*.unfinished"):  # by one of this node that was killed
            left.unlink()
        unfinished = file.with_name(f"{node}-{os.getpid()}.unfinished")
        _write(unfinished, examples(), tokeniser, consensus)
        if file.exists():  # by another node, which may have it mapped
            unfinished.unlink()
        else:
            os.replace(unfinished, file)


class RecordFile:
    """The records of a cache file by index, read from the memory map.

    Every page that is touched counts as this process's until it is unmapped, and the kernel maps its neighbours with it: the
    map is renewed from time to time, so that resident memory does not grow towards the size of the file.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._reader = self._open()
        self._reads = 0
        facts = json.loads(self._reader.get_batch(self._reader.num_record_batches - 1).column("where")[0].as_py())
        self.teachers: tuple[str, ...] = tuple(facts["teachers"])
        self.num_examples: int = facts["num_examples"]
        self.content: str = facts["content"]

    def __len__(self) -> int:
        return self.num_examples

    def record(self, index: int) -> Record:
        """Record number `index`."""
        self._reads += 1
        if self._reads % _READS_OF_A_MAP == 0:
            self._reader = self._open()
        batch, row = self._reader.get_batch(index // _ROWS), index % _ROWS
        ints = {name: _list(batch, name, row) for name in _SCHEMA.names[2:] if name != "answer_tokens"}
        ids = np.split(ints["ids"], np.cumsum(ints["length"]))[:-1]
        ends = np.split(ints["step_ends"], np.cumsum(ints["num_steps"]))[:-1]
        labels = zip(*(ints[name] for name in _LABELS), strict=True)
        return Record(
            batch.column("id")[row].as_py(),
            batch.column("where")[row].as_py(),
            ints["prompt_ids"],
            ints["probe_ids"],
            batch.column("answer_tokens")[row].as_py(),
            tuple(
                RationaleTokens(int(t), i, e, float(c), int(v), int(a), int(n))
                for i, e, (t, c, v, a, n) in zip(ids, ends, labels, strict=True)
            ),
        )

    def column(self, name: str) -> pa.ChunkedArray:
        """A whole column of the examples, copied out of the map."""
        # Arrow's allocator keeps what earlier columns gave back, hundreds of MB for a million examples.
        pa.default_memory_pool().release_unused()
        empty = pa.array([], type=_SCHEMA.field(name).type)
        parts = []
        for i in range(self._reader.num_record_batches - 1):
            if i % _READS_OF_A_MAP == 0:
                reader = self._open()
            # Two arrays put together are a copy; one would stay in the map, and keep it.
            parts.append(pa.concat_arrays([reader.get_batch(i).column(name), empty]))
        return pa.chunked_array(parts, type=empty.type)

    def lengths(self, name: str) -> np.ndarray:
        """How long each example's list in a column is. Its values, hundreds of tokens each, stay in the map."""
        parts = []
        for i in range(self._reader.num_record_batches - 1):
            if i % _READS_OF_A_MAP == 0:
                reader = self._open()
            parts.append(np.diff(reader.get_batch(i).column(name).offsets.to_numpy()))
        return np.concatenate(parts)

    def _open(self) -> Any:
        return pa.ipc.open_file(pa.memory_map(str(self._file)))


def _write(
    file: Path, examples: Iterable[Example], tokeniser: Tokeniser, consensus: Callable[[Example], list[float]]
) -> None:
    teachers: dict[str, int] = {}
    num_examples, content = 0, hashlib.sha256()
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        rows: list[dict[str, Any]] = []
        for example in examples:
            for rationale in example.rationales:
                teachers.setdefault(rationale.teacher, len(teachers))
            answers = [final_answer(r.text) for r in example.rationales]
            right = [same_answer(answer, example.answer) for answer in answers]
            counts = votes([r.teacher for r in example.rationales], answers)
            record = tokenise(example, tokeniser, teachers, consensus(example), right, counts)
            rows.append(_row(record))
            content.update(_content(record))
            num_examples += 1
            if len(rows) == _ROWS:
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=_SCHEMA))
                rows = []
        if num_examples == 0:
            raise DataError(
                str(file), "no examples", "at least one example", "check data.train, data.limit and data.teachers"
            )
        if rows:
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=_SCHEMA))
        # Teachers are known only now: they travel in a last batch of one row.
        facts = {"teachers": list(teachers), "num_examples": num_examples, "content": content.hexdigest()[:24]}
        writer.write_batch(pa.RecordBatch.from_pylist([{"where": json.dumps(facts)}], schema=_SCHEMA))


def _row(record: Record) -> dict[str, Any]:
    rationales = record.rationales
    return {
        "id": record.id,
        "where": record.where,
        "prompt_ids": record.prompt_ids,
        "probe_ids": record.probe_ids,
        "answer_tokens": record.answer_tokens,
        "teacher": [r.teacher for r in rationales],
        "ids": np.concatenate([r.ids for r in rationales]) if rationales else [],
        "length": [len(r.ids) for r in rationales],
        "step_ends": np.concatenate([r.step_ends for r in rationales]) if rationales else [],
        "num_steps": [len(r.step_ends) for r in rationales],
        "verdict": [r.verdict for r in rationales],
        "answer_right": [r.answer_right for r in rationales],
        "votes": [r.votes for r in rationales],
        "consensus": [r.consensus for r in rationales],
    }


def _content(record: Record) -> bytes:
    """What a run learns from a record, wherever it was read from."""
    rationales = [(r.teacher, r.ids.tolist(), r.step_ends.tolist(), r.consensus, r.verdict) for r in record.rationales]
    return repr(
        (record.id, record.prompt_ids.tolist(), record.probe_ids.tolist(), record.answer_tokens, rationales)
    ).encode()


def _list(batch: pa.RecordBatch, name: str, row: int) -> Any:
    column = batch.column(name)
    start, stop = column.offsets[row].as_py(), column.offsets[row + 1].as_py()
    return column.values[start:stop].to_numpy(zero_copy_only=True)
