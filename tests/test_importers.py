"""Imports of the shapes that people have, in the forms that they keep them, joined on the question."""

import bz2
import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from compact_ds.data.importers import Report, Settings, Source, run
from compact_ds.data.readers import read
from compact_ds.data.records import Example
from compact_ds.data.tables import rows
from compact_ds.errors import DataError, UserError
from compact_ds.sections import DataConfig

FLAT = [
    {"question": "What is 1 + 1 ?", "answer": "2", "model": "ada", "response": "1 + 1 = 2\nThe answer is 2"},
    {"question": "What is 2 + 2 ?", "answer": "4", "model": "ada", "response": "The answer is 4"},
    {"question": "what is  1 + 1 ?", "answer": "2", "model": "ben", "response": "The answer is 3"},
]

ADA = {"teacher": "ada", "text": "The answer is 1"}
SCHEMA = {"id": "a", "question": "q", "answer": "1", "rationales": [ADA]}


def write(file: Path, listed: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in listed)
    if file.name.endswith(".jsonl"):
        file.write_text(text, encoding="utf-8")
    elif file.name.endswith(".json"):
        file.write_text(json.dumps({"version": 1, "tags": [], "data": listed}), encoding="utf-8")
    elif file.name.endswith(".gz"):
        file.write_bytes(gzip.compress(text.encode()))
    elif file.name.endswith(".bz2"):
        file.write_bytes(bz2.compress(text.encode()))
    elif file.name.endswith(".zst"):
        file.write_bytes(pa.compress(text.encode(), codec="zstd", asbytes=True))
    elif file.name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(listed), file)
    else:
        with file.open("w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(stream, listed[0].keys(), delimiter="\t" if file.suffix == ".tsv" else ",")
            table.writeheader()
            table.writerows(listed)
    return file


FORMS = ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.zst"]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, FLAT)
    assert [dict(row) for _, row in rows(str(file))] == FLAT
    assert all(where.startswith(f"{file}:") for where, _ in rows(str(file)))


def imported(tmp_path: Path, sources: list[Source], **settings: Any) -> tuple[Report, list[Example]]:
    report = run(sources, tmp_path / "out.jsonl", Settings(**settings))
    data = DataConfig(train=str(tmp_path / "out.jsonl"))
    return report, list(read(data.train, data, 0))


def test_one_rationale_a_row_becomes_one_question_with_its_teachers(tmp_path: Path) -> None:
    file = write(tmp_path / "flat.csv", FLAT)
    report, found = imported(tmp_path, [Source(str(file))])
    assert [(e.question, [r.teacher for r in e.rationales]) for e in found] == [
        ("What is 1 + 1 ?", ["ada", "ben"]),
        ("What is 2 + 2 ?", ["ada"]),
    ]
    assert found[0].rationales[0].text == FLAT[0]["response"]
    assert report.questions == 2 and dict(report.rationales) == {"ada": 2, "ben": 1} and report.missing == {"ben": 1}


def test_a_row_of_its_own_id_joins_by_the_question_and_a_named_one_by_the_id(tmp_path: Path) -> None:
    listed = [{"id": f"r{i}", "qid": row["answer"], **row} for i, row in enumerate(FLAT)]
    file = write(tmp_path / "flat.jsonl", listed)
    assert [e.id for e in imported(tmp_path, [Source(str(file))])[1]] == ["r0", "r1"]
    assert [e.id for e in imported(tmp_path, [Source(str(file))], names={"id": "qid"})[1]] == ["2", "4"]


def test_chat_messages(tmp_path: Path) -> None:
    chat = [
        {"id": 7, "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q ?"},
                               {"role": "assistant", "content": "so\nThe answer is 5"}], "answer": 5},
        {"id": 8, "conversations": [{"from": "human", "value": "p ?"}, {"from": "gpt", "value": "The answer is 6"}],
         "answer": "6"},
    ]  # fmt: skip
    file = write(tmp_path / "chat.jsonl", chat)
    _, found = imported(tmp_path, [Source(str(file), "gpt-4o")])
    assert [(e.id, e.question, e.answer, e.rationales[0].teacher) for e in found] == [
        ("7", "q ?", "5", "gpt-4o"), ("8", "p ?", "6", "gpt-4o"),
    ]  # fmt: skip
    assert found[0].rationales[0].steps == ("so",)


def test_a_message_in_parts_is_the_text_of_its_parts(tmp_path: Path) -> None:
    """As OpenAI's files have it, and as Parquet gives it back, with a None for what other parts have."""
    asked = [{"type": "text", "text": "1 + 1 ", "image_url": None}, {"type": "text", "text": "= ?", "image_url": None}]
    chat = [{"answer": "2", "messages": [
        {"role": "system", "content": None}, {"role": "user", "content": asked},
        {"role": "assistant", "content": [{"type": "text", "text": "The answer is 2", "image_url": None}]},
    ]}]  # fmt: skip
    for name in ("chat.jsonl", "chat.parquet"):
        _, found = imported(tmp_path, [Source(str(write(tmp_path / name, chat)), "ada")])
        assert (found[0].question, found[0].rationales[0].text) == ("1 + 1 = ?", "The answer is 2"), name


def test_lists_of_generations_with_their_verdicts(tmp_path: Path) -> None:
    listed = [{
        "problem": "p ?", "solution": "long text\n#### 12", "uuid": "u1",
        "generations": ["The answer is 12", "The answer is 1", ""],
        "correctness_math_verify": [True, False, False],
    }]  # fmt: skip
    file = write(tmp_path / "r1.parquet", listed)
    report, found = imported(tmp_path, [Source(str(file), "r1")])
    assert found[0].answer == "12" and found[0].id == "u1"
    assert [(r.text, r.is_correct) for r in found[0].rationales] == [
        ("The answer is 12", True),
        ("The answer is 1", False),
    ]
    assert report.rationales == {"r1": 2}


def test_the_gold_answer_of_a_worked_solution_is_its_conclusion(tmp_path: Path) -> None:
    solutions = ["We add one and one. So it is $\\boxed{2}$.", "We add, and that is all."]
    listed = [
        {"problem": f"p {i} ?", "solution": solution, "model": "ada", "generation": "The answer is 2"}
        for i, solution in enumerate(solutions)
    ]
    file = write(tmp_path / "r1.jsonl", listed)
    report, found = imported(tmp_path, [Source(str(file))])
    assert [e.answer for e in found] == ["2"] and report.without_answer == [f"{file}:2"]
    assert "without a conclusion" in (tmp_path / "out.jsonl.unjoined.jsonl").read_text()
    report, found = imported(tmp_path, [Source(str(file))], names={"answer": "solution"})
    assert [e.answer for e in found] == solutions and report.without_answer == []
    _, found = imported(tmp_path, [Source(str(file))], names={"answer": "solution"}, extracts_answer=True)
    assert [e.answer for e in found] == ["2", solutions[1]]


def test_one_file_a_teacher_is_joined_and_what_does_not_join_is_listed(tmp_path: Path) -> None:
    questions = write(
        tmp_path / "q.jsonl",
        [{"id": "a", "question": "A ?", "answer": "1"}, {"id": "b", "question": "B ?", "answer": "2"}],
    )
    ada = write(tmp_path / "ada.jsonl", [{"id": "a", "question": "A ?", "text": "The answer is 1"},
                                         {"id": "z", "question": "Z ?", "text": "The answer is 9"}])  # fmt: skip
    ben = write(tmp_path / "ben.csv", [{"question": "b ?", "text": "The answer is 2"}])
    report, found = imported(tmp_path, [Source(str(questions)), Source(str(ada), "ada"), Source(str(ben), "ben")])
    assert {e.id: [r.teacher for r in e.rationales] for e in found} == {"a": ["ada"], "b": ["ben"]}
    assert report.unjoined == [f"{ada}:2"] and report.missing == {"ada": 1, "ben": 1}
    listed = [json.loads(line) for line in (tmp_path / "out.jsonl.unjoined.jsonl").read_text().splitlines()]
    assert listed == [{"where": f"{ada}:2", "reason": f"not a question of {questions}"}]


def test_doubles_are_counted_and_questions_without_an_answer_listed(tmp_path: Path) -> None:
    file = write(tmp_path / "flat.jsonl", [*FLAT, FLAT[0], {**FLAT[0], "question": "New ?", "answer": ""}])
    report, found = imported(tmp_path, [Source(str(file))])
    assert report.doubled == 1 and len(found) == 2 and report.without_answer == [f"{file}:5"]


@pytest.mark.parametrize(
    ("listed", "settings", "words"),
    [
        ([{"question": "q", "answer": "1", "text": "t"}], {}, "TEACHER=FILE"),
        ([{"q": "q", "answer": "1", "text": "t"}], {}, "--field question=NAME"),
        ([{"question": 3, "answer": "1", "text": "t"}], {}, "the question as text"),
        (
            [SCHEMA, {**SCHEMA, "id": "b", "rationales": [ADA, {"text": "t"}]}], {},
            "flat.jsonl:2: rationale 2: .*not without `teacher`",
        ),
        ([{**SCHEMA, "rationales": [{"teacher": "ada"}]}], {}, "flat.jsonl:1: rationale 1: .*not without `text`"),
        ([{**SCHEMA, "rationales": [None]}], {}, "flat.jsonl:1: rationale 1: found None"),
        ([{**SCHEMA, "rationales": "text"}], {}, "flat.jsonl:1: found 'text'; expected the rationales as a list"),
        ([{"question": "q", "answer": "1", "generations": "t"}], {}, "the generations as a list"),
        (
            [{"question": "q", "answer": "1", "model": "ada", "generations": [{"text": "t"}]}], {},
            "flat.jsonl:1: found {'text': 't'}; expected a rationale as text; check --field generations=NAME",
        ),
        ([{"answer": "1", "messages": ["hello"]}], {}, "a message as an object"),
        (
            [{"answer": "1", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "data:"}]}]}], {},
            "found {'type': 'image_url', 'image_url': 'data:'}; expected a message of text alone",
        ),
        (
            [{"answer": "1", "messages": [{"role": role, "content": "c"} for role in ("user", "assistant") * 2]}], {},
            "flat.jsonl:1: found 2 messages of a user; expected one question",
        ),
        ([{"id": "a", "question": "one", "rationales": []}, {"id": "a", "question": "two", "rationales": []}], {}, "own id"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_names_line_and_remedy(
    tmp_path: Path, listed: list[dict[str, Any]], settings: dict[str, Any], words: str
) -> None:
    file = write(tmp_path / "flat.jsonl", listed)
    with pytest.raises(DataError, match=words) as error:
        imported(tmp_path, [Source(str(file))], **settings)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("3", "int"), ("null", "NoneType"), ('"a"', "str"), ('{"a": 1}', "an object in which nothing lists objects"),
        ('{"a": [{}], "tags": ["b"], "c": [{}]}', "an object in which 'a' and 'c' lists objects"),
    ],
)  # fmt: skip
def test_a_json_file_without_a_list_is_refused(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"a\.json: found {found}; expected a list of objects"):
        list(rows(str(tmp_path / "a.json")))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "a.csv", 'question,text\n"q, r",t,\nq,"One, two.\nSo"\nq,We add, and so on.\n',
            r"a\.csv:5: found 3 cells, the last ' and so on\.'; expected 2, as the header has; put quotes around",
        ),
        ("a.csv", "question;text\nq;t\n", r"a\.csv:1: found one field, 'question;text'; .* save it with commas"),
        ("a.tsv", "question,text\nq,t\n", r"a\.tsv:1: found one field, 'question,text'"),
    ],
)  # fmt: skip
def test_a_table_cut_at_other_places_than_meant_is_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        list(rows(str(tmp_path / name)))


def test_an_output_in_a_new_folder(tmp_path: Path) -> None:
    output = tmp_path / "new" / "deep" / "out.jsonl"
    run([Source(str(write(tmp_path / "flat.jsonl", FLAT)))], output, Settings())
    assert len(output.read_text().splitlines()) == 2 and output.with_name("out.jsonl.unjoined.jsonl").read_text() == ""


def test_broken_files_and_unknown_roles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text('{"a": 1}\n{"a": \n', encoding="utf-8")
    with pytest.raises(DataError, match=r"broken\.jsonl:2"):
        list(rows(str(tmp_path / "broken.jsonl")))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="Parquet"):
        list(rows(str(tmp_path / "broken.parquet")))
    (tmp_path / "list.json").write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(DataError, match="an object"):
        list(rows(str(tmp_path / "list.json")))
    (tmp_path / "what.xyz").write_text("?", encoding="utf-8")
    with pytest.raises(DataError, match="rename"):
        list(rows(str(tmp_path / "what.xyz")))
    with pytest.raises(DataError, match="no such file"):
        list(rows(str(tmp_path / "nowhere.csv")))
    with pytest.raises(UserError, match="did you mean 'question'"):
        run([Source("x.jsonl")], tmp_path / "o", Settings(names={"questoin": "q"}))


def test_blank_rationales_are_left_out_counted_and_listed_in_every_shape(tmp_path: Path) -> None:
    """The schema refuses one, so an import that kept it wrote a file that nothing reads."""
    asked = {"question": "q", "answer": "1"}
    blank = [{"role": "user", "content": "q"}, {"role": "assistant", "content": None}]
    listed: dict[str, dict[str, Any]] = {
        "schema": {"rationales": [ADA, {"teacher": "ben", "text": " "}]},
        "generations": {"generations": ["The answer is 1", None], "model": "ada"},
        "flat": {"model": "ada", "response": ""},
        "chat": {"messages": blank, "model": "ada"},
    }
    for shape, row in listed.items():
        file = write(tmp_path / f"{shape}.jsonl", [asked | row])
        report, found = imported(tmp_path, [Source(str(file))])
        kept = 1 if shape in ("schema", "generations") else 0
        assert (len(found[0].rationales), dict(report.rationales)) == (kept, {"ada": kept} if kept else {}), shape
        assert report.blank == [f"{file}:1"], shape
        written = json.loads((tmp_path / "out.jsonl.unjoined.jsonl").read_text())
        assert written == {"where": f"{file}:1", "reason": "a rationale without a word"}
