"""The shape of the checkout that makes one import path hold in a checkout, an editable install and a wheel."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BESIDE = ("kernels", "launcher", "configs")

MODULES = [
    ".".join(("compact_ds", *file.relative_to(ROOT).with_suffix("").parts))
    for folder in ("kernels", "launcher")
    for file in sorted((ROOT / folder).rglob("*.py"))
    if file.name != "__init__.py"
]


@pytest.mark.parametrize("folder", BESIDE)
def test_the_links_lead_to_the_folders_beside(folder: str) -> None:
    link = ROOT / "compact_ds" / folder
    assert link.is_symlink()
    assert os.readlink(link) == f"../{folder}"
    assert link.resolve() == ROOT / folder


@pytest.mark.parametrize("folder", BESIDE)
def test_the_folders_beside_are_no_importable_packages(folder: str) -> None:
    # An importable top-level `kernels` hides Hugging Face's package of that name from transformers.
    assert not (ROOT / folder / "__init__.py").exists()


def test_no_test_folder_is_named_like_a_package() -> None:
    # pytest would import tests/kernels as a top-level package `kernels`.
    assert [entry.name for entry in (ROOT / "tests").iterdir() if entry.is_dir() and entry.name in BESIDE] == []


def test_subfolders_of_the_folders_beside_are_packages() -> None:
    # setup.py finds them by their __init__.py; without it a wheel would lack them.
    for folder in ("kernels", "launcher"):
        for file in (ROOT / folder).rglob("*/*.py"):
            assert (file.parent / "__init__.py").is_file(), file


@pytest.mark.parametrize("module", MODULES)
def test_every_module_beside_is_importable_inside(module: str) -> None:
    assert importlib.import_module(module).__name__ == module
