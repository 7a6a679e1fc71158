"""Run folders and scores files as training and scoring leave them, made of arithmetic instead of training."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml

from compact_ds.compatibility.running import METRICS

HOSTILE = '<script>window.hacked=1</script><img src=x onerror="window.hacked=1">{{DATA}} <b>&amp;\'"$</script>\u2028'
"""What must appear on the page as these very characters."""


def write_run(
    folder: Path,
    *,
    steps: int = 12,
    questions: int = 6,
    teachers: tuple[str, ...] = ("ada", "ben", "cy"),
    mark: str = "",
) -> Path:
    """A run folder with `questions.jsonl` and `scores.jsonl` in it; `mark` goes into every text that a stranger writes."""
    folder.mkdir(parents=True)
    data = folder / "questions.jsonl"
    examples = [_example(i, teachers, mark) for i in range(questions)]
    _lines(data, examples)
    config: dict[str, Any] = {
        "run_dir": str(folder), "method": "compact", "max_steps": steps, "seed": 0,
        "data": {"train": str(data), "batch_size": 2, "cue": f"\n{mark}The answer is "},
        "student": {"model": f"nowhere/{mark}"}, "compatibility": {"warmup": 3},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    _lines(folder / "metrics.jsonl", [_step(step, teachers) for step in range(steps)])
    evaluation: dict[str, Any] = {"accuracy": 0.25, "answer_loss": 2.0, "answer_loss_after_steps": None, "n": questions}
    evaluation["retention"] = {"science": {"accuracy": 0.5, "n": 4}, "text": {"text_loss": 2.5}}
    _lines(folder / "evaluations.jsonl", [evaluation | {"step": 0}, evaluation | {"step": steps, "accuracy": 0.75}])
    said = [{"id": e["id"], "text": f"{mark} so 3", "right": i % 2 == 0} for i, e in enumerate(examples)]
    _lines(folder / "predictions.jsonl", said)
    sizes = {"all_gather": 2.0**21, "reduce_scatter": 2.0**20}
    traffic = {
        "world_size": 2, "steps": steps, "parameter_bytes": 2**20, "bytes_per_step": sizes,
        "calls_per_step": dict.fromkeys(sizes, 3.0), "bytes_per_step_of_parameters": {k: v / 2**20 for k, v in sizes.items()},
    }  # fmt: skip
    (folder / "traffic.json").write_text(json.dumps(traffic), encoding="utf-8")
    (folder / "environment.json").write_text(
        json.dumps({"python": "3.11", "packages": {"torch": "2"}}), encoding="utf-8"
    )
    rows = [row for i, example in enumerate(examples) for row in _scores(i, example)]
    _lines(folder / "scores.jsonl", rows)
    return folder


def _example(i: int, teachers: tuple[str, ...], mark: str) -> dict[str, Any]:
    word = ("apples", "pears")[i % 2]
    text = "{mark}{i} + 1 = {next}.\nThen {next} + {k} = {end}.\nThe answer is {end}"
    rationales = [
        {"teacher": t, "text": text.format(mark=mark, i=i, next=i + 1, k=k % 2, end=i + 1 + k % 2)}
        for k, t in enumerate(teachers)
    ]  # fmt: skip
    return {"id": f"q{i}", "question": f"How many {word}? {mark}", "answer": str(i + 1), "rationales": rationales}


def _scores(i: int, example: dict[str, Any]) -> list[dict[str, Any]]:
    """The first teacher wins questions with an even number, the second the others."""
    rationales = example["rationales"]
    shares = [3.0 if k == i % 2 else 1.0 for k in range(len(rationales))]
    return [
        {"id": example["id"], "teacher": r["teacher"], "index": k, "weight": shares[k] / sum(shares), "consensus": 0.5,
         "adaptability": 0.25 * k, "difficulty": 0.125, "token_loss": 1.5, "pmi": [0.5, 0.25 * k], "epiphany_step": 1}
        for k, r in enumerate(rationales)
    ]  # fmt: skip


def _step(step: int, teachers: tuple[str, ...]) -> dict[str, Any]:
    metrics = {
        key: {t: math.sin(step / 9 + k) for k, t in enumerate(teachers)}
        for key in (*METRICS, "token_loss", "weight_right")
    }
    row = {
        "step": step, "lr": 0.001, "loss": 3.0 / (step + 1), "grad_norm": math.nan if step == 1 else 1.0, "examples": 2,
        "tokens": 64, "right_share": 0.5, "step_seconds": 0.5, "traffic_bytes": 3 * 2**20,
        "weight": {t: 1 / len(teachers) for t in teachers}, **metrics, "weight_wrong": {},
    }  # fmt: skip
    if step % 10 == 9:
        pairs = [(a, b) for i, a in enumerate(teachers) for b in teachers[i + 1 :]]
        row["gradient_cosine"] = {f"{a} | {b}": -0.5 for a, b in pairs}
        row["gradient_norm"] = dict.fromkeys(teachers, 1.0)
        row["retention_agreement"] = dict.fromkeys((*teachers, "update"), 0.25)
        row["reference_loss"] = {"answer": 1.0, "retention": 2.0}
    return row


def _lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
