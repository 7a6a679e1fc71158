"""What cells of other people's tables say, brought in by an import: gold answers and verdicts."""

from pathlib import Path

import pytest
from test_importers import SCHEMA, imported, write

from compact_ds.data.importers import Settings, Source, run
from compact_ds.errors import DataError


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (7, "7"),
        (" 7 ", "7"),
        (["7"], "7"),
        ([7], "7"),
        (0, "0"),
        (True, "True"),
        (7.0, "7"),
        (7.5, "7.5"),
        (1e300, "1e+300"),
    ],
)
def test_a_gold_answer_is_one_text_or_number(tmp_path: Path, given: object, kept: str) -> None:
    file = write(tmp_path / "a.jsonl", [SCHEMA | {"answer": given}])
    assert imported(tmp_path, [Source(str(file))])[1][0].answer == kept


@pytest.mark.parametrize("given", [["7", "8"], {"value": "7"}])
def test_several_gold_answers_are_refused(tmp_path: Path, given: object) -> None:
    file = write(tmp_path / "a.jsonl", [SCHEMA | {"answer": given}])
    with pytest.raises(DataError, match=r"expected one answer as text or a number; choose one of them, or name its"):
        imported(tmp_path, [Source(str(file))])


@pytest.mark.parametrize("empty", [float("nan"), None, [], [None]])
def test_an_empty_cell_of_a_table_is_no_gold_answer(tmp_path: Path, empty: object) -> None:
    file = write(tmp_path / "a.jsonl", [SCHEMA | {"answer": empty}])
    report = run([Source(str(file))], tmp_path / "out.jsonl", Settings())
    assert (report.questions, report.without_answer) == (0, [f"{file}:1"])


def test_verdicts_of_a_table_are_kept(tmp_path: Path) -> None:
    """A CSV has only words, a table of numbers only 1 and 0; a field called `correct` may as well hold the gold answer."""
    words = ["True", "false", "1", "0", "", "B"]
    row = {"answer": "1", "model": "ada", "response": "The answer is 1"}
    file = write(tmp_path / "a.csv", [row | {"question": f"q{i}", "correct": word} for i, word in enumerate(words)])
    _, found = imported(tmp_path, [Source(str(file))])
    assert [e.rationales[0].is_correct for e in found] == [True, False, None, None, None, None]
    named = [row | {"question": f"q{i}", "correct": word} for i, word in enumerate(words[:-1])]
    _, found = imported(tmp_path, [Source(str(write(tmp_path / "b.csv", named)))], names={"is_correct": "correct"})
    assert [e.rationales[0].is_correct for e in found] == [True, False, True, False, None]
    with pytest.raises(DataError, match=r"a\.csv:7: found 'B'; expected true or false, or 1 or 0"):
        imported(tmp_path, [Source(str(file))], names={"is_correct": "correct"})
    numbers = [row | {"question": f"q{i}", "is_correct": value} for i, value in enumerate((1, 0))]
    _, found = imported(tmp_path, [Source(str(write(tmp_path / "a.parquet", numbers)))])
    assert [e.rationales[0].is_correct for e in found] == [True, False]
