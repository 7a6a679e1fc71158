"""Can the student tell where a rationale goes wrong? One step's result is corrupted and carried through the later steps.

`python tests/measure_epiphany.py DATA TEACHER MODEL STORE [COUNT]`. Takes right rationales whose steps are equations,
corrupts one result, and measures both texts under the student; what was measured is appended to the JSONL file STORE, so
that a run that was stopped goes on. With the clean twin: the step at which the corrupted text falls behind most. Without
it: the step that a statistic of the corrupted text alone points at. A hit is the corrupted step or the next. The first
third of the examples was for choosing statistics; the rest is reported too.
"""

from __future__ import annotations

import ast
import json
import operator
import random
import re
import sys
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from compact_ds.config import load
from compact_ds.data.readers import read
from compact_ds.optimizer_step.training_set import TrainingSet
from compact_ds.sections import DataConfig
from compact_ds.student.load import load_lm, load_tokenizer
from compact_ds.student.measure import Student, measure
from compact_ds.tree.tokenise import Tokeniser

NUMBER = re.compile(r"\d+(?:\.\d+)?")
EQUATION = re.compile(r"([\d.()+\-*/\u00d7 $]+?)\s*=\s*(\$?\s?\d+(?:\.\d+)?)(?![\d.]|\s*[+\-*/\u00d7=])")
STATED = re.compile(r"=\s*\$?\s*(\d[\d,]*(?:\.\d+)?)")
NOTICEABLE = 0.1
"""Nats per answer token."""
Row = dict[str, Any]
OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def value(text: str) -> Fraction | None:
    """What plain arithmetic comes to, without evaluating it as code; None when it is not plain or too long."""
    plain = text.replace("$", "").replace("\u00d7", "*").strip()
    try:
        return _value(ast.parse(plain, mode="eval").body) if len(plain) < 60 else None
    except (SyntaxError, ZeroDivisionError, KeyError, TypeError):
        return None


def _value(node: ast.AST) -> Fraction:
    if isinstance(node, ast.Constant):
        return Fraction(str(node.value))
    if isinstance(node, ast.BinOp):
        return OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise TypeError(node)


def shown(number: Fraction) -> str | None:
    """A number as people write it, at most two places; None when it is longer."""
    if number.denominator == 1:
        return str(number.numerator)
    text = f"{float(number):.2f}".rstrip("0")
    return text if Fraction(text) == number else None


def corrupted(steps: tuple[str, ...], place: int, shift: int) -> list[str] | None:
    """The steps with the result of step `place` shifted and every later equation worked out again; None where that fails."""
    changed: dict[str, str] = {}
    found = list(steps)
    for at in range(place, len(steps)):
        match = EQUATION.search(steps[at])
        if match is None or value(match[1]) != value(match[2]):
            return None
        left = NUMBER.sub(lambda m: changed.get(m[0], m[0]), match[1])
        result = value(left)
        if result is None:
            return None
        result = result + shift if at == place else result
        text = shown(result)
        if text is None or result <= 0:
            return None
        (old,) = NUMBER.findall(match[2])
        before = NUMBER.sub(lambda m: changed.get(m[0], m[0]), steps[at][: match.start()])
        changed[old] = text
        after = NUMBER.sub(lambda m: changed.get(m[0], m[0]), steps[at][match.end(2) :])
        found[at] = before + left + steps[at][match.end(1) : match.start(2)] + match[2].replace(old, text) + after
    return found


def broken(step: str) -> bool:
    """Whether an equation of the step does not hold: what a calculator sees."""
    return any(value(match[1]) not in (None, value(match[2])) for match in EQUATION.finditer(step))


def pairs(data: str, teacher: str, count: int, done: set[str], file: Path) -> dict[str, Row]:
    """Write the questions that are not done with both texts; their corrupted step and texts by id."""
    draw = random.Random(0)
    made: dict[str, Row] = {}
    with file.open("w", encoding="utf-8") as stream:
        for example in read(data, DataConfig(train=data), 0):
            clean = next((r for r in example.rationales if r.teacher == teacher), None)
            if clean is None or not 3 <= len(clean.steps) <= 8 or len(made) == count:
                continue
            place = draw.randrange(len(clean.steps))
            wrong = corrupted(clean.steps, place, draw.choice((-3, -2, -1, 1, 2, 3)))
            if wrong is None or "".join(wrong) == "".join(clean.steps):
                continue
            texts = {"clean": list(clean.steps), "corrupted": wrong}
            rationales: list[Row] = [
                {"teacher": name, "text": "".join(steps) + clean.answer_sentence, "steps": [s.strip() for s in steps]}
                for name, steps in texts.items()
            ]
            row = {"id": example.id, "question": example.question, "answer": example.answer, "rationales": rationales}
            own = {r["teacher"]: r["text"] for r in rationales}
            made[example.id] = {"place": place, "broken": [broken(step) for step in wrong], **own}
            if example.id not in done:
                stream.write(json.dumps(row) + "\n")
    return made


def result_losses(text: str, offsets: list[tuple[int, int]], nll: np.ndarray, ends: list[int]) -> list[float]:
    """By step, the mean token loss of the number that its equation states, of several the largest; 0 without any."""
    found = [0.0] * len(ends)
    for match in STATED.finditer(text):
        own = [i for i, (start, end) in enumerate(offsets) if start < match.end(1) and end > match.start(1)]
        step = int(np.searchsorted(ends, own[0], side="right"))
        if step < len(ends):
            found[step] = max(found[step], float(nll[own].mean()))
    return found


@torch.no_grad()
def measured(made: dict[str, Row], file: Path, model: str, store: Path) -> None:
    """Append to `store`, by id and text: `gold` after 0, 1, ... steps; each step's mean, largest and result's token loss."""
    words = [
        f"data.train={file}",
        f"student.model={model}",
        "student.lora=null",
        "tree.max_probes=8",
        "data.batch_size=8",
    ]
    config = load("svamp_smollm2", [*words, f"data.cache_dir={file.parent}", f"run_dir={file.parent / 'run'}"])
    tokeniser = Tokeniser(load_tokenizer(config.student), config.data.cue)
    data = TrainingSet(config, tokeniser)
    student = Student(load_lm(config, len(tokeniser.tokenizer)), "tree", "beside", "auto").eval()
    for batch, records, _ in tqdm(data.batches_of(data.usable), total=len(data.usable) // 3, desc="measure"):
        lse_N, z_N1 = student(batch)
        probed = measure(lse_N, z_N1, batch, "auto").probed
        assert probed is not None
        nll_N = (lse_N - z_N1[:, 0]).double().numpy()
        starts = batch.plan.offsets_S1.tolist()
        found: dict[str, Row] = {record.id: {"id": record.id, "place": made[record.id]["place"]} for record in records}
        for i, (e, r) in enumerate(batch.places_R):
            name, ends = data.teachers[records[e].rationales[r].teacher], records[e].rationales[r].step_ends
            text = made[records[e].id][name]
            offsets = tokeniser.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            nll = nll_N[starts[i] : starts[i + 1]]
            own = np.split(nll, ends)[: len(ends)]
            found[records[e].id][name] = {
                "gold": [float(probed.gold0_R[i]), *probed.gold_P[batch.rationale_P == i].tolist()],
                "mean": [float(s.mean()) for s in own],
                "max": [float(s.max()) for s in own],
                "result": result_losses(text, offsets, nll, list(ends)),
            }
        with store.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in found.values() if {"clean", "corrupted"} <= row.keys())


def fall(clean: Row, wrong: Row) -> np.ndarray:
    """How much further the corrupted text falls behind its twin at each step, in nats per answer token."""
    found: np.ndarray = np.diff(clean["gold"]) - np.diff(wrong["gold"])
    return found


def fall_before_the_end(clean: Row, wrong: Row) -> np.ndarray:
    """The same; the last step, which states the answer, counts only where no earlier one fell noticeably."""
    found = fall(clean, wrong)
    if (found[:-1] > NOTICEABLE).any():
        found[-1] = -np.inf
    return found


def fall_and_surprise(clean: Row, wrong: Row) -> np.ndarray:
    """The same, and how much less likely the step's stated result became: nats of the gold answer and of the text itself."""
    found: np.ndarray = fall_before_the_end(clean, wrong) + np.subtract(wrong["result"], clean["result"])
    return found


WAYS: dict[str, Callable[[Row, Row], Any]] = {
    "with the clean twin: largest fall behind": fall,
    "with the clean twin: largest fall behind, the last step aside": fall_before_the_end,
    "with the clean twin: the same, and the largest rise of the stated result's loss": fall_and_surprise,
    "alone: largest drop of the gold answer": lambda c, w: -np.diff(w["gold"]),
    "alone: largest mean token loss": lambda c, w: w["mean"],
    "alone: largest token loss": lambda c, w: w["max"],
    "alone: largest token loss of a stated result": lambda c, w: w["result"],
    "by rule: an equation that does not hold": lambda c, w: w["broken"],
    "chance": lambda c, w: np.random.default_rng(len(w["gold"])).random(len(w["max"])),
}


def hits(rows: list[Row], way: Callable[[Row, Row], Any]) -> str:
    """Shares of the corrupted step or the next, and of the very step, with the standard error of the first."""
    off = np.array([int(np.argmax(way(row["clean"], row["corrupted"]))) - row["place"] for row in rows])
    near = np.isin(off, (0, 1))
    return f"{near.mean():.3f} ± {near.std() / len(near) ** 0.5:.3f} | {(off == 0).mean():.3f}"


def main(data: str, teacher: str, model: str, store: Path, count: int = 300) -> None:
    """Measure what the store lacks and print the share of hits of each way."""
    done = [json.loads(line) for line in store.read_text(encoding="utf-8").splitlines()] if store.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pairs.jsonl"
        made = pairs(data, teacher, count, {row["id"] for row in done}, file)
        if file.stat().st_size:
            measured(made, file, model, store)
    rows = [json.loads(line) for line in store.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["id"] in made and len(row["clean"]["gold"]) == len(row["clean"]["max"]) + 1]
    for row in rows:
        row["corrupted"]["broken"] = made[row["id"]]["broken"]
    third = len(rows) // 3
    print(
        f"{third} and {len(rows) - third} examples\n| way | hit, to choose on | very step | hit, reported | very step |"
    )
    print("|---|---|---|---|---|")
    for name, way in WAYS.items():
        print(f"| {name} | {hits(rows[:third], way)} | {hits(rows[third:], way)} |")


if __name__ == "__main__":
    given, teacher, model, store, *most = sys.argv[1:]
    main(given, teacher, model, Path(store), *(int(word) for word in most))
