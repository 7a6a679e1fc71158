"""Readers: the three kinds of source, and every way in which one can be wrong."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compact_ds import config as configuration
from compact_ds.data.readers import held_out, read
from compact_ds.data.records import Example, Rationale
from compact_ds.errors import ConfigError, DataError, UserError
from compact_ds.evaluation.retention import retention_sets
from compact_ds.optimizer_step.training_set import held_out_examples
from compact_ds.sections import DataConfig

DATA = Path(__file__).parents[2] / "shared" / "data"


def row(**changes: Any) -> dict[str, Any]:
    rationales = [
        {"teacher": "ann", "text": "3 + 4 = 7\nThe answer is 7"},
        {"teacher": "bob", "text": "3 * 4 = 12\nThe answer is 12", "is_correct": False},
    ]
    question = "Tim has 3 pens and buys 4 pens. How many pens has he?"
    return {"id": "q1", "question": question, "answer": "7", "rationales": rationales} | changes


def all_of(file: Path | str, *, limit: int | None = None, **settings: Any) -> list[Example]:
    return list(read(str(file), DataConfig(train=str(file), **settings), seed=0, limit=limit))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def lines(*rows: object) -> Path:
        file = tmp_path / "train.jsonl"
        file.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows), encoding="utf-8")
        return file

    return lines


def test_a_line_becomes_an_example(write: Callable[..., Path]) -> None:
    file = write("\n", row(), "  \n", row(id="q2", rationales=[]))
    first, second = all_of(file)
    assert first == Example(
        "q1",
        "Tim has 3 pens and buys 4 pens. How many pens has he?",
        "7",
        (
            Rationale("ann", ("3 + 4 = 7",), "\nThe answer is 7", None),
            Rationale("bob", ("3 * 4 = 12",), "\nThe answer is 12", False),
        ),
        f"{file}:2",
    )
    assert (second.id, second.rationales, second.where) == ("q2", (), f"{file}:4")


def test_rationales_may_be_absent_and_a_teacher_may_write_twice(write: Callable[..., Path]) -> None:
    test_line = {key: value for key, value in row(id="q2").items() if key != "rationales"}
    twice = [{"teacher": "ann", "text": "a"}, {"teacher": "ann", "text": "b"}]
    one, two = all_of(write(row(rationales=twice), test_line))
    assert [r.text for r in one.rationales] == ["a", "b"]
    assert two.rationales == ()


def test_steps_of_the_source_are_kept(write: Callable[..., Path]) -> None:
    entry = {"teacher": "ann", "text": "a. b. c. The answer is 7", "steps": ["a. b.", "c."]}
    assert all_of(write(row(rationales=[entry])))[0].rationales[0].steps == ("a. b.", " c.")


def test_fields_are_mapped(write: Callable[..., Path]) -> None:
    theirs = {"key": "q1", "question": "Q?", "gold": "7", "cots": [{"model": "ann", "cot": "a. The answer is 7"}]}
    fields = {"id": "key", "answer": "gold", "rationales": "cots", "teacher": "model", "text": "cot"}
    (example,) = all_of(write(theirs), fields=fields)
    assert (example.id, example.answer, example.rationales[0].teacher) == ("q1", "7", "ann")


def test_limit_stops_reading(write: Callable[..., Path]) -> None:
    assert [e.id for e in all_of(write(row(), row(id="q2"), "broken"), limit=2)] == ["q1", "q2"]


def test_only_the_named_teachers_are_kept(write: Callable[..., Path]) -> None:
    only_ann = row(id="q2", rationales=[{"teacher": "ann", "text": "a"}])
    kept = all_of(write(row(), only_ann), teachers=["bob"])
    assert [[r.teacher for r in e.rationales] for e in kept] == [["bob"], []]


def test_misleading_teachers_are_added_after_the_filter(write: Callable[..., Path]) -> None:
    (example,) = all_of(write(row()), teachers=["ann"], mislead=2)
    assert [r.teacher for r in example.rationales] == ["ann", "mislead-1", "mislead-2"]


def test_long_rationales_are_thinned_and_keep_their_text(write: Callable[..., Path]) -> None:
    text = "".join(f"{i} + 1 = {i + 1}\n" for i in range(100)) + "The answer is 100"
    file = write(row(rationales=[{"teacher": "ann", "text": text}]))
    assert [
        len(all_of(file, **settings)[0].rationales[0].steps) for settings in ({}, {"max_steps": 5}, {"max_steps": None})
    ] == [
        50,
        5,
        100,
    ]
    assert all_of(file, max_steps=5)[0].rationales[0].text == text


def test_reading_is_lazy(write: Callable[..., Path]) -> None:
    file = write(row(), "broken")
    assert next(read(str(file), DataConfig(train=str(file)), 0)).id == "q1"


PEN = {"teacher": "ann", "text": "a"}

BROKEN_LINES: list[tuple[object, str, str]] = [
    ('{"id": 1,\n', '{"id": 1,', "JSON"),
    ("[" * 100_000 + "\n", "[[[", "JSON"),
    ("[1]\n", "list", "JSON object"),
    (row(id=3), "'id': 3 (int)", "text"),
    (row(question=None), "'question': None", "text"),
    (row(question=" "), "empty 'question'", "not blank"),
    (row(answer=""), "empty 'answer'", "not blank"),
    (row(answer="\ud800"), "surrogate", "Unicode"),
    ({"id": "x", "question": "q"}, "no field 'answer'", "data.fields.answer="),
    ({"id": "x", "problem": "q"}, "no field 'question'", "convert the source first (compact-ds data import)"),
    (row(rationales={"ann": "a"}), "'rationales'", "list of objects"),
    (row(rationales=["a"]), "'rationales': 'a' (str)", "object with teacher"),
    (row(rationales=[{"text": "a"}]), "no field 'teacher'", "data.fields.teacher="),
    (row(rationales=[PEN | {"teacher": "an\n安"}]), r"teacher 'an\n安'", "a name without control characters"),
    (row(rationales=[PEN | {"teacher": "\x1b[31m"}]), r"teacher '\x1b[31m'", "a name without control characters"),
    (row(rationales=[PEN | {"text": "\n"}]), "empty 'text'", "not blank"),
    (row(rationales=[PEN | {"text": ["a"]}]), "'text': ['a'] (list)", "text"),
    (row(rationales=[PEN | {"is_correct": "yes"}]), "'is_correct'", "true or false"),
    (row(rationales=[PEN | {"steps": "a"}]), "'steps'", "list of strings"),
    (row(rationales=[PEN | {"steps": ["b"]}]), "teacher ann: step 1 ('b')", "in order"),
    (row(), "q1", "an id that"),
]


@pytest.mark.parametrize(("line", "found", "expected"), BROKEN_LINES)
def test_a_broken_line_is_named(write: Callable[..., Path], line: object, found: str, expected: str) -> None:
    file = write(row(), "\n", line)
    with pytest.raises(DataError) as error:
        all_of(file)
    message = str(error.value)
    assert message.startswith(f"{file}:3: ")
    assert found in message
    assert expected in message
    assert "\n" not in message


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    file = tmp_path / "latin.jsonl"
    file.write_bytes(b'{"id": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"latin\.jsonl:1: found byte 0xe9; .*UTF-8"):
        all_of(file)


def test_a_byte_order_mark_is_no_part_of_the_first_line(write: Callable[..., Path]) -> None:
    file = write(row(), row(id="q2"))
    plain = all_of(file)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert all_of(file) == plain


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("my data.jsonl.gz", gzip.compress(json.dumps(row()).encode()), "a .gz file"),
        ("my data.csv", b"id,question\n", "a .csv file"),
        ("my data.json", json.dumps([row()], indent=1).encode(), "a list, where a line is to be an object"),
        ("my data.jsonl", json.dumps([row()]).encode(), "a list, where a line is to be an object"),
    ],
)
def test_a_form_that_only_import_reads_is_refused_with_the_command(
    tmp_path: Path, name: str, content: bytes, found: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataError) as raised:
        all_of(file)
    command = f"compact-ds data import '{file}' --output 'my data-lines.jsonl'"
    expected = "one JSON object a line, UTF-8, not compressed"
    assert str(raised.value) == f"{file}: found {found}; expected {expected}; convert it: {command}"


def test_an_empty_file_is_refused(write: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="no questions"):
        all_of(write("\n"))


def test_a_missing_file_is_refused_with_the_nearest_name(write: Callable[..., Path]) -> None:
    file = write(row())
    with pytest.raises(DataError, match=r"no such file.*did you mean 'train\.jsonl'"):
        all_of(file.with_name("trian.jsonl"))
    with pytest.raises(DataError, match="check the path"):
        all_of("/nowhere/at/all.jsonl")


def test_an_unknown_field_of_the_map_is_refused(write: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r"data\.fields: found anwser; .*did you mean 'answer'"):
        all_of(write(row()), fields={"anwser": "gold"})


def test_an_unknown_teacher_is_refused_with_the_nearest_name(write: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r"data\.teachers: found anne; .*did you mean 'ann'"):
        all_of(write(row()), teachers=["anne"])


def test_held_out_questions_need_not_have_the_named_teachers(write: Callable[..., Path]) -> None:
    data = DataConfig(train="other.jsonl", teachers=["anne"])
    assert [e.rationales for e in read(str(write(row())), data, 0)] == [()]


def test_misleading_no_question_is_refused(write: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r"data\.mislead: found 2; .*data\.mislead=0"):
        all_of(write(row(question="How many pens?")), mislead=2)


def test_a_saved_dataset_reads_like_its_file(tmp_path: Path, write: Callable[..., Path]) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is a dependency of the package")
    rows = [row(), row(id="q2")]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"dev": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "several")
    from_file = all_of(write(*rows))
    for folder, split in (("one", "train"), ("several", "dev")):
        found = all_of(tmp_path / folder, split=split)
        assert [(e.id, e.question, e.answer, e.rationales) for e in found] == [
            (e.id, e.question, e.answer, e.rationales) for e in from_file
        ]
        assert found[1].where == f"{tmp_path / folder}[{split}]:2"
    with pytest.raises(DataError, match=r"KeyError.*'test' is none of dev.*data\.split"):
        all_of(tmp_path / "several", split="test")


def test_held_out_questions_are_of_their_own_split(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is a dependency of the package")
    one, both, other = tmp_path / "one", tmp_path / "both", tmp_path / "other"
    train = datasets.Dataset.from_list([row(id="trained")])
    test = datasets.Dataset.from_list([row(id="tested", answer="A", rationales=[], question="3 plus 4 ? A: 7 B: 5")])
    test.save_to_disk(one)
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(both)
    datasets.DatasetDict({"train": train, "dev": test}).save_to_disk(other)

    def ids(source: Path, *settings: str) -> list[str]:
        given = [f"data.train={both}", f"data.eval={source}", "data.teachers=[ann]", *settings]
        return [e.id for e in held_out_examples(configuration.load("arithmetic", given))]

    assert [e.id for e in all_of(both)] == ["trained"]
    # A teacher that only the training questions have is no mistake of the held-out ones.
    assert ids(both) == ids(one) == ids(other, "data.eval_split=dev") == ["tested"]
    assert ids(both, "data.eval_split=train") == ["trained"]
    with pytest.raises(DataError, match=r"'test' is none of train, dev.*data\.eval_split"):
        ids(other)
    with pytest.raises(DataError, match=r"'test' is none of train, dev.*data\.eval_split"):
        retention_sets([str(other)], None)
    assert [e.id for k in retention_sets([str(other)], None, "dev") for e in k.questions] == ["tested"]


def test_a_folder_that_datasets_can_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "pens"
    folder.mkdir()
    (folder / "train.jsonl").write_text(json.dumps(row()) + "\n", encoding="utf-8")
    assert [e.id for e in all_of(folder)] == ["q1"]
    with pytest.raises(DataError, match=r"data\.split"):
        all_of(folder, split="nowhere")


def test_built_in_tasks() -> None:
    train = all_of("task:arithmetic", limit=5)
    held = list(read("task:arithmetic:eval", DataConfig(train="task:arithmetic"), 0))
    assert [len(e.rationales) for e in train] == [3] * 5
    assert not {e.question for e in held} & {e.question for e in all_of("task:arithmetic")}
    with pytest.raises(UserError, match="did you mean 'arithmetic'"):
        all_of("task:arithmetics")


def test_where_the_held_out_questions_are() -> None:
    assert held_out(DataConfig(train="task:arithmetic")) == "task:arithmetic:eval"
    assert held_out(DataConfig(train="task:arithmetic", eval="test.jsonl")) == "test.jsonl"
    assert held_out(DataConfig(train="train.jsonl", eval="test.jsonl")) == "test.jsonl"
    assert held_out(DataConfig(train="train.jsonl")) is None


@pytest.mark.skipif(not DATA.is_dir(), reason="the development data is not beside this checkout")
@pytest.mark.parametrize(
    ("file", "questions", "rationales"),
    [("svamp/train", 500, 1500), ("gsm8k_gpt3/train", 900, 3600), ("commonsenseqa/test", 1221, 0)],
)
def test_development_data(file: str, questions: int, rationales: int) -> None:
    found = all_of(DATA / f"{file}.jsonl")
    assert (len(found), sum(len(e.rationales) for e in found)) == (questions, rationales)
