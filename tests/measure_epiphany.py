"""Can the probes tell where a rationale goes wrong? One step's result is corrupted and carried through the later steps.

`python tests/measure_epiphany.py DATA TEACHER MODEL [COUNT]`. Takes right rationales whose steps are equations, corrupts
one result, and measures both texts under the student. With the clean twin: the step at which the corrupted text falls
behind most. Without it: the step that a statistic of the corrupted text alone points at. A hit is the corrupted step or
the next.
"""

from __future__ import annotations

import ast
import json
import operator
import random
import re
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from compact_ds.config import DataConfig, load
from compact_ds.data.readers import read
from compact_ds.student.load import load_lm, load_tokenizer
from compact_ds.student.measure import Student, measure
from compact_ds.training_set import TrainingSet
from compact_ds.tree.tokenise import Tokeniser

NUMBER = re.compile(r"\d+(?:\.\d+)?")
EQUATION = re.compile(r"([\d.()+\-*/\u00d7 $]+?)\s*=\s*(\$?\s?\d+(?:\.\d+)?)(?![\d.]|\s*[+\-*/\u00d7=])")
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


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
        old = NUMBER.search(match[2])[0]
        before = NUMBER.sub(lambda m: changed.get(m[0], m[0]), steps[at][: match.start()])
        changed[old] = text
        after = NUMBER.sub(lambda m: changed.get(m[0], m[0]), steps[at][match.end(2) :])
        found[at] = before + left + steps[at][match.end(1) : match.start(2)] + match[2].replace(old, text) + after
    return found


def pairs(data: str, teacher: str, count: int, file: Path) -> dict[str, int]:
    """Write questions with both texts; the corrupted step by id."""
    draw, places = random.Random(0), {}
    with file.open("w", encoding="utf-8") as stream:
        for example in read(data, DataConfig(train=data), 0):
            clean = next((r for r in example.rationales if r.teacher == teacher), None)
            if clean is None or not 3 <= len(clean.steps) <= 8 or len(places) == count:
                continue
            place = draw.randrange(len(clean.steps))
            wrong = corrupted(clean.steps, place, draw.choice((-3, -2, -1, 1, 2, 3)))
            if wrong is None or "".join(wrong) == "".join(clean.steps):
                continue
            texts = {"clean": list(clean.steps), "corrupted": wrong}
            rationales = [
                {"teacher": name, "text": "".join(steps) + clean.answer_sentence, "steps": [s.strip() for s in steps]}
                for name, steps in texts.items()
            ]
            row = {"id": example.id, "question": example.question, "answer": example.answer, "rationales": rationales}
            stream.write(json.dumps(row) + "\n")
            places[example.id] = place
    return places


@torch.no_grad()
def measured(file: Path, model: str) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """By id and text: `gold` after 0, 1, ... steps, and each step's mean and largest token loss."""
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
    found: dict = {}
    for batch, records, _ in tqdm(data.batches_of(data.usable), total=len(data.usable) // 4, desc="measure"):
        lse_N, z_N1 = student(batch)
        probed = measure(lse_N, z_N1, batch, "auto").probed
        nll_N = (lse_N - z_N1[:, 0]).double().numpy()
        starts = batch.plan.offsets_S1.tolist()
        for i, (e, r) in enumerate(batch.places_R):
            ends = records[e].rationales[r].step_ends
            own = np.split(nll_N[starts[i] : starts[i + 1]], ends)[: len(ends)]
            gold = [float(probed.gold0_R[i]), *probed.gold_P[batch.rationale_P == i].tolist()]
            found.setdefault(records[e].id, {})[data.teachers[records[e].rationales[r].teacher]] = {
                "gold": np.array(gold), "mean": np.array([s.mean() for s in own]), "max": np.array([s.max() for s in own]),
            }  # fmt: skip
    return found


def main(data: str, teacher: str, model: str, count: int = 200) -> None:
    """Print the share of hits of each way."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pairs.jsonl"
        places = pairs(data, teacher, count, file)
        found = measured(file, model)

    def standard(x: np.ndarray) -> np.ndarray:
        return (x - x.mean()) / (x.std() + 1e-9)

    ways = {
        "with the clean twin: largest fall behind": lambda c, w: np.diff(c["gold"]) - np.diff(w["gold"]),
        "alone: largest drop of the gold answer": lambda c, w: -np.diff(w["gold"]),
        "alone: largest mean token loss": lambda c, w: w["mean"],
        "alone: largest token loss": lambda c, w: w["max"],
        "alone: token loss and drop": lambda c, w: standard(w["max"]) + standard(-np.diff(w["gold"])),
        "chance": lambda c, w: np.random.default_rng(len(w["gold"])).random(len(w["max"])),
    }
    print(f"{len(found)} examples\n| way | the step or the next | the very step |\n|---|---|---|")
    for name, way in ways.items():
        at = [int(np.argmax(way(of["clean"], of["corrupted"]))) - places[i] for i, of in found.items() if len(of) == 2]
        print(f"| {name} | {np.mean([a in (0, 1) for a in at]):.3f} | {np.mean([a == 0 for a in at]):.3f} |")


if __name__ == "__main__":
    main(*sys.argv[1:4], *(int(word) for word in sys.argv[4:]))
