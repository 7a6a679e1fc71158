"""What a scoring run leaves: a file of rows, totals per teacher, and the rationales at both ends of the order.

Owns the forms. The rows themselves are `score`'s.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compact_ds.compatibility.running import METRICS
from compact_ds.data.readers import read
from compact_ds.errors import UserError
from compact_ds.sections import Config

Row = dict[str, Any]
Rows = list[Row]


def check_ending(output: Path | None) -> None:
    """Refuse a file that would be neither. Raises UserError."""
    if output is not None and output.suffix not in (".jsonl", ".json", ".parquet"):
        raise UserError("--output", str(output), "a name that ends in .jsonl or .parquet", "rename it")


@contextmanager
def writer(output: Path | None, added: Iterable[str] = ()) -> Iterator[Callable[[Rows], None]]:
    """A function that writes rows, one a rationale, as JSON lines or as Parquet; the file is there once all of them are.

    `added` names the metrics beside the three. Without a file nothing is written.
    """
    if output is None:
        yield lambda rows: None
        return
    unfinished = output.with_name(f".{output.name}.unfinished")
    with _parquet(unfinished, added) if output.suffix == ".parquet" else _json_lines(unfinished) as write:
        yield write
    unfinished.replace(output)


@contextmanager
def _json_lines(file: Path) -> Iterator[Callable[[Rows], None]]:
    with file.open("w", encoding="utf-8") as stream:
        yield lambda rows: stream.writelines(json.dumps(row) + "\n" for row in rows)


@contextmanager
def _parquet(file: Path, added: Iterable[str]) -> Iterator[Callable[[Rows], None]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"id": pa.string(), "teacher": pa.string(), "index": pa.int64(), "weight": pa.float64()}
    kinds |= dict.fromkeys((*METRICS, *added, "token_loss"), pa.float64())
    kinds |= {"pmi": pa.list_(pa.float64()), "epiphany_step": pa.int64()}
    # Said here: a first part without an epiphany would not tell its type.
    schema = pa.schema(list(kinds.items()))
    with pq.ParquetWriter(file, schema) as parquet:
        yield lambda rows: parquet.write_table(pa.Table.from_pylist(rows, schema))


def read_rows(file: Path) -> Rows:
    """The rows of a scores file, JSON lines or Parquet. Raises UserError."""
    if not file.is_file():
        raise UserError("scores", str(file), "a file that `compact-ds score --output` wrote", "check the path")
    remedy = "give what `compact-ds score --output` wrote"
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet as pq

            rows: Rows = pq.read_table(file).to_pylist()
        else:
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (ValueError, OSError) as error:
        raise UserError(str(file), str(error), "one row a rationale", remedy) from None
    wanted = ("id", "teacher", "index", "weight", *METRICS, "token_loss", "pmi", "epiphany_step")
    for number, row in enumerate(rows, start=1):
        lacking = [key for key in wanted if not isinstance(row, dict) or key not in row]
        if lacking:
            raise UserError(f"{file}:{number}", f"a row without {lacking[0]}", "one row a rationale", remedy)
    return rows


class Totals:
    """Number of rationales, and per teacher the means of weight, metrics, added ones too, and token loss."""

    def __init__(self, added: Iterable[str] = ()) -> None:
        self._names = ("weight", *METRICS, *added, "token_loss")
        self._counts: Counter[str] = Counter()
        self._sums: dict[str, Counter[str]] = {name: Counter() for name in self._names}

    def add(self, rows: Rows) -> None:
        """Some more rationales."""
        for row in rows:
            self._counts[row["teacher"]] += 1
            for name in self._names:
                self._sums[name][row["teacher"]] += row[name]

    def figures(self) -> dict[str, Any]:
        """Of all that were added; teachers in order of their names."""
        teachers = sorted(self._counts)
        means = {name: {t: self._sums[name][t] / self._counts[t] for t in teachers} for name in self._names}
        return {"rationales": self._counts.total(), **means}


class Ends:
    """The `number` most and least compatible rationales among those that were added.

    Compatible is what has the largest weight relative to an equal share: a teacher's of the question, divided among the
    rationales that it gave, as `weights` has it.
    """

    def __init__(self, number: int) -> None:
        self._number, self._seen = number, 0
        self._most: list[tuple[tuple[float, float, int], Row]] = []
        self._least: list[tuple[tuple[float, float, int], Row]] = []

    def add(self, rows: Rows) -> None:
        """All rationales of some questions."""
        of_question = Counter(row["id"] for row in rows)
        of_teacher = Counter((row["id"], row["teacher"]) for row in rows)
        voices = Counter(question for question, _ in of_teacher)
        several = [row for row in rows if of_question[row["id"]] > 1]
        keyed = []
        for number, row in enumerate(several, start=self._seen):
            relative = row["weight"] * voices[row["id"]] * of_teacher[row["id"], row["teacher"]]
            # Numbered, so that rows are never compared.
            keyed.append(((-relative, row["token_loss"], number), row))
        self._seen += len(several)
        self._most = sorted([*self._most, *keyed])[: self._number]
        self._least = sorted([*self._least, *keyed], reverse=True)[: self._number]

    def figures(self, settings: Config) -> dict[str, Rows]:
        """Under `most` and `least` their row, question, steps and answer sentence, read from the data again."""
        ends = {"most": [row for _, row in self._most], "least": [row for _, row in self._least]}
        wanted = {row["id"] for end in ends.values() for row in end}
        examples = {
            example.id: example
            for example in read(settings.data.train, settings.data, 0, limit=settings.data.limit)
            if example.id in wanted
        }
        return {
            name: [
                row
                | {
                    "question": examples[row["id"]].question,
                    "steps": list(examples[row["id"]].rationales[row["index"]].steps),
                    "answer_sentence": examples[row["id"]].rationales[row["index"]].answer_sentence,
                }
                for row in end
            ]
            for name, end in ends.items()
        }


def shown(found: dict[str, Rows]) -> str:
    """The ends as text; an arrow marks the step after which the gold answer became likelier most."""
    lines = []
    for name, rows in found.items():
        lines.append(f"{name} compatible:")
        for row in rows:
            lines.append(
                f"  {row['id']}  {row['teacher']}  weight {row['weight']:.3f}  A {row['adaptability']:+.2f} nats"
            )
            lines.append(f"    Q: {' '.join(row['question'].split())}")
            for number, step in enumerate(row["steps"], start=1):
                mark = "->" if number == row["epiphany_step"] else "  "
                lines.append(f"    {mark} {' '.join(step.split())}")
            lines.append(f"       {' '.join(row['answer_sentence'].split())}")
    return "\n".join(lines)
