"""Two models' rows, paired by question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compact_ds.errors import DataError
from compact_ds.evaluation.paired import against, read_rows


def rows(rights: str) -> list[dict[str, object]]:
    return [{"id": f"q{i}", "right": letter == "1"} for i, letter in enumerate(rights)]


def test_a_difference_by_hand() -> None:
    found = against(rows("1111110010"), rows("0000110100"), "f")
    assert found["difference"] == pytest.approx(0.4)
    assert (found["only_this"], found["only_other"]) == (5, 1)
    # Six coins, five or more alike: 2 * (6 + 1) / 64.
    assert found["mcnemar_p"] == pytest.approx(14 / 64)
    assert found["interval"][0] <= 0.4 <= found["interval"][1]


def test_order_does_not_matter_and_other_questions_are_refused() -> None:
    one, other = rows("1100"), rows("1010")
    assert against(one, other[::-1], "f") == against(one, other, "f")
    with pytest.raises(
        DataError, match=r"f: found 3 questions, 1 of ours missing \['q3'\]; expected the same 4 questions"
    ):
        against(one, other[:3], "f")


def test_shares_of_samples_are_compared() -> None:
    one = [{"id": "q", "right": True, "share_right": 0.75}]
    assert against(one, [{"id": "q", "right": True, "share_right": 0.5}], "f")["difference"] == pytest.approx(0.25)


def test_files_that_are_no_rows_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"id": "q"}) + "\n")
    with pytest.raises(
        DataError, match=r"rows\.jsonl: found rows without them; expected JSON objects with `id` and `right`"
    ):
        read_rows(file)
