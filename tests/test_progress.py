"""Bars are shown by one rank, and by none under `--quiet`, which a bar that says anything about `disable` would not hear."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT
from uneven_questions import write

SHOWN = "from compact_ds.progress import progress_bar as bar; print(bar(True, total=3).disable, bar(False, total=3).disable)"


@pytest.mark.parametrize(("switch", "disabled"), [({}, "False True"), ({"TQDM_DISABLE": "1"}, "True True")])
def test_a_bar_that_is_to_be_shown_heeds_the_switch(switch: dict[str, str], disabled: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"} | switch
    run = [sys.executable, "-c", SHOWN]
    found = subprocess.run(run, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    assert found.stdout.strip() == disabled


@pytest.mark.parametrize("words", [(), ("--quiet",)])
def test_a_quiet_score_has_no_bar(tmp_path: Path, words: tuple[str, ...]) -> None:
    write(tmp_path / "questions.jsonl")
    command = [
        sys.executable,
        "-m",
        "compact_ds.cli",
        "score",
        str(tmp_path / "questions.jsonl"),
        "--student",
        "scratch",
    ]
    command += [
        "data.limit=4",
        f"data.cache_dir={tmp_path}",
        "student.tokenizer=task:arithmetic",
        "tree.row_tokens=200",
    ]
    command += ["student.scratch={hidden_size: 64, intermediate_size: 128}"]
    found = subprocess.run([*command, *words], cwd=ROOT, check=True, capture_output=True, text=True)
    assert [name in found.stderr for name in ("score:", "weigh:")] == [not words] * 2
