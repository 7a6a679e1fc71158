"""The rationales at both ends of a scoring run, against shares worked out by hand."""

import json
from pathlib import Path
from typing import Any

from compact_ds.config import load
from compact_ds.scoring.output import Ends


def row(question: str, teacher: str, index: int, weight: float) -> dict[str, Any]:
    return {"id": question, "teacher": teacher, "index": index, "weight": weight, "token_loss": 1.0}


def test_a_teacher_who_answers_twice_is_compared_with_half_a_teachers_share(tmp_path: Path) -> None:
    given = [
        # An equal share is 1/2 of ann's and 1/4 of each of ben's two: ben's first stands at 1.2, ann at 1, his second at 0.8.
        [row("q1", "ann", 0, 0.5), row("q1", "ben", 1, 0.3), row("q1", "ben", 2, 0.2)],
        # Alone there is nothing to compare.
        [row("q2", "ann", 0, 1.0)],
    ]
    file = tmp_path / "questions.jsonl"
    with file.open("w", encoding="utf-8") as out:
        for rows in given:
            rationales = [{"teacher": one["teacher"], "text": f"step\nThe answer is {one['index']}"} for one in rows]
            out.write(
                json.dumps({"id": rows[0]["id"], "question": "?", "answer": "0", "rationales": rationales}) + "\n"
            )
    ends = Ends(3)
    for rows in given:
        ends.add(rows)
    found = ends.figures(load("arithmetic", [f"data.train={file}"]))
    assert [(one["teacher"], one["index"]) for one in found["most"]] == [("ben", 1), ("ann", 0), ("ben", 2)]
    assert [one["index"] for one in found["least"]] == [2, 0, 1]
    assert found["most"][0]["answer_sentence"].strip() == "The answer is 1"
