"""From files in other people's shape to the project's: questions with the rationales of all their teachers side by side.

Owns the shapes: the schema under other names, one rationale a row, chat messages, lists of generations, and one file a teacher
that is joined on the question. Reading rows is `tables`' concern. Questions are joined by `id` where both sides have one, else by
their words, white space and case aside; what did not join is counted and listed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from compact_ds.data.answers import final_answer
from compact_ds.data.cells import gold_answer, message_text, verdict
from compact_ds.data.tables import rows
from compact_ds.errors import DataError, UserError, nearest

Shape = Literal["auto", "schema", "flat", "chat", "generations"]
SHAPES: tuple[Shape, ...] = ("auto", "schema", "flat", "chat", "generations")
ROLES = ("id", "question", "answer", "teacher", "text", "rationales", "messages", "generations", "is_correct")
"""What a field of a source can be; `--field ROLE=NAME` names it."""

_SOLUTION = "solution"
"""A worked solution by its name: its conclusion is the gold answer, unless the user names it as the answer itself."""

_USUAL: dict[str, tuple[str, ...]] = {
    "id": ("id", "uuid", "question_id", "problem_id"),
    "question": ("question", "problem", "prompt", "instruction", "query", "input"),
    "answer": ("answer", "gold", "gold_answer", "final_answer", "target", _SOLUTION),
    "teacher": ("teacher", "model", "generator", "source_model"),
    "text": ("text", "rationale", "response", "completion", "output", "reasoning", "generation"),
    "rationales": ("rationales",),
    "messages": ("messages", "conversations", "conversation", "chat"),
    "generations": ("generations", "responses", "completions", "samples"),
    "is_correct": ("is_correct", "correctness", "correctness_math_verify", "correct", "verified"),
}


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or a `datasets` path or id; `teacher` wrote it all where no field says who did."""

    path: str
    teacher: str | None = None


@dataclass(slots=True)
class Report:
    """What came of an import.

    `unjoined` lists questions that the later sources have and the first one lacks, `blank` the rows of rationales without a word.
    """

    questions: int = 0
    rationales: Counter[str] = field(default_factory=Counter)
    doubled: int = 0
    without_answer: list[str] = field(default_factory=list)
    unjoined: list[str] = field(default_factory=list)
    blank: list[str] = field(default_factory=list)
    missing: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Question:
    id: str
    question: str
    answer: str | None
    rationales: list[dict[str, Any]] = field(default_factory=list)
    where: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """How rows are read: their shape, names of fields by role, and whether gold answers are cut out of other fields
    than `solution` too."""

    shape: Shape = "auto"
    names: Mapping[str, str] = field(default_factory=dict)
    extracts_answer: bool = False
    split: str = "train"


def run(sources: list[Source], output: Path, settings: Settings) -> Report:
    """Read all sources, join them, and write `output` in the project's schema; what did not join goes to `OUTPUT.unjoined.jsonl`.

    With several sources the first one says which questions there are. Raises UserError and DataError.
    """
    for role in settings.names:
        if role not in ROLES:
            raise UserError("--field", role, "a role", nearest(role, ROLES))
    output.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, _Question] = {}
    report = Report()
    for number, source in enumerate(sources):
        _read(source, settings, found, report, joins=number > 0)
    teachers = sorted(report.rationales)
    lines = []
    for question in found.values():
        if not question.answer:
            report.without_answer.append(question.where)
            continue
        have = {rationale["teacher"] for rationale in question.rationales}
        report.missing.update(t for t in teachers if t not in have)
        row = {"id": question.id, "question": question.question, "answer": question.answer}
        lines.append(json.dumps(row | {"rationales": question.rationales}, ensure_ascii=False) + "\n")
    report.questions = len(lines)
    output.write_text("".join(lines), encoding="utf-8")
    beside = output.with_name(output.name + ".unjoined.jsonl")
    listed = [
        {"where": w, "reason": "no gold answer, or a solution without a conclusion"} for w in report.without_answer
    ]
    listed += [{"where": w, "reason": f"not a question of {sources[0].path}"} for w in report.unjoined]
    listed += [{"where": w, "reason": "a rationale without a word"} for w in report.blank]
    beside.write_text("".join(json.dumps(row) + "\n" for row in listed), encoding="utf-8")
    return report


def _read(source: Source, settings: Settings, found: dict[str, _Question], report: Report, joins: bool) -> None:
    by_words = {_words(q.question): key for key, q in found.items()} if joins else {}
    for where, row in tqdm(rows(source.path, settings.split), desc=Path(source.path).name, unit="row"):
        shape = _shape(row, settings)
        question, key = _question(row, shape, settings, where)
        key = key if key in found else by_words.get(_words(question.question), key) if joins else key
        if joins and key not in found:
            report.unjoined.append(where)
            continue
        kept = found.setdefault(key, question)
        if kept is not question and _words(kept.question) != _words(question.question):
            expected = f"the question that {kept.where} has under the id {kept.id!r}"
            raise DataError(where, question.question[:100], expected, "give every question its own id")
        kept.answer = kept.answer or question.answer
        for rationale in _rationales(row, shape, source, settings, where):
            if not rationale["text"].strip():
                report.blank.append(where)
                continue
            same = any(o["teacher"] == rationale["teacher"] and o["text"] == rationale["text"] for o in kept.rationales)
            if same:
                report.doubled += 1
                continue
            kept.rationales.append(rationale)
            report.rationales[rationale["teacher"]] += 1


def _shape(row: Mapping[str, Any], settings: Settings) -> Shape:
    if settings.shape != "auto":
        return settings.shape
    for shape, role in (("schema", "rationales"), ("chat", "messages"), ("generations", "generations")):
        if _name(row, role, settings) is not None:
            return shape  # type: ignore[return-value]
    return "flat"


def _question(row: Mapping[str, Any], shape: Shape, settings: Settings, where: str) -> tuple[_Question, str]:
    if shape == "chat":
        asked = [message for message in _messages(row, settings, where) if message[0] == "user"]
        if not asked:
            raise DataError(where, "no message of a user", "a question", "check --field messages=NAME")
        if len(asked) > 1:
            # The last reply answers the last of them, which the words of the first are not.
            expected = "one question, which the last message of the assistant answers"
            raise DataError(where, f"{len(asked)} messages of a user", expected, "keep one turn of the conversation")
        text = asked[0][1]
    else:
        text = _text(row, "question", settings, where)
    name = _name(row, "answer", settings)
    answer = None if name is None else gold_answer(row[name], where)
    if answer and name == _SOLUTION and "answer" not in settings.names:
        answer = final_answer(answer)
    elif answer and settings.extracts_answer:
        answer = final_answer(answer) or answer
    named = _name(row, "id", settings)
    own = str(row[named]) if named is not None and row[named] is not None else None
    stem, _, number = where.rpartition(":")
    made = _Question(own or f"{Path(stem).stem}-{number}", text, answer, where=where)
    # A row that is one of several for its question has an id of its own, unless the user says that it is the question's.
    is_rows_own = shape == "flat" and "id" not in settings.names
    return made, _words(text) if own is None or is_rows_own else own


def _rationales(
    row: Mapping[str, Any], shape: Shape, source: Source, settings: Settings, where: str
) -> Iterator[dict[str, Any]]:
    name = _name(row, "is_correct", settings)
    verdicts = row[name] if name is not None else None
    is_sure = name == "is_correct" or "is_correct" in settings.names
    if shape == "schema":
        for number, entry in enumerate(_listed(row, "rationales", settings, where), start=1):
            yield _entry(entry, f"{where}: rationale {number}")
        return
    if shape == "chat":
        texts: Iterable[Any] = [text for role, text in _messages(row, settings, where) if role == "assistant"][-1:]
    elif shape == "generations":
        texts = _listed(row, "generations", settings, where)
    elif _name(row, "text", settings) is None and source.teacher is None:
        texts = ()  # questions alone, for other sources to join
    else:
        texts = [row[_required(row, "text", settings, where)]]
    for number, text in enumerate(texts):
        if text is not None and not isinstance(text, str):
            role = "generations" if shape == "generations" else "text"
            raise DataError(where, f"{text!r:.60}", "a rationale as text", f"check --field {role}=NAME")
        given = verdicts[number] if isinstance(verdicts, list) and number < len(verdicts) else verdicts
        judged = verdict(given, is_sure, where)
        kept = {"teacher": _teacher(row, source, settings, where), "text": text or ""}
        yield kept | ({} if judged is None else {"is_correct": judged})


def _entry(entry: Any, where: str) -> dict[str, Any]:
    """A rationale in the schema's own shape, without what the schema has no name for."""
    given = entry if isinstance(entry, Mapping) else {}
    lacking = [name for name in ("teacher", "text") if not isinstance(given.get(name), str)]
    if lacking:
        expected = f"an object with `teacher` and `text` as text, not without `{lacking[0]}`"
        raise DataError(where, f"{entry!r:.80}", expected, "complete it or delete it")
    kept = {"teacher": given["teacher"], "text": given["text"]}
    judged = verdict(given.get("is_correct"), True, where)
    kept |= {} if judged is None else {"is_correct": judged}
    return kept | ({} if given.get("steps") is None else {"steps": given["steps"]})


def _messages(row: Mapping[str, Any], settings: Settings, where: str) -> list[tuple[str, str]]:
    """(role, text) of what user and assistant said."""
    found = []
    for message in _listed(row, "messages", settings, where):
        if not isinstance(message, Mapping):
            raise DataError(where, f"{message!r:.80}", "a message as an object", "check --field messages=NAME")
        sender: Any = message.get("from")
        role = message.get("role") or {"human": "user", "gpt": "assistant"}.get(sender, sender)
        if role in ("user", "assistant"):
            found.append((role, message_text(message.get("content") or message.get("value") or "", where)))
    return found


def _teacher(row: Mapping[str, Any], source: Source, settings: Settings, where: str) -> str:
    name = _name(row, "teacher", settings)
    teacher = source.teacher or (str(row[name]) if name is not None and row[name] else None)
    if not teacher:
        raise DataError(where, "no teacher", "who wrote the rationale", "write TEACHER=FILE, or --field teacher=NAME")
    return teacher


def _text(row: Mapping[str, Any], role: str, settings: Settings, where: str) -> str:
    value = row[_required(row, role, settings, where)]
    if not isinstance(value, str) or not value.strip():
        raise DataError(where, f"{value!r:.60}", f"the {role} as text", f"check --field {role}=NAME")
    return value


def _listed(row: Mapping[str, Any], role: str, settings: Settings, where: str) -> Sequence[Any]:
    value = row[_required(row, role, settings, where)]
    if value is not None and not isinstance(value, list | tuple):
        raise DataError(where, f"{value!r:.60}", f"the {role} as a list", f"check --field {role}=NAME")
    return value or ()


def _required(row: Mapping[str, Any], role: str, settings: Settings, where: str) -> str:
    name = _name(row, role, settings)
    if name is None:
        found = f"the fields {', '.join(map(str, row))}"
        raise DataError(where, found, f"one for the {role}", f"name it: --field {role}=NAME")
    return name


def _name(row: Mapping[str, Any], role: str, settings: Settings) -> str | None:
    if role in settings.names:
        return settings.names[role] if settings.names[role] in row else None
    return next((name for name in _USUAL[role] if name in row), None)


def _words(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().casefold()
