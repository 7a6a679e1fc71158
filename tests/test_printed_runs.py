"""Every printed command runs: as printed, on a few small questions, and cut to a step or a repetition where it would take hours.

That commands parse with their settings is `test_printed`; that the ten minutes run in their order is `test_wheel`. A command for
several machines is run up to the start of its processes (`--dry-run`); `test_two_nodes` and `test_slurm` go on from there.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from misbehaving_server import MisbehavingServer
from test_printed import PRINTED, TEXTS, commands, filled
from uneven_questions import write

from compact_ds.data.readers import read
from compact_ds.sections import DataConfig

ROOT = Path(__file__).parents[1]
COMMANDS = sorted({words for _, words in PRINTED})
_HERE = {
    "CONFIG": "arithmetic", "DATA": "train.jsonl", "FILE": "test.jsonl", "QUESTIONS": "questions.jsonl", "GRID": "grid.yaml",
    "MODEL": "runs/first/final", "RUN": "runs/first", "RUN/final": "runs/first/final", "BEFORE": "runs/first/final",
    "AFTER": "runs/uniform/final", "F": "hostfile", "TEACHER=SOURCE": "ann=texts.jsonl", "a,b": "compact,uniform",
}  # fmt: skip
_ONE_STEP = ["max_steps=1", "evaluation.limit=2", "data.batch_size=2"]


def _run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "compact_ds.cli", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The files and runs that commands name."""
    made = tmp_path_factory.mktemp("printed")
    (made / "configs").symlink_to(ROOT / "configs")
    for name in ("svamp", "gsm8k_gpt3", "openbookqa", "written"):
        (made / name).mkdir()
    train = write(made / "train.jsonl", 12)
    for copy in ("test", "mine", "raw", "questions", "gsm8k_gpt3/train", "openbookqa/train", "openbookqa/test"):
        shutil.copy(train, made / f"{copy}.jsonl")
    for name in ("train", "test"):
        (made / "svamp" / f"{name}.jsonl").write_text("".join(_word_problems()), encoding="utf-8")
    rows = [json.loads(line) for line in train.read_text(encoding="utf-8").splitlines()]
    texts = [
        {k: row[k] for k in ("id", "question", "answer")} | {"rationale": row["rationales"][0]["text"]} for row in rows
    ]
    (made / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts), encoding="utf-8")
    (made / "hostfile").write_text("worker-1 slots=8\nworker-2 slots=8\n", encoding="utf-8")
    grid = {"config": "arithmetic", "max_steps": 3, "overrides": ["data.batch_size=2"], "grid": {"world_size": [1]}}
    (made / "grid.yaml").write_text(yaml.safe_dump(grid), encoding="utf-8")
    for method in ("compact", "uniform"):
        run = f"run_dir=runs/{'first' if method == 'compact' else method}"
        done = _run(["train", "arithmetic", f"method={method}", run, *_ONE_STEP], made)
        assert done.returncode == 0, done.stderr
    mine = ["data.train=mine.jsonl", "student.tokenizer=task:arithmetic", "run_dir=runs/mine"]
    done = _run(["train", "arithmetic", *mine, *_ONE_STEP], made)
    assert done.returncode == 0, done.stderr
    shutil.copytree(made / "runs" / "first", made / "runs" / "svamp_smollm2")
    done = _run(["score", "mine.jsonl", "--student", "runs/mine/final", "--output", "scores.jsonl"], made)
    assert done.returncode == 0, done.stderr
    with MisbehavingServer() as server:
        teacher = {"name": "ann", "model": "m", "prompt": "{question}", "base_url": server.url}
        (made / "teachers.yaml").write_text(yaml.safe_dump({"teachers": [teacher]}), encoding="utf-8")
        yield made


def _word_problems() -> Iterator[str]:
    """Lines of questions that misleading teachers can be made for, under the names of SVAMP's teachers."""
    for i in range(8):
        a, b = 7 + i, 3 + 2 * i
        text = f"Ann has {a} shells. She finds {b} shells. {a} + {b} = {a + b}. The answer is {a + b}."
        told = [{"teacher": name, "text": text} for name in ("gpt-4o", "gemini-1.5-flash", "llama-3-70b")]
        question = f"Ann has {a} shells and finds {b} shells more. How many shells does she have?"
        yield json.dumps({"id": f"s{i}", "question": question, "answer": str(a + b), "rationales": told}) + "\n"


def _here(words: str, number: int) -> list[str]:
    """The words of a command, placeholders filled in for the folder, and what makes it short."""
    given = filled(words)
    assert given is not None
    example = next(iter(read("task:arithmetic", DataConfig(train="task:arithmetic"), 0, limit=1))).id
    named = _HERE | {"ID": example}
    for before, word in itertools.pairwise(given):
        if before in ("--output", "--markdown"):
            # A place of its own: commands of several pages write files of the same name.
            named |= {word: f"written/{number}-{Path(word).name}"}
    given = [named.get(word, word) for word in given]
    if given[0] in ("train", "launch", "compare"):
        given += [*_ONE_STEP, f"run_dir=runs/{number}"]
    if given[0] == "compare":
        given += ["--seeds", "1"]
    if given[0] == "launch" and {"--hostfile", "--num-nodes", "8"} & set(given):
        given = [word for word in given if word != "--submit"]
        # Of 8, 14 or 16 ranks.
        given += ["--dry-run", "data.batch_size=112"]
    elif given[0] == "launch":
        given += ["data.batch_size=4"]
    if given[0] == "bench":
        given += [
            "--repeats",
            "1",
            *(["--rows", "64", "--shapes", "1000x64"] if given[1] == "kernels" else ["data.batch_size=2"]),
        ]
    return given


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("words", COMMANDS, ids=[words[:70] for words in COMMANDS])
def test_a_printed_command_runs(folder: Path, words: str) -> None:
    if words.startswith("doctor") and "--hostfile" in words:
        pytest.skip("needs two machines: test_two_nodes and test_doctor run it")
    done = _run(_here(words, COMMANDS.index(words)), folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr


def test_no_command_is_left_out() -> None:
    assert len(COMMANDS) > 45
    several = {words for text in TEXTS.values() for words in commands(text)} - set(COMMANDS)
    assert several == {"data generate | import", "data verify | stats | graph"}
