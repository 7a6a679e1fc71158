"""A small `data generate` job in a folder of its own, and what it left there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from misbehaving_server import MisbehavingServer

from compact_ds.data.generate import Options
from compact_ds.sections import DataConfig

SECRET = "sk-test-0123456789abcdef"
FAULTS = ("429", "500", "503", "slow", "truncated", "cut", "dropped")

Job = Callable[..., Options]


def write_job(
    folder: Path, server: MisbehavingServer | None, *teachers: dict[str, Any], questions: int = 4, **more: Any
) -> Options:
    """Write questions and a teachers' file; `teachers` are laid over quick settings for the server."""
    rows = [{"id": f"q{i}", "question": f"How much is {i} + {{1}}?", "answer": str(i + 1)} for i in range(questions)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    quick = {"model": "m", "prompt": "{question}", "retry_seconds": 0.01, "timeout_seconds": 5, "seed": 1}
    quick |= {"base_url": server.url} if server else {}
    listed = [{"name": f"t{i}"} | quick | teacher for i, teacher in enumerate(teachers or ({},))]
    (folder / "teachers.yaml").write_text(yaml.safe_dump({"teachers": listed}))
    data = DataConfig(train=str(folder / "questions.jsonl"))
    return Options(data, folder / "teachers.yaml", folder / "out.jsonl", **more)


def rows(file: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]


def texts(file: Path) -> Counter[tuple[str, str, int, str]]:
    """Every rationale of an output, with how often it is there."""
    return Counter(
        (row["id"], one["teacher"], one["sample"], one["text"]) for row in rows(file) for one in row["rationales"]
    )


def words(options: Options, *more: str) -> list[str]:
    """The command line of a job."""
    files = ["--teachers", str(options.teachers), "--output", str(options.output)]
    return ["data", "generate", options.data.train, *files, *more]


def failed(options: Options) -> list[dict[str, Any]]:
    """The failures that a job lists."""
    return rows(Path(f"{options.output}.failed.jsonl"))


def journal(options: Options) -> Path:
    """Where a job keeps its finished calls."""
    return Path(f"{options.output}.journal.jsonl")
