"""The documentation as a site: its references are made of the declarations, every page is in it, and it builds strictly."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from compact_ds.sections import Config

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_the_files_page_has_a_line_for_every_module(hooks: ModuleType) -> None:
    rows = re.findall(r"^\| `(\w+\.py)` \| (.+) \|$", hooks.files_page(), re.M)
    modules = [file.name for folder in ("compact_ds", "kernels", "launcher") for file in (ROOT / folder).rglob("*.py")]
    assert sorted(name for name, _ in rows) == sorted(name for name in modules if name != "__init__.py")
    first = "From the Gram matrix of the teachers' gradients to one coefficient a teacher: sum, and four ways to settle conflicts"
    assert ("surgery.py", first) in rows


def test_every_page_is_in_the_navigation_once(hooks: ModuleType) -> None:
    listed = [page for section in hooks.navigation() for pages in section.values() for page in pages]
    assert sorted(listed) == sorted(
        [*(page.name for page in DOCS.glob("*.md")), "configuration.md", "commands.md", "files.md"]
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="needs the extra `docs`")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr
    index = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "fonts.googleapis.com" not in index
