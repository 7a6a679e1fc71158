"""The house rules that a machine can hold: sizes of files and functions, and a README map that is true."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("compact_ds", "kernels", "launcher", "tests", "docs", "examples")
SOURCES = [
    file for folder in FOLDERS for ending in ("py", "js", "css", "sh") for file in sorted((ROOT / folder).rglob(f"*.{ending}"))
]  # fmt: skip
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAP = README.partition("## Map of the code")[2].partition("\n## ")[0]
MOST_LINES, MOST_OF_A_FUNCTION = 300, 50


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_and_functions_are_short(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count("\n") < MOST_LINES
    for node in ast.walk(ast.parse(text)) if file.suffix == ".py" else ():
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno + 1 < MOST_OF_A_FUNCTION, node.name


def _mapped() -> list[Path]:
    """Every path that begins a line of the map, or stands beside it there; a line further in belongs to the folder above."""
    found, folder = [], ROOT
    for line in re.findall(r"^    (.*\S)$", MAP, re.M):
        names = re.findall(r"[\w/*]+(?:/|\.py)(?=\s|$)", re.split(r"\s{3,}", line.strip())[0])
        if not names:
            continue
        first = (folder if line.startswith("  ") else ROOT) / names[0]
        # `compact_ds/train.py  score.py`: the second lies beside the first.
        found += [first, *(first.parent / name for name in names[1:])]
        if not line.startswith("  ") and names[0].endswith("/"):
            folder = first
    return found


def test_the_map_names_what_exists() -> None:
    mapped = _mapped()
    assert len(mapped) > 40
    for path in mapped:
        assert path.exists() or list(path.parent.glob(path.name)), path


def test_the_map_has_every_folder_and_module() -> None:
    """Folders and modules of the package by path; those of a folder that the map opens, by name or by a word of its line."""
    mapped = {path.relative_to(ROOT).as_posix() for path in _mapped()}
    for entry in sorted((ROOT / "compact_ds").iterdir()):
        if entry.name.startswith("_") or entry.is_symlink() or (entry.is_file() and entry.suffix != ".py"):
            continue
        assert entry.relative_to(ROOT).as_posix() in mapped, entry.name
    for folder in ("kernels", "launcher", "compact_ds/run", "compact_ds/optimizer_step"):
        for file in sorted((ROOT / folder).glob("*.py")):
            family = file.stem.split("_")[0]
            named = re.search(rf"\b{file.stem}\b", MAP) or f"{family}_*.py" in MAP
            assert file.name == "__init__.py" or named, f"{folder}/{file.name}"
