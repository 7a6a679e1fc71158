"""The command line from outside: exit codes, one line on stderr, and an answer without a wait."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compact_ds import __version__, cli
from compact_ds.cli.evaluate import _words as words_for_ranks
from compact_ds.cli.examples import EXAMPLES
from compact_ds.config import load
from compact_ds.errors import UserError
from compact_ds.launcher.arguments import take_late_overrides

ROOT = Path(__file__).parents[1]


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "compact_ds.cli", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_help_is_fast_since_nothing_heavy_is_imported() -> None:
    start = time.perf_counter()
    result = _run("--help")
    seconds = time.perf_counter() - start
    assert result.returncode == 0
    assert all(command in result.stdout for command in ("train", "launch", "compare", "score", "eval", "data"))
    assert seconds < 1.0  # importing torch alone takes longer
    heavy = (
        "import sys; from compact_ds import cli; cli._parser(); print({'torch', 'pydantic', 'rich'} & set(sys.modules))"
    )
    check = subprocess.run([sys.executable, "-c", heavy], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert check.stdout == "set()\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["train"], "the following arguments are required: CONFIG"),
        (
            ["train", "arithmetic", "--resum"],
            "found unknown argument --resum; expected what the help page says; try compact-ds train --help",
        ),
        (["train", "arithmetic", "--max_steps", "3"], "settings have no dashes: max_steps=VALUE"),
        (["train", "arithmetic", "--batch-size=4"], "data.batch_size=VALUE or "),
        (["data", "stats", "f", "--max_steps", "3"], "try compact-ds data stats --help"),
        (
            ["train", "arithmetic", "data=good.jsonl"],
            "command line: data: found good.jsonl; expected a section; give its keys: data.KEY=VALUE",
        ),
        (
            ["train", "arithmetic", "data.teachers=ann"],
            "command line: data.teachers: found ann; expected a list; write data.teachers=[ann]",
        ),
        (["train", "arithmetic", "optimizer.lr=abc"], "command line: optimizer.lr: found abc; expected"),
        (["train", "nowhere.yaml"], "nowhere.yaml: found no such file"),
        (
            ["train", "arithmetic", "max_stps=3"],
            "max_stps: found 3; expected a known config key; did you mean 'max_steps'?",
        ),
        (["launch", "arithmetic", "--nprocs", "five"], "argument --nprocs: invalid int value: 'five'"),
        (
            ["launch", "arithmetic", "--nprocs", "5"],
            "data.batch_size: found 24; expected a multiple of the world size 5",
        ),
        (["compare", "arithmetic", "--methods", "compat"], "--methods: found compat; expected methods"),
        (["compare", "arithmetic", "--seeds", "0"], "--seeds: found 0; expected 1 or more"),
        (["eval", "m", "--data", "f", "--seed", "-1"], "argument --seed: '-1' is not a whole number from 0 on"),
        (["analyze", "a", "b", "--data", "f", "--seed", "-1"], "argument --seed: '-1' is not a whole number from 0 on"),
        (["data", "stats", "missing.jsonl"], "missing.jsonl: found no such file"),
        (["data", "stats", "task:arithmetick"], "arithmetick"),
    ],
)
def test_a_users_error_is_one_line_and_exit_code_2(words: list[str], expected: str) -> None:
    result = _run(*words)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("compact-ds: error: ")
    assert result.stderr.count("\n") == 1
    assert expected in result.stderr


def test_version() -> None:
    assert _run("--version").stdout == f"compact-ds {__version__}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["arithmetic", "seed=1", "max_steps=2", "--resume"],
        ["arithmetic", "--resume", "seed=1", "max_steps=2"],
        ["--resume", "arithmetic", "seed=1", "max_steps=2"],
        ["--local_rank=1", "arithmetic", "seed=1", "--resume", "max_steps=2"],
    ],
)
def test_overrides_may_stand_before_and_after_options(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[argparse.Namespace] = []

    def train(arguments: argparse.Namespace) -> int:
        seen.append(arguments)
        return 0

    monkeypatch.setattr("compact_ds.cli.train._train", train)
    assert cli.main(["train", *words]) == 0
    assert (seen[0].config, seen[0].overrides, seen[0].resume) == ("arithmetic", ["seed=1", "max_steps=2"], True)


def test_a_users_error_inside_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(_: object) -> int:
        raise UserError("file.jsonl:3", "a\nb", "c", "d")

    monkeypatch.setattr("compact_ds.cli.evaluate._eval", refuse)
    assert cli.main(["eval", "model", "--data", "x"]) == 2
    assert capsys.readouterr().err == "compact-ds: error: file.jsonl:3: found a b; expected c; d\n"


def test_our_own_broken_invariants_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> int:
        raise AssertionError("an invariant")

    monkeypatch.setattr("compact_ds.cli.evaluate._eval", broken)
    with pytest.raises(AssertionError, match="an invariant"):
        cli.main(["eval", "model", "--data", "x"])


def test_data_stats_for_people_and_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "questions.jsonl"
    rationales = [
        {"teacher": "anna", "text": "1 and 1 make 2.\nThe answer is 2"},
        {"teacher": "bert", "text": "1 and 1 make 3.\nThe answer is 3"},
    ]
    file.write_text(json.dumps({"id": "1", "question": "1 + 1?", "answer": "2", "rationales": rationales}) + "\n")
    assert cli.main(["data", "stats", str(file), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert {name: teacher["right"] for name, teacher in figures["teachers"].items()} == {"anna": 1.0, "bert": 0.0}
    assert cli.main(["data", "stats", str(file)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^ *anna +1 +1\.000 .* 1\.000", shown, re.M) and re.search(
        r"^ *bert +1 +1\.000 .* 0\.000", shown, re.M
    )


def test_data_graph_explains_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "graph.svg"
    assert cli.main(["data", "graph", "task:arithmetic", "--id", "arithmetic-train-0", "--output", str(picture)]) == 0
    assert capsys.readouterr().out.startswith("arithmetic-train-0: 3 teachers")
    assert picture.read_text(encoding="utf-8").startswith("<?xml")
    assert cli.main(["data", "graph", "task:arithmetic", "--id", "nobody"]) == 2
    assert "--id: found nobody" in capsys.readouterr().err


def test_data_stats_against_a_test_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"id": "a", "question": "How many legs have two spiders and a cat together ?", "answer": "20"}
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    train.write_text(
        json.dumps(row | {"rationales": [{"teacher": "t", "text": "The answer is 20"}]}) + "\n", encoding="utf-8"
    )
    test.write_text(json.dumps(row | {"id": "b"}) + "\n", encoding="utf-8")
    assert cli.main(["data", "stats", str(train), "--against", str(test), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["contaminated"] == {str(test): [{"id": "a", "test_id": "b", "share": 1.0}]}
    assert found["estimated"] == {"t": 0.5} and found["copies"] == {} and found["doubled_questions"] == []


def test_data_import_and_verify_print_what_came_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "flat.csv", tmp_path / "out.jsonl"
    source.write_text(
        "question,answer,model,text\nq ?,3,ada,The answer is 3\nq ?,3,ben,The answer is 4\n", encoding="utf-8"
    )
    assert cli.main(["data", "import", str(source), "--output", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rationales"] == {"ada": 1, "ben": 1}
    assert cli.main(["data", "verify", str(output), "--json"]) == 0
    assert {t: c["right"] for t, c in json.loads(capsys.readouterr().out)["teachers"].items()} == {"ada": 1, "ben": 0}


COMMANDS = [one for one in cli.parsers(cli._parser()) if one.get_default("run") is not None]


@pytest.mark.parametrize("parser", COMMANDS, ids=lambda parser: parser.prog)
def test_help_has_examples_that_parse_and_fits_80_columns(
    parser: argparse.ArgumentParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, parser.format_help().split("examples:")[0].splitlines())) <= 80
    for line in EXAMPLES[parser.prog]:
        words = shlex.split(re.sub(r'^eval "\$\((.*)\)"$', r"\1", line))
        assert words[: len(parser.prog.split())] == parser.prog.split()
        arguments, rest = cli._parser().parse_known_args(words[1:])
        assert take_late_overrides(arguments, rest) == []
        config = getattr(arguments, "config", None)
        if config is not None and not str(config).endswith((".yaml", ".yml")):
            load(config, list(getattr(arguments, "overrides", ())))
    assert parser.epilog and all(line in parser.epilog for line in EXAMPLES[parser.prog])


def test_every_example_is_of_a_command() -> None:
    assert set(EXAMPLES) == {parser.prog for parser in COMMANDS} | {"compact-ds"}


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("compact-ds tra", "train"),
        ("compact-ds data ge", "generate"),
        ("compact-ds report --exa", "--examples"),
        ("compact-ds completion z", "zsh"),
        ("compact-ds report ru", "runs"),
        ("compact-ds score REA", "README.md"),
    ],
)
def test_bash_completes(typed: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "README.md").touch()
    (tmp_path / "runs").mkdir()
    assert cli.main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    words = typed.split()
    asked = f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; COMP_LINE={shlex.quote(typed)}"
    code = f'source ./script; complete -p compact-ds; {asked}; COMP_TYPE=9; _shtab_compact_ds; echo "${{COMPREPLY[@]}}"'
    result = subprocess.run(["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert result.stdout.splitlines()[-1].split() == [expected], result.stderr


def test_quiet_has_no_bars_and_no_remarks() -> None:
    words = ["data", "verify", "task:arithmetic"]
    loud, quiet = _run(*words), _run(*words, "--quiet")
    assert "verify: " in loud.stderr and quiet.stderr == ""
    assert quiet.stdout == loud.stdout != ""
    assert _run("launch", "arithmetic", "--nprocs", "2", "--dry-run", "--quiet").stdout.rstrip().endswith("--quiet")


def test_ranks_of_eval_are_told_what_it_was_told() -> None:
    told = ["eval", "m", "--data", "f", "--stop=---", "--stop=\n", "--samples", "2", "--past-answer", "--nprocs", "2"]
    asked = cli._parser().parse_args(told)
    again = cli._parser().parse_args(["eval", *words_for_ranks(asked)])
    assert vars(again) == vars(asked) | {"nprocs": again.nprocs}
    assert again.stop == ["---", "\n"]
