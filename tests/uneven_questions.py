"""A file of arithmetic questions whose numbers of rationales differ: teachers missing, teachers with two rationales."""

import json
from pathlib import Path

from compact_ds.data.readers import read
from compact_ds.sections import DataConfig

# Indices into the three rationales of a question; the second list has one teacher answering twice.
PATTERNS = ((0, 1, 2), (0, 1, 2, 2), (1,), (0, 2), (2, 0, 1, 1, 0), (1, 2))


def write(file: Path, count: int = 60) -> Path:
    """Write `count` questions to `file` and return it."""
    lines = []
    for number, example in enumerate(read("task:arithmetic", DataConfig(train="task:arithmetic"), 0, limit=count)):
        rationales = [example.rationales[i] for i in PATTERNS[number % len(PATTERNS)]]
        texts = [{"teacher": r.teacher, "text": r.text, "is_correct": r.is_correct} for r in rationales]
        row = {"id": example.id, "question": example.question, "answer": example.answer, "rationales": texts}
        lines.append(json.dumps(row) + "\n")
    file.write_text("".join(lines), encoding="utf-8")
    return file
