"""Bars that one rank shows, and none under --quiet."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [file for folder in ("compact_ds", "kernels", "launcher") for file in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize(("is_shown", "switch", "expected"), [(True, "", True), (False, "", False), (True, "1", False)])
def test_a_bar_is_hidden_by_its_rank_or_by_the_switch_of_quiet(is_shown: bool, switch: str, expected: bool) -> None:
    code = f"from compact_ds.progress import progress_bar; list(progress_bar({is_shown}, [1, 2], desc='counting'))"
    words = [sys.executable, "-c", code]
    environment = {key: value for key, value in os.environ.items() if key != "TQDM_DISABLE"}
    environment |= {"TQDM_DISABLE": switch} if switch else {}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert ("counting: 100%" in done.stderr) == expected, done.stderr


def test_no_bar_overrides_the_switch() -> None:
    """Read in the syntax: an explicit `disable` counts for more than TQDM_DISABLE, so one that is False shows the bar."""
    calls = [
        (file.name, call)
        for file in SOURCES
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and getattr(call.func, "id", None) == "tqdm"
    ]
    assert len(calls) >= 5
    overriding = [
        f"{name}:{call.lineno}" for name, call in calls if any(word.arg == "disable" for word in call.keywords)
    ]
    assert overriding == []
