"""The job `eval` on a small student in a folder: figures against its own rows, several ranks, another model, the harness."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from compact_ds.cli import main
from compact_ds.evaluation.paired import read_rows
from compact_ds.evaluation.perplexity import texts_of
from compact_ds.evaluation.statistics import interval
from compact_ds.run.log import read
from compact_ds.sections import StudentConfig
from compact_ds.student.load import load_tokenizer

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("student")
    tokenizer = load_tokenizer(StudentConfig(model="scratch", tokenizer="task:arithmetic"))
    torch.manual_seed(3)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.5, bos_token_id=None, eos_token_id=None,
        pad_token_id=None,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def figures(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["eval", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_figures_are_those_of_the_rows(student: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows_file = tmp_path / "new" / "rows.jsonl"
    sampled = ("--samples", "5", "--temperature", "1.5", "--max-new-tokens", "8", "--limit", "12", "--rationales")
    words = (student, "--data", "task:arithmetic:eval", *sampled)
    found = figures(capsys, *words, "--output", str(rows_file))
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()]
    assert len(rows) == found["n"] == 12 and all(len(row["samples"]) == 5 for row in rows)
    assert found["accuracy"] == pytest.approx(sum(row["right"] for row in rows) / 12)
    shares = [sum(s["right"] for s in row["samples"]) / 5 for row in rows]
    assert found["pass@1"] == pytest.approx(sum(shares) / 12)
    assert found["pass@5"] == pytest.approx(sum(share > 0 for share in shares) / 12)
    assert found["maj@5"] == pytest.approx(found["accuracy"])
    # Of the majorities, as accuracy is, not of the shares.
    assert found["accuracy_interval"] == list(interval([float(row["right"]) for row in rows]))
    losses = [rationale["loss"] for row in rows for rationale in row["rationales"]]
    assert len(losses) > 12 and found["rationale_loss"] == pytest.approx(sum(losses) / len(losses))
    again = figures(capsys, *words, "--batch-size", "5", "--against", str(rows_file))
    assert again["against"]["difference"] == 0 and again["against"]["mcnemar_p"] == 1


def test_options_and_perplexity(student: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, text = tmp_path / "q.jsonl", tmp_path / "t.txt"
    data.write_text('{"id": "a", "question": "2 plus 4 ? choices: A: 6 B: 5", "answer": "A"}\n')
    text.write_text("4 plus 2 makes 6 .")
    found = figures(capsys, student, "--data", str(data), "--options", "text", "--perplexity", str(text))
    assert found["n"] == 1 and found["accuracy"] in (0, 1) and 0 < found["gold_probability"] < 1
    assert found["tokens"] == 5 and found["perplexity"] > 1


def test_questions_are_of_the_test_split_unless_said(
    student: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is a dependency of the package")
    rows = [{"id": name, "question": "2 plus 4 ? choices: A: 6 B: 5", "answer": "A"} for name in ("trained", "tested")]
    splits = {name: datasets.Dataset.from_list([one]) for name, one in zip(("train", "test"), rows, strict=True)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "both")
    output = tmp_path / "rows.jsonl"
    words = (student, "--data", str(tmp_path / "both"), "--options", "letter", "--output", str(output))
    for split, id in (((), "tested"), (("--split", "train"), "trained")):
        figures(capsys, *words, *split)
        assert [row["id"] for row in read_rows(output)] == [id]
    assert main(["eval", *words, "--split", "dev"]) == 2
    assert "'dev' is none of train, test" in (line := capsys.readouterr().err) and "--split" in line


@torch.no_grad()
def test_the_cue_stands_before_the_gold_answer(
    student: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, options = tmp_path / "q.jsonl", tmp_path / "o.jsonl"
    data.write_text('{"id": "a", "question": "2 plus 4 ?", "answer": "6"}\n')
    options.write_text('{"id": "a", "question": "2 plus 4 ? choices: A: 6 B: 5", "answer": "A"}\n')
    tokenizer, lm = AutoTokenizer.from_pretrained(student), AutoModelForCausalLM.from_pretrained(student)
    losses, shares = {}, {}
    for cue in ("\nThe answer is ", "\n7 makes "):
        ids = torch.tensor([tokenizer(f"2 plus 4 ?{cue}6")["input_ids"]])
        losses[cue] = -float(lm(ids).logits[0, -2].log_softmax(-1)[ids[0, -1]])
        ids = torch.tensor([tokenizer(f"2 plus 4 ? choices: A: 6 B: 5{cue}")["input_ids"]])
        of_words = lm(ids).logits[0, -1][tokenizer.convert_tokens_to_ids(["6", "5"])]
        shares[cue] = float(of_words.softmax(-1)[0])
    assert len(set(losses.values())) == len(set(shares.values())) == 2
    for cue in losses:
        given = [] if cue == "\nThe answer is " else ["--cue", cue]
        found = figures(capsys, student, "--data", str(data), "--max-new-tokens", "2", *given)
        assert found["answer_loss"] == pytest.approx(losses[cue], abs=1e-5)
        found = figures(capsys, student, "--data", str(options), "--options", "text", *given)
        assert found["gold_probability"] == pytest.approx(shares[cue], abs=1e-5)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "eval: found nothing to measure; expected --data, --perplexity or --lm-eval"),
        (
            ("--perplexity", "t.txt", "--output", "o"),
            "eval: found no --data; expected questions, for --output and --against",
        ),
        (
            ("--lm-eval", "t", "--data", "q.jsonl", "--against", "o.jsonl"),
            "--lm-eval: found --data, --against beside it; expected a command of its own",
        ),
        (("--lm-eval", "t", "--nprocs", "2"), "--lm-eval: found --nprocs beside it; expected a command of its own"),
        (
            (
                "--lm-eval",
                "t",
                *["--samples", "4", "--temperature", "0.7", "--stop", "x", "--past-answer", "--limit", "3"],
            ),
            "--lm-eval: found --samples, --temperature, --stop, --past-answer beside it; expected a command of its own",
        ),
        (("--data", "task:arithmetic:eval", "--samples", "3"), "--samples: found 3; expected a --temperature above 0"),
    ],
)
def test_what_cannot_be_asked(words: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "MODEL", *words]) == 2
    assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [("--samples", "0"), ("--batch-size", "0"), ("--limit", "-1"), ("--temperature", "-1"), ("--temperature", "nan")],
)
def test_numbers_that_mean_nothing(words: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "MODEL", "--data", "task:arithmetic:eval", *words]) == 2
    assert f"argument {words[0]}: '{words[1]}' is not" in capsys.readouterr().err


def test_separators_that_json_may_hold_do_not_part_rows(tmp_path: Path) -> None:
    text = "one\u2028two\u2029three\u0085four"
    file = tmp_path / "rows.jsonl"
    rows = [{"id": "a", "right": True, "text": text}, {"id": "b", "right": False, "text": text}]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert read_rows(file) == rows
    assert texts_of(file) == [text, text]
    assert read(file) == rows


@pytest.mark.slow
def test_two_ranks_measure_what_one_does(student: str, capfd: pytest.CaptureFixture[str]) -> None:
    words = ("eval", student, "--data", "task:arithmetic:eval", "--limit", "7", "--max-new-tokens", "5", "--json")
    assert main([*words]) == 0
    one = json.loads(capfd.readouterr().out)
    assert main([*words, "--nprocs", "2"]) == 0
    line = next(line for line in capfd.readouterr().out.splitlines() if line.startswith("{"))
    assert json.loads(line) == {name: pytest.approx(value, rel=1e-5) for name, value in one.items()}


@pytest.mark.slow
def test_a_zero_3_run_measures_what_it_keeps_and_the_harness_reads_its_student(tmp_path: Path) -> None:
    """Without a hub: the environment names one that nobody can reach, and offline mode is not set."""
    pytest.importorskip("lm_eval")
    kept = tmp_path / "q.jsonl"
    rows = [{"id": f"q{i}", "question": f"{i} plus 4 ? choices: A: 7 B: 5", "answer": "AB"[i % 2]} for i in range(4)]
    kept.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = tmp_path / "t.txt"
    text.write_text("4 plus 2 makes 6 .\n" * 3)
    folder = tmp_path / "run"
    environment = {
        **os.environ,
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path / "hf"),
        "PYTHONPATH": str(ROOT),
    }

    def command(*words: str) -> str:
        run = [sys.executable, "-m", "compact_ds.cli", *words]
        return subprocess.run(run, env=environment, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    command(
        "launch", "arithmetic", "--nprocs", "2", "max_steps=2", "data.limit=24", "data.batch_size=4", "evaluation.limit=4",
        "evaluation.max_new_tokens=6", "evaluation.rationale_loss=true", f"evaluation.retention=[{kept},{text}]",
        "engine.zero_stage=3", f"run_dir={folder}", f"data.cache_dir={tmp_path / 'cache'}",
        "student.scratch.hidden_size=64", "student.scratch.num_hidden_layers=2",
    )  # fmt: skip
    evaluations = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    assert [row["step"] for row in evaluations] == [0, 2]
    for row in evaluations:
        assert row["rationale_loss"] > 0
        questions, texts = row["retention"][f"{tmp_path.name}/q"], row["retention"][f"{tmp_path.name}/t"]
        assert questions["n"] == 4 and texts["perplexity"] > 1 and texts["tokens"] == 17
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["retention_before"] == evaluations[0]["retention"]
    tasks = ("--lm-eval", "local_choice,local_generation", "--lm-eval-include", "tests/lm_eval_tasks")
    found = json.loads(command("eval", str(folder / "final"), *tasks, "--json").splitlines()[-1])
    assert 0 <= found["local_choice/acc"] <= 1
    assert 0 <= found["local_generation/exact_match/strict-match"] <= 1
