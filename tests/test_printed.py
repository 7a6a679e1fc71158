"""What README, CONTRIBUTING and the documentation print: commands, settings, scripts, code and links are there and are right.

That the pages come together as a site is `test_docs`; that the ten minutes run as printed is `test_wheel`.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import textwrap
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from compact_ds import cli, config
from compact_ds.launcher.arguments import take_late_overrides
from compact_ds.sections import Config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
_COMMAND = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?compact-ds (.*)$")


def fenced(text: str, language: str = r"[^\n]*") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


def blocks(text: str) -> list[str]:
    """Fenced and indented blocks of code."""
    rest = re.sub(r"^```[^\n]*\n.*?^```", "", text, flags=re.S | re.M)
    return fenced(text) + [textwrap.dedent(block) for block in re.findall(r"(?:^ {4,}[^\n]*\n)+", rest, re.M)]


def spans(text: str) -> list[str]:
    """Code within sentences."""
    return [
        " ".join(span.split())
        for span in re.findall(r"(?<!`)`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))
    ]


def commands(text: str) -> list[str]:
    """The words after `compact-ds` on every line of code that begins with it, without remarks beside the command."""
    lines = re.sub(r"\\\n\s*", "", "\n".join(blocks(text))).splitlines()
    lines += [span for span in spans(text) if " -" in span or "=" in span]
    found = [match[1] for line in lines if (match := _COMMAND.match(line.strip()))]
    return [re.split(r"\s{2,}|\s#\s", re.sub(r" +(?=--)", " ", words))[0] for words in found]


def filled(words: str) -> list[str] | None:
    """A command with the placeholders of a synopsis filled in; None for a line that names several commands."""
    if " | " in re.sub(r"\[[^]]*\]", "", words):
        return None
    plain = re.sub(r" \[(?:key=value|RUN) \.\.\.\]| \.\.\.|[\[\]]", "", words).replace(" | ", " ")
    return ["2" if word in ("N", "J") else word for word in shlex.split(plain)]


PRINTED = [(name, words) for name, text in TEXTS.items() for words in commands(text) if filled(words) is not None]


@pytest.mark.parametrize(("page", "words"), PRINTED, ids=[f"{page}: {words[:50]}" for page, words in PRINTED])
def test_a_printed_command_parses_and_its_settings_load(page: str, words: str) -> None:
    given = filled(words)
    assert given is not None
    if given[:2] == ["launch", "CONFIG"] and "--slurm" in given:
        pytest.skip("a synopsis of alternatives")
    arguments, rest = cli._parser().parse_known_args(given)
    assert take_late_overrides(arguments, rest) == []
    named, overrides = getattr(arguments, "config", None), getattr(arguments, "overrides", [])
    if named == "CONFIG" or named is None:
        named = "arithmetic"
    if getattr(arguments, "config", None) or overrides:
        config.load(named, ["data.train=train.jsonl", *overrides])


def test_commands_were_found() -> None:
    assert len(PRINTED) > 40
    assert ("start.md", "train arithmetic run_dir=runs/first") in PRINTED
    assert ("kernels.md", "bench kernels --rows 512,2048 --repeats 7") in PRINTED, "one within a sentence"


@pytest.mark.parametrize("page", TEXTS)
def test_named_commands_exist(page: str) -> None:
    known = {parser.prog for parser in cli.parsers(cli._parser())}
    for span in spans(TEXTS[page]):
        words = re.match(r"compact-ds((?: [a-z]+)*)", span)
        if words and words[1]:
            assert any(f"{' '.join(span.split()[:n])}" in known for n in (2, 3)), span


@pytest.mark.parametrize("page", TEXTS)
def test_printed_scripts_tests_targets_and_extras_exist(page: str) -> None:
    text = TEXTS[page]
    code = "\n".join([*blocks(text), *spans(text)])
    for name in re.findall(r"\b((?:tests|examples)/\w+\.(?:py|sh))", code):
        assert (ROOT / name).is_file(), name
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"^make (\w+)", code, re.M)) <= targets
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = set(re.findall(r"^([\w-]+) = \[", project.partition("[project.optional-dependencies]")[2], re.M))
    for listed in re.findall(r"compact-ds\[([\w,-]+)\]", text):
        assert set(listed.split(",")) <= extras, listed


@pytest.mark.parametrize("page", TEXTS)
def test_printed_python_names_what_exists(page: str) -> None:
    """Code compiles, and what it imports from the package, or reads from it as an attribute, is there."""
    for code in fenced(TEXTS[page], "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("compact_ds"):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "compact_ds":
                assert hasattr(importlib.import_module("compact_ds"), node.attr), node.attr


def test_the_extension_that_is_printed_is_the_one_that_is_tested() -> None:
    (printed,) = fenced(TEXTS["extending.md"], "python")
    tested = ast.parse((ROOT / "tests" / "length_extension.py").read_text(encoding="utf-8"))
    for node in (tested, *ast.walk(tested)):
        if isinstance(node, (ast.Module, ast.ClassDef)) and ast.get_docstring(node):
            node.body = node.body[1:]
    assert ast.dump(ast.parse(printed)) == ast.dump(tested)


def _keys(section: type[BaseModel], path: str = "") -> set[str]:
    """Every key of the config by its dotted path, and every section's."""
    found = set()
    for name, field in section.model_fields.items():
        key = f"{path}.{name}" if path else name
        inner = [
            one
            for one in (field.annotation, *getattr(field.annotation, "__args__", ()))
            if hasattr(one, "model_fields")
        ]
        found |= {key} | (_keys(inner[0], key) if inner else set())
    return found


@pytest.mark.parametrize("page", TEXTS)
def test_settings_in_the_prose_exist(page: str) -> None:
    """`section.key` in code is a key of the config, where the section is one; so is every key of a printed config."""
    known = _keys(Config)
    sections = {key.split(".")[0] for key in known if "." in key}
    for span in spans(TEXTS[page]):
        for key in re.findall(r"^((?:[a-z_]+\.)+[a-z_]+)(?:=.*)?$", span):
            is_file = key.endswith((".py", ".yaml", ".json", ".md", ".jsonl", ".html"))
            assert key.split(".")[0] not in sections or is_file or key in known, key
    for code in fenced(TEXTS[page], "yaml"):
        assert set(yaml.safe_load(code)) <= known


@pytest.mark.parametrize("page", PAGES, ids=list(TEXTS))
def test_links_lead_somewhere(page: Path) -> None:
    """Files exist, and the headings that a link names."""
    made = {ROOT / "docs" / name for name in ("configuration.md", "commands.md", "files.md")}
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", TEXTS[page.name], flags=re.S | re.M)):
        if target.startswith(("http:", "https:")):
            continue
        name, _, heading = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists() or file in made, target
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}
            assert heading in slugs, target
