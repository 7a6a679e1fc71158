"""What a resumed run may have otherwise, and how a refusal reads."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from processes import start

from compact_ds import config as configuration
from compact_ds.errors import ConfigError
from compact_ds.optimizer_step.training_set import TrainingSet
from compact_ds.run.identity import MAY_CHANGE, check, flat, identity


def _identity(*overrides: str, content: str = "c", teachers: tuple[str, ...] = ("ada", "ben")) -> dict[str, Any]:
    data = cast(TrainingSet, SimpleNamespace(content=content, teachers=teachers))
    retain = SimpleNamespace(content="r")
    return identity(configuration.load("arithmetic", list(overrides)), data, cast(Any, {"retention": retain}))


def test_every_setting_counts_unless_it_is_listed() -> None:
    settings = flat(configuration.load("arithmetic").model_dump(mode="json"))
    counted = _identity()
    for key in settings:
        assert (key in counted) != any(key == name or key.startswith(f"{name}.") for name in MAY_CHANGE), key
    assert {"mixer.mode", "tree.row_tokens", "compatibility.alpha", "student.model", "optimizer.lr"} <= counted.keys()


def test_it_survives_json() -> None:
    assert json.loads(json.dumps(_identity())) == _identity()


@pytest.mark.parametrize(
    "override",
    [
        "run_dir=x",
        "checkpoint_every=7",
        "checkpoint_keep=9",
        "evaluation.every=3",
        "tree.rows=2",
        "data.eval_split=dev",
        "mixer.max_bad=9",
    ],
)
def test_what_changes_no_update_may_change(override: str) -> None:
    check(_identity(), _identity(override), "step-3")


@pytest.mark.parametrize(
    ("override", "was", "now"),
    [
        ("optimizer.lr=0.5", "optimizer.lr=0.002", "optimizer.lr=0.5"),
        ("mixer.cagrad_radius=0.1", "mixer.cagrad_radius=0.4", "mixer.cagrad_radius=0.1"),
        ("tree.max_probes=2", "tree.max_probes=8", "tree.max_probes=2"),
        ("compatibility.tau=1.0", "compatibility.tau=0.3", "compatibility.tau=1.0"),
        ("student.lora={r: 4}", "no student.lora.r", "student.lora.r=4"),
        ("method=uniform", "method='compact'", "method='uniform'"),
        ("engine.zero_stage=1", "engine.zero_stage=3", "engine.zero_stage=1"),
    ],
)
def test_what_changes_an_update_is_refused_with_its_name_and_both_values(override: str, was: str, now: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check(_identity(), _identity(override), "step-3")
    assert override.split("=")[0] in refused.value.where
    assert now in str(refused.value.value) and was in refused.value.expected and "step-3" in refused.value.expected


def test_other_data_and_other_teachers_are_refused() -> None:
    with pytest.raises(ConfigError, match="content of data, teachers: found content of data='d', teachers="):
        check(_identity(), _identity(content="d", teachers=("ada",)), "step-3")


def test_a_deepspeed_file_counts_by_its_content(tmp_path: Path) -> None:
    file, other = tmp_path / "one.json", tmp_path / "other.json"
    file.write_text('{"zero_optimization": {"stage": 2}}', encoding="utf-8")
    other.write_text('{"zero_optimization": {"stage": 2}}', encoding="utf-8")
    was = _identity(f"engine.deepspeed={file}")
    check(was, _identity(f"engine.deepspeed={other}"), "step-3")
    other.write_text('{"zero_optimization": {"stage": 1}}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"zero_optimization\.stage"):
        check(was, _identity(f"engine.deepspeed={other}"), "step-3")


WORKER = """
import os, sys
from compact_ds.cli import main
limit = 100 - 10 * int(os.environ["RANK"])
sys.exit(main(["train", "arithmetic", f"data.limit={limit}", *sys.argv[1:]]))
"""


def test_ranks_with_other_data_than_the_first_are_refused_on_all_of_them(tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER, encoding="utf-8")
    words = [f"run_dir={tmp_path / 'run'}", f"data.cache_dir={tmp_path / 'cache'}", "data.batch_size=8", "max_steps=1"]
    codes, outputs = start([str(worker), *words, "evaluation.limit=2"], 2)
    assert codes == [2, 2], outputs[0][-3000:]
    for said in outputs:
        assert "content of data, data.limit: found content of data=" in said
        assert "data.limit=90 on rank 1; expected content of data=" in said and "data.limit=100, as on rank 0" in said
        assert "give every node the same configuration and the same files" in said
    assert not (tmp_path / "run" / "config.yaml").exists(), "before anything is written"


def test_many_differences_are_counted() -> None:
    was, now = {f"key{i}": 0 for i in range(9)}, {f"key{i}": 1 for i in range(9)}
    with pytest.raises(ConfigError, match="and 3 more"):
        check(was, now, "step-3")
