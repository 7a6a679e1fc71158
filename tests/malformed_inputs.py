"""Inputs that are wrong in some way: settings, files of questions, checkpoints.

Owns what is wrong with each. Every one of them must be refused with one line; `measure_malformed` sees to that.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from compact_ds.engine import manifest
from compact_ds.engine.manifest import FileFacts, Manifest
from compact_ds.sections import Config

Change = Callable[[dict[str, Any]], object]

BROKEN_YAML = [
    "run_dir: [x", "a: b: c", "\t- x", "run_dir: 'x", "- a\n- b", "just words", "{", "? :", "!!python/object:os.system x",
    "run_dir: x\nmax_steps: &a [*a]", "\x00\x01", "run_dir: \x07",
]  # fmt: skip
"""Whole files that are no mapping, or no YAML."""

LINE = {
    "id": "q1",
    "question": "What is 2 plus 3?",
    "answer": "5",
    "rationales": [{"teacher": "ada", "text": "2 plus 3 is 5.\nThe answer is 5"}],
}


def wrong_settings() -> list[tuple[str, list[str]]]:
    """(what is wrong, overrides of `arithmetic`), several for every setting, by its type and bounds."""
    schema = Config.model_json_schema()
    found = [(f"{key}={value}", [f"{key}={value}"]) for key, leaf in _leaves(schema, schema) for value in _wrong(leaf)]
    unknown = [f"{key.rpartition('.')[0]}.nonsense" for key, _ in _leaves(schema, schema) if "." in key]
    found += [(f"{key}=1", [f"{key}=1"]) for key in sorted(set(unknown))]
    words = ["max_steps", "=3", "optimizer=3", "optimizer.lr.x=1", "data=[]", "optimizer.lr=[", "student.scratch=null"]
    words += [
        "method=single:",
        "method=single:nobody",
        "method=compct",
        "data.train=task:nothing",
        "data.train=absent.jsonl",
    ]
    words += [
        "data.batch_size=1000000",
        "student.model=/nowhere",
        "student.tokenizer=/nowhere",
        "data.teachers=[nobody]",
    ]
    words += ["engine.deepspeed=absent.json", "student.scratch.hidden_size=33", "student.scratch.num_attention_heads=7"]
    words += [
        "student.scratch.family=unheard",
        "tree.row_tokens=8",
        "mixer.solver=pcgrad",
        "student.tokenizer=task:nothing",
    ]
    words += ["data.fields={nonsense: x}", "mixer.groups={a: [nobody]}", "student.lora={target_modules: [nothing]}"]
    return found + [(word, [word]) for word in words]


def wrong_lines() -> Iterator[tuple[str, bytes]]:
    """(what is wrong, content of a JSONL file that has it in its second line, or as a whole)."""
    fine = json.dumps(LINE)
    values: list[Any] = [None, 5, "", "  ", [], {"a": 1}, True, "\ud800"]
    for name in ("id", "question", "answer"):
        yield f"no {name}", _file(fine, _changed(_without(name)))
        for value in values:
            yield f"{name} is {value!r}", _file(fine, _changed(_with(name, value)))
    for value in (5, "text", {"a": 1}, True, [5], ["text"], [None], [[]]):
        yield f"rationales is {value!r}", _file(fine, _changed(_with("rationales", value)))
    for name in ("teacher", "text"):
        yield f"a rationale without {name}", _file(fine, _changed(_of_rationale(_without(name))))
        for value in (None, 5, "", "\n", [], {}, False, "\udfff"):
            yield (
                f"{name} is {value!r}",
                _file(fine, _changed(_of_rationale(_with(name, value)))),
            )
    for value in ("yes", 1, [], {}):
        yield (
            f"is_correct is {value!r}",
            _file(fine, _changed(_of_rationale(_with("is_correct", value)))),
        )
    for value in ("a", 5, [5], [["a"]], ["not in the text"]):
        yield f"steps is {value!r}", _file(fine, _changed(_of_rationale(_with("steps", value))))
    yield "an id twice", _file(fine, fine)
    second = json.dumps(LINE | {"id": "q2"})
    for place in (1, len(second) // 3, len(second) // 2, len(second) - 2):
        yield f"cut after {place} characters", _file(fine, second[:place])
    for text in ("[]", "5", "null", "NaN", "{", "}", '"q2"', "{'id': 'q2'}", "{} {}", second + second, "[" * 100_000):
        yield f"a line {text[:12]!r}", _file(fine, text)
    for raw in (b"\xff\xfe", b"\x80abc", fine.encode("utf-16"), b"\x00" * 20, b"PK\x03\x04", b"\x1f\x8b\x08"):
        yield f"bytes {raw[:4]!r}", fine.encode() + b"\n" + raw + b"\n"
    yield "empty", b""
    yield "blank lines", b"\n\n  \n"
    yield "no rationale at all", _file(json.dumps({k: LINE[k] for k in ("id", "question", "answer")}))


def wrong_checkpoints(folder: Path, draw: random.Random, flips: int) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """(what is wrong, what to do to a copy of the whole checkpoint `folder`)."""
    files = sorted(path.name for path in folder.iterdir())
    for name in files:
        size = (folder / name).stat().st_size
        for _ in range(flips):
            place, bit = draw.randrange(size), 1 << draw.randrange(8)
            yield f"{name}: a bit of byte {place} flipped", partial(_flip, name=name, place=place, bit=bit)
        for cut in (0, 1, draw.randrange(size), size - 1):
            yield f"{name}: cut to {cut} bytes", partial(_cut, name=name, size=cut)
        yield f"{name}: missing", partial(_remove, name=name)
        yield f"{name}: longer", partial(_lengthen, name=name)
        yield f"{name}: a folder", partial(_folder, name=name)
    yield "a file more", lambda path: (path / "more.pt").write_bytes(b"")
    for what, change in _other_states():
        for name in (name for name in files if name.endswith(what[0])):
            yield f"{name}: {what[1]}, manifest to match", partial(_signed, name=name, change=change)
    for key, value in (
        ("step", -1),
        ("step", "six"),
        ("world_size", 0),
        ("identity", None),
        ("frozen", 5),
        ("step", 10**9),
    ):
        yield f"manifest: {key}={value!r}, signed", partial(_about, key=key, value=value)


def _other_states() -> list[tuple[tuple[str, str], Callable[[Any], Any]]]:
    """(ending of the file, what is wrong), and the state made of the one that was there."""

    def grown(state: Any) -> Any:
        if isinstance(state, torch.Tensor):
            return (
                torch.cat([state.flatten(), state.flatten()[:1]]) if state.is_floating_point() and state.ndim else state
            )
        if isinstance(state, dict):
            return {key: grown(value) for key, value in state.items()}
        return [grown(value) for value in state] if isinstance(state, list) else state

    return [
        (("optim_states.pt", "tensors of another shape"), grown),
        (("state.pt", "tensors of another shape"), grown),
        (("optim_states.pt", "an empty mapping"), lambda state: {}),
        (("model_states.pt", "an empty mapping"), lambda state: {}),
        (("state.pt", "an empty mapping"), lambda state: {}),
        (("state.pt", "a list"), lambda state: []),
        (("optim_states.pt", "a tensor"), lambda state: torch.zeros(3)),
        (("model_states.pt", "a tensor"), lambda state: torch.zeros(3)),
        (("state.pt", "no random generators"), lambda state: {k: v for k, v in state.items() if k != "random"}),
        (("state.pt", "numbers for generators"), lambda state: state | {"random": [5]}),
    ]


def _leaves(schema: dict[str, Any], node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in node["properties"].items():
        options = [field, *field.get("anyOf", [])]
        ref = next((option["$ref"] for option in options if "$ref" in option), None)
        if ref is None:
            yield f"{prefix}{name}", field
        else:
            yield from _leaves(schema, schema["$defs"][ref.rpartition("/")[2]], f"{prefix}{name}.")


def _wrong(leaf: dict[str, Any]) -> list[str]:
    """YAML values that a field of this schema cannot have."""
    kinds = [leaf, *leaf.get("anyOf", [])]
    types = {kind.get("type") for kind in kinds}
    values = [] if "object" in types else ["{a: {b: [c]}}"]
    if types & {"integer", "number"} and "string" not in types:
        values += ["words", "[1, 2]", ".nan", "-.inf", ".inf"]
        for kind in kinds:
            for name, beyond in (("minimum", -1), ("exclusiveMinimum", 0), ("maximum", 1), ("exclusiveMaximum", 0)):
                values += [str(kind[name] + beyond)] if name in kind else []
    if "boolean" in types:
        values += ["perhaps", "7"]
    if any("enum" in kind for kind in kinds):
        values += ["nonsense", "33"]
    if "null" not in types and "default" not in leaf:
        values += ["null"]
    return values


def _without(name: str) -> Change:
    return lambda row: row.pop(name)


def _with(name: str, value: object) -> Change:
    return lambda row: row.update({name: value})


def _of_rationale(change: Change) -> Change:
    return lambda row: change(row["rationales"][0])


def _changed(change: Change) -> str:
    row = copy.deepcopy(LINE | {"id": "q2"})
    change(row)
    return json.dumps(row)


def _file(*lines: str) -> bytes:
    return "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n"


def _flip(path: Path, name: str, place: int, bit: int) -> None:
    data = bytearray((path / name).read_bytes())
    data[place] ^= bit
    (path / name).write_bytes(data)


def _cut(path: Path, name: str, size: int) -> None:
    (path / name).write_bytes((path / name).read_bytes()[:size])


def _lengthen(path: Path, name: str) -> None:
    (path / name).write_bytes((path / name).read_bytes() + b"x")


def _remove(path: Path, name: str) -> None:
    (path / name).unlink()


def _folder(path: Path, name: str) -> None:
    (path / name).unlink()
    (path / name).mkdir()


def _signed(path: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change a file and let the manifest say so."""
    torch.save(change(torch.load(path / name, weights_only=False)), path / name)
    found = manifest.read(path)
    manifest.write(Manifest(found.about, found.files | {name: manifest.facts_of(path / name)}), path)


def _about(path: Path, key: str, value: Any) -> None:
    content = json.loads((path / manifest.NAME).read_text(encoding="utf-8"))
    files = {name: FileFacts(**facts) for name, facts in content["files"].items()}
    about = manifest.About(**(content["about"] | {key: value}))
    manifest.write(Manifest(about, files), path)
