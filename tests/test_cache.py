"""The cache file and the set over it: what goes in comes out, by index; what does not fit is told, not cut."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest

from compact_ds.data.records import Example, Rationale
from compact_ds.errors import DataError
from compact_ds.sections import StudentConfig, TreeConfig
from compact_ds.student.load import load_tokenizer
from compact_ds.tree import cache
from compact_ds.tree.build import plan_pieces
from compact_ds.tree.cache import RecordFile, cache_key, ensure
from compact_ds.tree.dataset import LeftOut, TreeDataset
from compact_ds.tree.tokenise import Record, Tokeniser, tokenise

CUE = "\nThe answer is "
TOKENISER = Tokeniser(load_tokenizer(StudentConfig(model="scratch", tokenizer="task:arithmetic")), CUE)


def example(number: int, *rationales: tuple[str, int]) -> Example:
    """A question with rationales of a teacher and so many steps of two words; an answer sentence of four but for c."""
    says = {t: "" if t == "c" else "\nThe answer is 7" for t, _ in rationales}
    cut = [Rationale(t, ("\n3 plus",) * n, says[t], is_correct=n % 2 == 0 or None) for t, n in rationales]
    return Example(f"e{number}", "What does " * (number + 1), str(number % 10), tuple(cut), f"f.jsonl:{number + 1}")


EXAMPLES = [
    example(0, ("b", 2), ("a", 0)),
    example(1),
    example(2, ("c", 1)),
    example(3, ("a", 3), ("a", 1)),
    example(7),
]


def consensus(of: Example) -> list[float]:
    return [len(r.steps) / 8 for r in of.rationales]


def written(folder: Path, examples: list[Example] = EXAMPLES) -> Path:
    file = folder / "records.arrow"
    ensure(file, lambda: examples, TOKENISER, consensus)
    return file


def same(got: Record, want: Record) -> None:
    assert (got.id, got.where, got.answer_tokens) == (want.id, want.where, want.answer_tokens)
    assert (got.prompt_ids.tolist(), got.probe_ids.tolist()) == (want.prompt_ids.tolist(), want.probe_ids.tolist())
    assert len(got.rationales) == len(want.rationales)
    for mine, theirs in zip(got.rationales, want.rationales, strict=True):
        assert (mine.ids.tolist(), mine.step_ends.tolist()) == (theirs.ids.tolist(), theirs.step_ends.tolist())
        labels = [(r.teacher, r.consensus, r.verdict, r.answer_right) for r in (mine, theirs)]
        assert labels[0] == labels[1]


@pytest.mark.parametrize("rows", [1, 2, 5, 1024])
def test_records_come_back_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(cache, "_ROWS", rows)
    records = RecordFile(written(tmp_path))
    assert (len(records), records.teachers) == (5, ("b", "a", "c"))
    numbers = {"b": 0, "a": 1, "c": 2}
    for i in (4, 0, 3, 2, 1):
        # Only example 7 has gold answer 7, which every teacher gives; it has no rationale.
        right = [False] * len(EXAMPLES[i].rationales)
        same(records.record(i), tokenise(EXAMPLES[i], TOKENISER, numbers, consensus(EXAMPLES[i]), right))
    assert records.column("answer_tokens").to_pylist() == [1] * 5
    assert records.column("teacher").to_pylist() == [[0, 1], [], [2], [1, 1], []]
    # Two words for each time that the question says "What does".
    assert records.lengths("prompt_ids").tolist() == [2, 4, 6, 8, 16]


def test_the_teachers_own_answer_is_judged(tmp_path: Path) -> None:
    rationales = (
        Rationale("t", (), "The answer is 7"),
        Rationale("t", (), "The answer is 17"),
        Rationale("t", ("7",), ""),
    )
    records = RecordFile(written(tmp_path, [Example("e", "q", "7", rationales, "f:1")]))
    assert [r.answer_right for r in records.record(0).rationales] == [1, 0, 0]


def test_reading_takes_no_memory(tmp_path: Path) -> None:
    file = written(tmp_path, [example(i % 50, ("a", 50)) for i in range(1100)])
    before = pa.total_allocated_bytes()
    records = RecordFile(file)
    kept = [records.record(i) for i in range(len(records))]
    assert file.stat().st_size > 500_000
    assert pa.total_allocated_bytes() == before
    assert not any(array.flags.writeable for r in kept for array in (r.prompt_ids, r.rationales[0].ids))


def test_the_set_over_it_copies_no_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []
    column = RecordFile.column

    def noted(records: RecordFile, name: str) -> pa.ChunkedArray:
        copied.append(name)
        return column(records, name)

    monkeypatch.setattr(RecordFile, "column", noted)
    TreeDataset(written(tmp_path), TreeConfig())
    assert "length" in copied and not {"prompt_ids", "probe_ids", "ids"} & set(copied)


def test_it_is_written_once(tmp_path: Path) -> None:
    file = written(tmp_path)
    before = file.read_bytes()
    ensure(file, lambda: pytest.fail("the examples were read again"), TOKENISER, consensus)
    assert file.read_bytes() == before


def test_a_half_written_file_is_never_taken_for_a_whole_one(tmp_path: Path) -> None:
    file = tmp_path / "new" / "records.arrow"

    def broken() -> Iterator[Example]:
        yield from EXAMPLES[:3]
        raise DataError("f.jsonl:4", "nothing", "a question", "mend it")

    with pytest.raises(DataError, match=r"f\.jsonl:4"):
        ensure(file, broken, TOKENISER, consensus)
    assert not file.exists()
    (left,) = file.parent.glob("*.unfinished")
    left.rename(left.with_name(left.name.replace(f"-{os.getpid()}.", "-1.")))  # as another process would leave it
    ensure(file, lambda: EXAMPLES, TOKENISER, consensus)
    assert file.read_bytes() == written(tmp_path).read_bytes()
    assert not list(file.parent.glob("*.unfinished"))


def test_two_nodes_may_write_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "new" / "records.arrow"
    theirs: list[int] = []
    monkeypatch.setattr(cache, "FileLock", lambda name: nullcontext())  # as good as none between nodes

    def interrupted() -> Iterator[Example]:
        yield from EXAMPLES[:3]
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(socket, "gethostname", lambda: "another")
            ensure(file, lambda: EXAMPLES, TOKENISER, consensus)
        theirs.append(file.stat().st_ino)
        yield from EXAMPLES[3:]

    ensure(file, interrupted, TOKENISER, consensus)
    assert theirs == [file.stat().st_ino]  # what the other has mapped stays
    assert file.read_bytes() == written(tmp_path).read_bytes()
    assert not list(file.parent.glob("*.unfinished"))


def test_no_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found no examples; expected at least one example; check data\.train"):
        written(tmp_path, [])
    assert not (tmp_path / "records.arrow").exists()


def test_the_key_changes_with_what_shapes_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "train.jsonl"
    file.write_text("one\n")
    plain = cache_key(str(file), {"limit": 3, "mislead": 0}, TOKENISER)
    home = cache_key("~/train.jsonl", {}, TOKENISER)
    folder = cache_key(str(tmp_path), {}, TOKENISER)
    assert cache_key(str(file), {"mislead": 0, "limit": 3}, TOKENISER) == plain
    other_cue = Tokeniser(TOKENISER.tokenizer, "\nanswer is ")
    keys = [
        plain, home, folder, cache_key("task:arithmetic", {}, TOKENISER), cache_key("task:arithmetic_hard", {}, TOKENISER),
        cache_key(str(file), {"limit": 4, "mislead": 0}, TOKENISER), cache_key(str(file), {"limit": 3, "mislead": 0}, other_cue),
    ]  # fmt: skip
    file.write_text("two\n")
    keys += [cache_key(str(file), {"limit": 3, "mislead": 0}, TOKENISER), cache_key("~/train.jsonl", {}, TOKENISER)]
    keys += [cache_key(str(tmp_path), {}, TOKENISER)]
    monkeypatch.setattr(cache, "_SHAPING_CODE", ("data", "tree/tokenise.py"))
    keys += [cache_key("task:arithmetic", {}, TOKENISER)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("layout", ["tree", "rows"])
@pytest.mark.parametrize("max_probes", [1, 2, 8])
def test_what_fits_is_what_a_row_of_its_own_can_hold(
    tmp_path: Path, layout: Literal["tree", "rows"], max_probes: int
) -> None:
    file = written(tmp_path)
    records = RecordFile(file)
    for row_tokens in range(8, 60):
        data = TreeDataset(file, TreeConfig(layout=layout, row_tokens=row_tokens, max_probes=max_probes))
        for i in range(len(records)):
            alone = [
                plan_pieces(records.record(i), [r], layout, row_tokens, max_probes) for r in range(len(EXAMPLES[i].rationales))
            ]  # fmt: skip
            expected = [r for r, pieces in enumerate(alone) if max(p.num_tokens for p in pieces) <= row_tokens]
            assert data.fits(i) == expected


def test_examples_with_some_rationales_are_those_that_a_loop_finds(tmp_path: Path) -> None:
    data = TreeDataset(written(tmp_path), TreeConfig(row_tokens=30, max_probes=2))
    teachers = data.flat("teacher")
    assert [data.teachers[t] for t in teachers] == ["b", "a", "c", "a", "a"]
    for wanted in (np.array([True] * 5), teachers == 1, np.array([False] * 5)):
        place, expected = 0, []
        for i, one in enumerate(EXAMPLES):
            if any(wanted[place + r] for r in data.fits(i)):
                expected.append(i)
            place += len(one.rationales)
        assert data.examples_with(wanted).tolist() == expected


def test_left_out_by_hand(tmp_path: Path) -> None:
    data = TreeDataset(written(tmp_path), TreeConfig(layout="tree", row_tokens=24, max_probes=2))
    # Words without the last, which predicts nothing: question 2, 6 and 8; text 2 a step and 4 for the answer; probe 3, on
    # the question and at most two steps: 2 + 8 + 9 and 2 + 4 + 3; 6 + 2 + 6; 8 + 10 + 9 and 8 + 6 + 6.
    expected = LeftOut("f.jsonl:4", "e3", 0, "a", 27, 24)
    assert data.left_out() == [expected]
    assert [data.fits(i) for i in range(5)] == [[0, 1], [], [0], [1], []]
    assert (len(data), data.num_rationales, data.teachers, data.has_verdicts) == (5, 5, ("b", "a", "c"), True)
    rows = TreeDataset(written(tmp_path), TreeConfig(layout="rows", row_tokens=17, max_probes=2))
    # As rows: the question, then the longer of the text and all steps with a probe; 8 + max(10, 6 + 3).
    assert [(out.id, out.needs_tokens) for out in rows.left_out()] == [("e3", 18)]


def test_too_many_left_out_are_refused(tmp_path: Path) -> None:
    data = TreeDataset(written(tmp_path), TreeConfig(row_tokens=18, max_probes=2))
    out = data.left_out()
    assert [(o.id, o.index, o.needs_tokens) for o in out] == [("e0", 0, 19), ("e3", 0, 27), ("e3", 1, 20)]
    data.refuse_if_too_many(out, 0.6)
    data.refuse_if_too_many([], 0.0)
    with pytest.raises(DataError) as caught:
        data.refuse_if_too_many(out, 0.59)
    assert str(caught.value) == (
        "f.jsonl:1: found a rationale of b that needs 19 tokens with its question and probes (3 of 5 rationales do not fit);"
        " expected at most tree.row_tokens=18 and a share of data.max_left_out=0.59;"
        " raise tree.row_tokens, lower tree.max_probes or allow a larger share"
    )


def test_no_verdicts(tmp_path: Path) -> None:
    data = TreeDataset(written(tmp_path, [example(0, ("a", 1), ("b", 3))]), TreeConfig())
    assert not data.has_verdicts
    assert [r.verdict for r in data.record(0).rationales] == [-1, -1]
    assert np.concatenate([r.step_ends for r in data.record(0).rationales]).tolist() == [2, 2, 4, 6]
