"""The wheel that the source distribution gives, installed alone and used from another folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def _run(command: list[str], folder: Path, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    result = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """checkout -> sdist -> wheel: the second step sees only what the first one packed."""
    folder = tmp_path_factory.mktemp("dist")
    _run([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder / "tools"), "build"], folder)
    _run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], folder, PYTHONPATH=str(folder / "tools"))
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; its dependencies are those of the environment that runs the tests."""
    home = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(home, with_pip=True)
    fresh = home / "bin" / "python"
    _run([str(fresh), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], home)
    site = _run([str(fresh), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], home).strip()
    # A plain path, last in sys.path: the .pth files in there, an editable install's too, are not read through it.
    dependencies = Path(pytest.__file__).parents[1]
    (Path(site) / "dependencies.pth").write_text(f"{dependencies}\n")
    return fresh


def test_the_wheel_holds_what_a_checkout_shows(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("compact_ds/")}
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    tracked = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    shipped = {name for name in tracked if name.startswith("compact_ds/") and not (ROOT / name).is_symlink()}
    for folder in ("kernels", "launcher", "configs"):
        shipped |= {f"compact_ds/{name}" for name in tracked if name.startswith(f"{folder}/")}
    assert packed == shipped


def test_it_trains_from_another_folder(python: Path, tmp_path: Path) -> None:
    where = _run([str(python), "-c", "import compact_ds; print(compact_ds.__file__)"], tmp_path)
    assert Path(where.strip()).is_relative_to(python.parents[1])
    command = [str(python.with_name("compact-ds")), "train", "arithmetic", "max_steps=5", "evaluation.limit=10"]
    _run(command, tmp_path, OMP_NUM_THREADS="1")
    run = tmp_path / "runs" / "arithmetic"
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3, 4]
    assert json.loads((run / "summary.json").read_text())["steps"] == 5
    assert (run / "final" / "config.json").is_file()


@pytest.mark.timeout(3600)
def test_the_ten_minutes_run_as_printed(python: Path, wheel: Path, tmp_path: Path) -> None:
    """Every block of docs/start.md in order, in an empty folder, by a shell that has nothing but the fresh environment."""
    text = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
    shell = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    # The index need not have a release of today's; pip finds this wheel first.
    shell |= {"PATH": f"{python.parent}:{shell['PATH']}", "OMP_NUM_THREADS": "1", "PIP_FIND_LINKS": str(wheel.parent)}
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", text, re.S | re.M)
    assert sum(code.count("\n") for language, code in blocks if language == "sh") < 12
    for language, code in blocks:
        if language == "python":
            (name,) = re.findall(r"save it as `(\w+\.py)`", text)
            (tmp_path / name).write_text(code, encoding="utf-8")
            continue
        result = subprocess.run(
            ["bash", "-euxc", code], cwd=tmp_path, env=shell, capture_output=True, text=True, timeout=3000
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert "Traceback" not in result.stderr and "Warning" not in result.stderr, result.stderr
    for file in ("runs/first/report.html", "runs/both.html", "runs/mine/report.html"):
        assert (tmp_path / file).stat().st_size > 900_000
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {(row["id"], row["teacher"]) for row in rows} == {
        (f"shells-{i}", teacher) for i in range(30) for teacher in ("ann", "bob")
    }
    assert (tmp_path / "runs" / "mine" / "final" / "README.md").is_file()
