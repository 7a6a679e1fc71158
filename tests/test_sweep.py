"""The sweep's grid, its fit against known curves, and one small sweep that is resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from compact_ds.cli import main
from compact_ds.errors import ConfigError
from compact_ds.launcher.sweep import cells, read_grid
from compact_ds.launcher.sweep_fit import fit

GRID = {
    "config": "arithmetic",
    "max_steps": 3,
    "overrides": [
        "data.batch_size=4", "data.limit=40", "tree.row_tokens=200", "tree.rows=1",
        "student.scratch={hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}",
    ],
    "grid": {"engine.zero_stage": [0, 2], "world_size": [1]},
    "lengths": {"rationale": 25, "question": 12, "probe": 4},
}  # fmt: skip


def written(folder: Path, **changes: object) -> Path:
    file = folder / "grid.yaml"
    file.write_text(yaml.safe_dump(GRID | changes), encoding="utf-8")
    return file


def test_the_fit_finds_the_terms_of_a_curve() -> None:
    sizes = [1, 2, 4, 8, 16]
    curve = fit(sizes, [0.5 + 8 / w + 0.01 * (w - 1) for w in sizes])
    assert curve is not None
    assert (curve.constant, curve.parallel, curve.messages) == pytest.approx((0.5, 8, 0.01), rel=1e-6)
    assert curve.serial_share == pytest.approx(0.5 / 8.5)
    assert curve.best_world_size == pytest.approx((8 / 0.01) ** 0.5)


def test_two_points_give_amdahl_alone_and_one_gives_nothing() -> None:
    curve = fit([1, 4], [4.0, 1.75])
    assert curve is not None
    assert (curve.constant, curve.parallel, curve.messages) == pytest.approx((1.0, 3.0, 0.0))
    assert fit([2, 2], [1.0, 1.1]) is None


def test_every_combination_is_a_cell_of_its_own(tmp_path: Path) -> None:
    file = written(tmp_path, grid={"engine.zero_stage": [0, 1, 3], "world_size": [1, 2], "tree.rows": [1, 2]})
    found = list(cells(read_grid(file), tmp_path))
    assert len(found) == len({cell.name for cell in found}) == 12
    assert {cell.world_size for cell in found} == {1, 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gird": {}}, "grid.yaml: gird"),
        ({"grid": {"engine.zero_stag": [1]}}, "engine.zero_stag"),
        ({"grid": {"world_size": [3]}}, r"data\.batch_size: found 4; expected a multiple of the world size 3"),
        ({"max_steps": 2}, "max_steps"),
        ({"lengths": {"rational": 3}}, r"grid\.yaml: lengths\.rational: found 3; .* did you mean 'rationale'"),
        ({"lengths": {"rationale": 0}}, r"lengths\.rationale: found 0; expected a number from 1 on"),
        ({"lengths": {"rationale": 9000}}, r"tree\.row_tokens: found 200; expected a row for"),
    ],
)
def test_what_no_cell_can_run_is_told_before_the_first(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        list(cells(read_grid(written(tmp_path, **changes)), tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"config: arithmetic\ngrid: {a: [1]}\ngrid: {b: [1]}\n",
            r"grid\.yaml:3: found the key grid again, as on line 2",
        ),
        (b"config: caf\xe9\n", r"grid\.yaml:1: found byte 0xe9; expected YAML in UTF-8"),
        (b"config: [\n", r"grid\.yaml:2: .*expected valid YAML"),
    ],
)
def test_a_grid_that_is_no_plain_yaml_names_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "grid.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_grid(file)


@pytest.mark.slow
def test_a_sweep_runs_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    cached = [*GRID["overrides"], f"data.cache_dir={tmp_path}"]  # type: ignore[misc]
    given = ["sweep", str(written(tmp_path, overrides=cached)), "--output", str(out), "--json"]
    assert main(given) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["settings"]["engine.zero_stage"] for row in rows] == ["0", "2"]
    assert all(row["seconds"] > 0 and row["planned"]["seconds"] > 0 and row["memory"] > 0 for row in rows)
    assert (out / "sweep.png").stat().st_size > 0
    summary = next(out.glob("cells/*/summary.json"))
    before = summary.stat().st_mtime_ns
    assert main(given) == 0
    assert summary.stat().st_mtime_ns == before
