"""`compact-ds train` refuses what it cannot run: exit code 2 and one line with place, value, expectation and remedy."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from compact_ds import cli
from compact_ds.config import SHIPPED
from compact_ds.engine.ranks import Ranks
from compact_ds.errors import ERROR_PREFIX

ROOT = Path(__file__).parents[1]

Write = Callable[..., Path]
Words = Callable[..., list[str]]
Refused = Callable[[list[str], str, str, str, str], None]

REPLACED = """
import sys
import torch
from compact_ds import cli, train
from compact_ds.optimizer_step import training_set

def consensus_of_one_is_nan(example, reliability):
    return [float("nan") if example.id == "q3" and r.teacher == "ben" else 0.5 for r in example.rationales]

def broken_student(config, vocabulary_size, load_lm=train.load_lm):
    lm = load_lm(config, vocabulary_size)
    torch.nn.init.constant_(lm.lm_head.weight, float("nan"))
    return lm

if sys.argv[1] == "consensus":
    training_set.consensus = consensus_of_one_is_nan
else:
    train.load_lm = broken_student
sys.exit(cli.main(sys.argv[2:]))
"""


def question(number: int, **changes: object) -> dict[str, object]:
    rationales = [
        {"teacher": "ada", "text": f"{number} plus 2\nThe answer is {number + 2}"},
        {"teacher": "ben", "text": f"{number} times 2\nThe answer is {number * 2}"},
    ]
    asked = f"What does {number} plus 2 make ?"
    return {"id": f"q{number}", "question": asked, "answer": str(number + 2), "rationales": rationales} | changes


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes questions, or lines as they are, into a file whose path has a space."""

    def lines(*rows: object) -> Path:
        file = tmp_path / "my data" / "train.jsonl"
        file.parent.mkdir()
        file.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows), encoding="utf-8")
        return file

    return lines


@pytest.fixture
def words(tmp_path: Path) -> Words:
    """A small run in the test's folder as words of the command line."""

    def of(*more: str, command: str = "train") -> list[str]:
        places = [f"run_dir={tmp_path / 'run'}", f"data.cache_dir={tmp_path / 'cache'}"]
        sizes = [
            "data.limit=8",
            "data.batch_size=4",
            "max_steps=4",
            "evaluation.limit=2",
            "evaluation.max_new_tokens=2",
        ]
        return [command, "arithmetic", *places, *sizes, *more]

    return of


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Refused]:
    """Runs a command in this process and checks its one line; what it found may go on behind `found`."""
    monkeypatch.delenv("RANK", raising=False)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def check(command: list[str], where: str, found: str, expected: str, remedy: str) -> None:
        assert cli.main(command) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith(f"{ERROR_PREFIX}{where}: found {found}")
        assert captured.err.endswith(f"; expected {expected}; {remedy}\n")
        assert captured.err.count("\n") == 1

    yield check
    for number, handler in before.items():
        signal.signal(number, handler)


def run(command: list[str]) -> tuple[int, list[str]]:
    """A command in a process of its own: its exit code and its lines on stderr."""
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, *command], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        _, err = process.communicate(timeout=250)
    finally:
        if process.poll() is None:
            family: list[psutil.Process | subprocess.Popen[str]] = [
                *psutil.Process(process.pid).children(recursive=True),
                process,
            ]
            for each in family:
                each.kill()
    return process.returncode, err.splitlines()


def the_error(lines: list[str]) -> str:
    """The one error among the lines of a progress bar and of libraries' warnings."""
    assert not [line for line in lines if "Traceback" in line], lines
    (error,) = [line for line in lines if ERROR_PREFIX in line]
    assert error.startswith(ERROR_PREFIX)
    return error.removeprefix(ERROR_PREFIX)


def test_questions_whose_rationales_have_another_name(write: Write, refused: Refused, words: Words) -> None:
    file = write(*({**question(n, rationale=question(n)["rationales"]), "rationales": []} for n in range(8)))
    remedy = "name the field 'rationales', or map it: data.fields.rationales=THEIR_NAME"
    found = "no rationale in any of its questions"
    refused(words(f"data.train='{file}'", "method=uniform"), str(file), found, "at least one", remedy)


def test_an_unknown_key(tmp_path: Path, refused: Refused, words: Words) -> None:
    known, remedy = "a known config key", "did you mean 'warmup_steps'?"
    where = "command line: optimizer.warmup_step"
    refused(words("optimizer.warmup_step=3"), where, "3", known, remedy)
    file = tmp_path / "mine.yaml"
    config = yaml.safe_load((SHIPPED / "arithmetic.yaml").read_text(encoding="utf-8"))
    file.write_text(yaml.safe_dump(config | {"max_step": 7}), encoding="utf-8")
    refused(["train", str(file)], f"{file}: max_step", "7", known, "did you mean 'max_steps'?")


def test_a_missing_data_file(refused: Refused, words: Words, write: Write, tmp_path: Path) -> None:
    expected = "a JSONL file of questions and rationales"
    missing = write(question(1)).with_name("trian.jsonl")
    refused(words(f"data.train={missing}"), str(missing), "no such file", expected, "did you mean 'train.jsonl'?")
    nowhere = tmp_path / "nowhere" / "a.jsonl"
    refused(words(f"data.train={nowhere}"), str(nowhere), "no such file", expected, "check the path")


def test_a_missing_file_of_held_out_questions_before_the_first_step(
    refused: Refused, words: Words, write: Write, tmp_path: Path
) -> None:
    missing = write(question(1)).with_name("trian.jsonl")
    command = words(f"data.eval={missing}", "evaluation.before=false", "mixer.diagnose_every=0")
    refused(
        command, str(missing), "no such file", "a JSONL file of questions and rationales", "did you mean 'train.jsonl'?"
    )
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("line", "found", "expected", "remedy"),
    [
        ('{"id": "q2", \n', '{"id": "q2", (', "one JSON object a line, UTF-8", "mend the line or delete it"),
        (question(2, id="q1"), "q1", "an id that {file}:1 does not have", "give every question its own id"),
        (question(2, answer=""), "an empty 'answer'", "text that is not blank", "fill it in or delete the line"),
    ],
    ids=["malformed JSON", "duplicate id", "empty answer"],
)
def test_a_broken_line(
    refused: Refused, words: Words, write: Write, line: object, found: str, expected: str, remedy: str
) -> None:
    file = write(question(1), line, question(3))
    refused(words(f"data.train={file}"), f"{file}:2", found, expected.format(file=file), remedy)
    assert not (file.parents[1] / "run").exists()


def test_a_single_teacher_that_the_data_does_not_have(
    refused: Refused, words: Words, write: Write, tmp_path: Path
) -> None:
    command = words(f"data.train={write(question(1), question(2))}", "method=single:benn")
    refused(command, "method", "single:benn", "a teacher of the data", "did you mean 'ben'?")
    assert not (tmp_path / "run").exists()


def test_too_many_rationales_that_no_row_can_hold(refused: Refused, words: Words, write: Write, tmp_path: Path) -> None:
    long = {"teacher": "ada", "text": "1 plus 2 " * 30 + "\nThe answer is 4"}
    file = write(question(1), question(2, rationales=[long]), question(3), question(4))
    command = words(f"data.train={file}", "tree.row_tokens=64", "data.max_left_out=0.1")
    expected = "at most tree.row_tokens=64 and a share of data.max_left_out=0.1"
    remedy = "raise tree.row_tokens, lower tree.max_probes or allow a larger share"
    refused(command, f"{file}:2", "a rationale of ada that needs 1", expected, remedy)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_another_run(refused: Refused, words: Words, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("{}\n", encoding="utf-8")
    refused(words(), "run_dir", str(folder), "an empty or new folder", "give another run_dir or add --resume")
    assert [file.name for file in folder.iterdir()] == ["metrics.jsonl"]
    assert (folder / "metrics.jsonl").read_text(encoding="utf-8") == "{}\n"


def test_a_batch_that_the_ranks_cannot_share_out_evenly(
    refused: Refused, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = "a multiple of the world size 2"
    command = words("--nprocs", "2", "data.batch_size=3", command="launch")
    refused(command, "data.batch_size", "3", expected, "set data.batch_size=4 or --nprocs 1")

    @contextmanager
    def two(timeout_seconds: int) -> Iterator[Ranks]:
        yield Ranks(0, 2, torch.device("cpu"))

    monkeypatch.setattr("compact_ds.train.ranks", two)
    refused(words("data.batch_size=3"), "data.batch_size", "3", expected, "change it or the number of ranks")


@pytest.mark.parametrize(
    ("broken", "method", "place", "values", "count"),
    [
        ("consensus", "compact", r":3: found ben", r"nan, -?0\.\d+, 0\.0, \d\.\d+, 0\.5", 1),
        ("student", "uniform", r":[1-4]: found (ada|ben)", r"[\d.]+, 0\.0, 0\.0, nan, 0\.5", 8),
    ],
    ids=["consensus", "token loss"],
)
def test_a_metric_or_a_loss_that_is_no_number(
    words: Words, write: Write, broken: str, method: str, place: str, values: str, count: int
) -> None:
    file = write(*map(question, range(1, 5)))
    code, lines = run(["-c", REPLACED, broken, *words(f"data.train={file}", f"method={method}")])
    measured = rf"consensus, adaptability, difficulty, token loss, weight \[{values}\]"
    counted = rf"at step 0 \({count} rationales\); expected finite losses, metrics and weights"
    counted += " but for a share of data.max_left_out=0.01 of the examples"
    remedy = "check the student's weights, begin again with a lower optimizer.lr, or remove the example"
    assert re.fullmatch(f"{re.escape(str(file))}{place}: {measured} {counted}; {remedy}", the_error(lines))
    assert code == 2


@pytest.mark.parametrize(
    "command", [["train"], pytest.param(["launch", "--nprocs", "2"], marks=pytest.mark.slow)], ids=["train", "launch"]
)
def test_a_learning_rate_that_overflows_is_told_once(
    words: Words, write: Write, tmp_path: Path, command: list[str]
) -> None:
    file = write(*map(question, range(1, 5)))
    settings = [f"data.train={file}", "optimizer.lr=1e30", "optimizer.warmup_steps=0"]
    code, lines = run(["-m", "compact_ds.cli", *command, *words(*settings)[1:]])
    # Normalised, weights of 1e30 still give losses; their gradient does not fit into fp32.
    expected = "finite gradients; lower optimizer.lr, or set optimizer.grad_clip"
    assert the_error(lines) == f"step 1: found gradient norm inf; expected {expected}"
    assert code == 2
    assert len((tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 1
