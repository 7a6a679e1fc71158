"""The Python API and its hooks: the quickstart, two runs in one process, the same figures as the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

import compact_ds
from compact_ds import api
from compact_ds.callbacks import Callback, named
from compact_ds.cli import main
from compact_ds.config import load
from compact_ds.data.records import Example, Rationale
from compact_ds.errors import ConfigError, DataError
from compact_ds.report.run_folder import Run
from compact_ds.report.teachers import teachers as teachers_section
from compact_ds.run.log import read

HERE = Path(__file__).parent
ROOT = HERE.parent


def test_the_package_is_imported_without_anything_heavy() -> None:
    code = "import sys, compact_ds; print({'torch', 'pydantic', 'numpy'} & set(sys.modules), compact_ds.__version__)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.stdout == f"set() {compact_ds.__version__}\n"
    assert compact_ds.load_examples is api.load_examples and compact_ds.score_rationales is api.score
    assert compact_ds.train_student is api.train and compact_ds.Callback is Callback
    with pytest.raises(AttributeError, match="no attribute 'trane'"):
        compact_ds.trane  # noqa: B018


def test_examples_come_back_as_they_were_saved(tmp_path: Path) -> None:
    made = [
        Example("a", "What is 1 + 1 ?", "2", (
            Rationale("ada", ("One and one", " make two."), "\nThe answer is 2", True),
            Rationale('b"n', ("It is odd. Very.",), "", None),
            Rationale("b\"n", (), "The answer is 3", False),
        ), "made:1"),
        Example("b", "€?", "x", (), "made:2"),
    ]  # fmt: skip
    back = api.load_examples(api.save_examples(made, tmp_path / "made.jsonl"))
    assert [(e.id, e.question, e.answer, e.rationales) for e in back] == [
        (e.id, e.question, e.answer, e.rationales) for e in made
    ]
    assert [r.teacher for r in api.load_examples(tmp_path / "made.jsonl", teachers=["ada"])[0].rationales] == ["ada"]
    assert len(api.load_examples("task:arithmetic", limit=3, mislead=0)) == 3
    with pytest.raises(DataError, match=r"none\.jsonl: found no such file"):
        api.load_examples(tmp_path / "none.jsonl")


def test_scores_are_the_commands(tmp_path: Path) -> None:
    examples = api.load_examples("task:arithmetic", limit=6)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    overrides = {"student.tokenizer": "task:arithmetic", "student.scratch": shape, "data.cache_dir": tmp_path / "it's"}
    rows = api.score(examples, "scratch", overrides=overrides)
    file = api.save_examples(examples, tmp_path / "examples.jsonl")
    words = [f"{key}={json.dumps(value, default=str)}" for key, value in overrides.items()]
    assert (
        main(["score", str(file), "--student", "scratch", "--output", str(tmp_path / "rows.jsonl"), "--json", *words])
        == 0
    )
    assert rows == read(tmp_path / "rows.jsonl")
    assert set(rows[0]) == set(api.ScoredRationale.__annotations__)


def test_a_config_may_be_given_as_an_object(tmp_path: Path) -> None:
    config = load("arithmetic", [f"run_dir={tmp_path}"])
    changed = api._config(config, {"optimizer.lr": 0.5, "data.teachers": ["a, b: c"]})
    assert (changed.optimizer.lr, changed.data.teachers, changed.run_dir) == (0.5, ["a, b: c"], tmp_path)
    assert api._config(config, None) == config
    with pytest.raises(ConfigError, match="did you mean 'lr'"):
        api._config(config, {"optimizer.lrr": 1})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("callbacks_of_a_run", "found callbacks_of_a_run; expected package.module:Class"),
        ("callbacks_of_a_run:Absent", "expected package.module:Class"),
        ("callbacks_of_a_run:json", "expected package.module:Class"),
        ("no_such_module:Class", "found no_such_module; expected a module that Python finds"),
    ],
)
def test_a_callback_that_is_none_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"callbacks: .*{message}"):
        named([name])


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("walk")
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": f"{ROOT}:{HERE}"}
    command = [sys.executable, str(HERE / "callbacks_of_a_run.py"), str(folder)]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder, result.stdout


def test_the_quickstart_prints_what_its_run_wrote(walked: tuple[Path, str]) -> None:
    folder, printed = walked
    rows = read(folder / "run" / "metrics.jsonl")
    assert len(rows) == 8
    assert f"loss {rows[0]['loss']:.2f} -> {rows[-1]['loss']:.2f}, " in printed
    assert float(printed.rsplit("fell by ", 1)[1].split()[0]) > 0
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert str({teacher: round(weight, 2) for teacher, weight in summary["weight"].items()}) in printed


def test_hooks_are_told_what_the_files_say_in_order(walked: tuple[Path, str]) -> None:
    folder, _ = walked
    second = folder / "second"
    notes = [json.loads(line) for line in (folder / "given.jsonl").read_text().splitlines()]
    assert [hook for hook, _ in notes] == [
        "step", "step", "checkpoint", "evaluation", "step", "checkpoint", "evaluation", "end"
    ], "none before the first step, which is a multiple of `every` too: `evaluation.before` is off"  # fmt: skip
    told = {hook: [what for name, what in notes if name == hook] for hook, _ in notes}
    assert told["step"] == read(second / "metrics.jsonl")
    assert told["evaluation"] == read(second / "evaluations.jsonl")
    assert told["checkpoint"] == [str(second / "checkpoints" / f"step-{step}") for step in (2, 3)]
    assert told["end"] == [json.loads((second / "summary.json").read_text())]
    assert (folder / "named.jsonl").read_text() == (folder / "given.jsonl").read_text()


def test_a_metric_of_ones_own_is_noted_as_the_three_are(walked: tuple[Path, str]) -> None:
    run = walked[0] / "second"
    rows = read(run / "metrics.jsonl")
    for row in rows:
        # Ten tokens a unit; every teacher answers all questions.
        assert sum(row["length"].values()) * 10 * row["examples"] == pytest.approx(row["tokens"])
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    for teacher, value in rows[-1]["length"].items():
        assert board.Scalars(f"length/{teacher}")[-1].value == pytest.approx(value)
    shown = teachers_section([Run(run, "run")], dict.fromkeys(rows[0]["weight"], "#000"))
    (table,) = (block for block in shown.blocks[0]["blocks"] if block["kind"] == "table")
    last = {row[0]: row[-1] for row in table["rows"]}
    assert table["head"][-1] == "length" and last == pytest.approx(rows[-1]["length"])


def test_parts_of_a_step_take_no_more_than_the_step(walked: tuple[Path, str]) -> None:
    for row in read(walked[0] / "run" / "metrics.jsonl"):
        assert {"data", "forward", "backward", "optimizer"} <= set(row["seconds"])
        assert 0.5 * row["step_seconds"] < sum(row["seconds"].values()) <= row["step_seconds"]


def test_the_board_shows_who_was_heard_most_and_least(walked: tuple[Path, str]) -> None:
    run = walked[0] / "second"
    board = EventAccumulator(str(run / "tensorboard"), {"tensors": 0})
    board.Reload()
    source = {e.id: e for e in api.load_examples("task:arithmetic", limit=48)}
    weight = {}
    for end in ("most", "least"):
        # All weights are alike in the warm-up, the first two steps.
        (event,) = board.Tensors(f"rationales/{end}/text_summary")
        assert event.step == 2
        lines = event.tensor_proto.string_val[0].decode().splitlines()
        assert all(line.startswith("    ") for line in lines), "a block of code: markup in it is text"
        found = re.fullmatch(r" {4}(.*): weight (.*), equal share (.*), question (.*)", lines[0])
        assert found is not None
        teacher, share, equal, id = found.groups()
        weight[end], text = float(share), " ".join(line.strip() for line in lines)
        assert float(equal) == pytest.approx(1 / 3, abs=1e-3)
        (said,) = (r.text for r in source[id].rationales if r.teacher == teacher)
        assert " ".join(source[id].question.split()) in text and " ".join(said.split()) in text
    assert weight["most"] > 1 / 3 > weight["least"]


def test_a_run_writes_its_model_card(walked: tuple[Path, str]) -> None:
    run = walked[0] / "run"
    found = ModelCard.load(run / "final" / "README.md")
    summary = json.loads((run / "summary.json").read_text())
    assert found.data.eval_results[0].metric_value == summary["accuracy"]
    assert all(f"| {teacher} | {weight:.3f} |" in found.text for teacher, weight in summary["weight"].items())
