"""What a scoring run leaves: a file of rows, totals per teacher, and the rationales at both ends of the order.

Owns the forms. The rows themselves are `score`'s.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from compact_ds.compatibility.running import METRICS
from compact_ds.data.readers import read
from compact_ds.errors import UserError
from compact_ds.sections import Config


def check_ending(output: Path | None) -> None:
    """Refuse a file that would be neither. Raises UserError."""
    if output is not None and output.suffix not in (".jsonl", ".json", ".parquet"):
        raise UserError("--output", str(output), "a name that ends in .jsonl or .parquet", "rename it")


def write(rows: list[dict[str, Any]], output: Path) -> None:
    """One row a rationale, as JSON lines or as Parquet."""
    if output.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), output)
        return
    output.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a scores file, JSON lines or Parquet. Raises UserError."""
    if not file.is_file():
        raise UserError("scores", str(file), "a file that `compact-ds score --output` wrote", "check the path")
    remedy = "give what `compact-ds score --output` wrote"
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet as pq

            rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
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


def totals(rows: list[dict[str, Any]], added: Iterable[str] = ()) -> dict[str, Any]:
    """Number of rationales, and per teacher the means of weight, metrics, `added` ones too, and token loss."""
    names = ("weight", *METRICS, *added, "token_loss")
    teachers = sorted({row["teacher"] for row in rows})
    of = {t: [row for row in rows if row["teacher"] == t] for t in teachers}
    means = {name: {t: sum(row[name] for row in of[t]) / len(of[t]) for t in teachers} for name in names}
    return {"rationales": len(rows), **means}


def top(rows: list[dict[str, Any]], settings: Config, number: int) -> dict[str, list[dict[str, Any]]]:
    """The `most` and `least` compatible rationales: their row, their steps, and the epiphany's place among the steps.

    Compatible is what has the largest weight relative to an equal share: a teacher's of the question, divided among the
    rationales that it gave, as `weights` has it.
    """
    of_question = Counter(row["id"] for row in rows)
    of_teacher = Counter((row["id"], row["teacher"]) for row in rows)
    voices = Counter(question for question, _ in of_teacher)
    several = [row for row in rows if of_question[row["id"]] > 1]

    def relative(row: dict[str, Any]) -> float:
        return float(row["weight"] * voices[row["id"]] * of_teacher[row["id"], row["teacher"]])

    ordered = sorted(several, key=lambda row: (-relative(row), row["token_loss"]))
    ends = {"most": ordered[:number], "least": ordered[::-1][:number]}
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


def shown(found: dict[str, list[dict[str, Any]]]) -> str:
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
