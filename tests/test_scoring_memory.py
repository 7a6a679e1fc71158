"""What stands in a scoring run's journals, in the order of the data, and that weighing it does not hold it all."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from compact_ds import score
from compact_ds.config import load
from compact_ds.scoring.journal import Measured, ScoreJournal, journal_file
from compact_ds.scoring.output import Ends, Totals, read_rows, writer

IDENTITY = {"data": "these"}
TEACHERS = ("ann", "ben", "cleo")


def measured(place: int, num_rows: int = 3) -> list[dict[str, Any]]:
    draw = random.Random(place)
    return [
        {
            "place": place, "of": num_rows, "index": index, "id": f"q{place}", "teacher": TEACHERS[index],
            "consensus": draw.random(), "token_loss": draw.random(), "tokens": 50, "total": draw.random(),
            "jump": draw.random(), "pmi": [draw.random() for _ in range(100)], "epiphany_step": None,
        }
        for index in range(num_rows)
    ]  # fmt: skip


def journalled(output: Path, ranks: list[list[int]]) -> None:
    for rank, places in enumerate(ranks):
        journal = ScoreJournal(output, rank, IDENTITY)
        for place in places:
            journal.append(measured(place))
        journal.close()


def test_examples_of_all_ranks_come_in_the_order_of_the_data_as_often_as_wanted(tmp_path: Path) -> None:
    output = tmp_path / "scores.jsonl"
    journalled(output, [[4, 0, 2], [1, 5], [3]])
    found = Measured(output, 3)
    assert len(found) == 6
    for _ in range(2):
        assert list(found) == [measured(place) for place in range(6)]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_journal_goes_on_after_its_last_whole_example(tmp_path: Path, cut: int) -> None:
    """Cut anywhere: in the first line, after it, between the rows of an example, in a row."""
    output = tmp_path / "scores.jsonl"
    journalled(output, [[7, 1, 6]])
    file = journal_file(output, 0)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * cut // 12])
    kept = [json.loads(line)["place"] for line in file.read_bytes().split(b"\n")[1:-1]]
    journal = ScoreJournal(output, 0, IDENTITY)
    assert journal.done == {place for place in kept if kept.count(place) == 3}
    for place in (7, 1, 6):
        if place not in journal.done:
            journal.append(measured(place))
    journal.close()
    assert file.read_bytes() == whole


def test_weighing_holds_some_examples_and_not_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "_EXAMPLES", 16)
    output, config = tmp_path / "scores.jsonl", load("arithmetic", [])
    journalled(output, [list(range(0, 400, 2)), list(range(1, 400, 2))])
    size = sum(journal_file(output, rank).stat().st_size for rank in range(2))
    totals, ends, seen = Totals(), Ends(2), 0
    tracemalloc.start()
    with writer(output) as write:
        for rows in score.weighed(Measured(output, 2), config):
            seen += len(rows)
            totals.add(rows)
            ends.add(rows)
            write(rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen == totals.figures()["rationales"] == 1200
    assert size > 2 << 20 and peak < size / 3
    rows = read_rows(output)
    assert [row["id"] for row in rows] == [f"q{place}" for place in range(400) for _ in TEACHERS]
    for teacher, mean in totals.figures()["weight"].items():
        assert mean == pytest.approx(sum(row["weight"] for row in rows if row["teacher"] == teacher) / 400)
    ordered = sorted(rows, key=lambda row: (-row["weight"], row["token_loss"]))
    assert [row for _, row in ends._most] == ordered[:2]
    assert [row for _, row in ends._least] == ordered[::-1][:2]


def test_a_file_of_scores_is_there_once_it_is_whole(tmp_path: Path) -> None:
    output = tmp_path / "scores.jsonl"
    with pytest.raises(KeyboardInterrupt), writer(output) as write:
        write([{"id": "q"}])
        raise KeyboardInterrupt
    assert not output.exists()
