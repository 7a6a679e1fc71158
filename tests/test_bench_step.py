"""`bench step` on the built-in task: contenders agree with one another, phases add up, refusals are one line."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from processes import start
from random_records import record

from compact_ds.bench import step, trees
from compact_ds.errors import UserError

SHAPE = [
    "data.batch_size=4",
    "tree.row_tokens=400",
    "tree.rows=1",
    "student.scratch.hidden_size=32",
    "engine.zero_stage=0",
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bench")
    words = [
        "-m",
        "compact_ds.cli",
        "bench",
        "step",
        "arithmetic",
        "--against",
        "plain,uniform,naive",
        "--repeats",
        "2",
    ]
    words += ["--no-plot", "--json", "--output", str(folder), f"data.cache_dir={folder}", *SHAPE]
    _, outputs = start([*words, "compatibility.adaptability=jump", "--trace"], 1)
    assert (folder / "results.json").exists(), outputs[0][-3000:]
    assert "compact_ds.backward" in (folder / "trace.json").read_text(encoding="utf-8")
    results: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return results


def test_contenders_that_compute_the_same_have_the_same_losses(found: dict[str, Any]) -> None:
    losses = {row["name"]: row["last_loss"] for row in found["contenders"]}
    # After four laps and three updates, so gradients and weights agree too; fp32 in other orders, measured 3e-7.
    assert abs(losses["plain"] - losses["uniform"]) < 1e-5
    assert abs(losses["naive"] - losses["compact"]) < 1e-5
    assert abs(losses["compact"] - losses["uniform"]) > 1e-4


def test_rows_take_more_tokens_and_trees_in_one_row_no_padding(found: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in found["contenders"]}
    assert rows["naive"]["tokens"] > rows["compact"]["tokens"] > rows["uniform"]["tokens"]
    assert rows["plain"]["tokens"] > rows["uniform"]["tokens"]
    assert rows["compact"]["padding"] == rows["uniform"]["padding"] == 0.0
    assert all(len(row["seconds_of_laps"]) == 2 for row in rows.values())


def test_phases_add_up_to_the_lap(found: dict[str, Any]) -> None:
    (ours,) = [row for row in found["contenders"] if row["name"] == "compact"]
    parts = found["phases"]
    assert {"data", "tree", "forward", "head", "compatibility", "backward", "optimizer", "logging"} <= parts.keys()
    # Medians of two laps are means, so they add up exactly.
    assert abs(sum(part["seconds"] for part in parts.values()) - ours["seconds"]) < 1e-9
    assert parts["forward"]["seconds"] > 0 and parts["backward"]["seconds"] > 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"against": ["trk"]}, r"--against: found trk.*trl"), ({"repeats": 0}, "--repeats: found 0")],
)
def test_wrong_options_are_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        step.run(step.Options("arithmetic", [], draws=False, **options))


def test_operations_are_those_of_a_count_by_hand() -> None:
    import numpy as np
    from transformers import AutoConfig, AutoModelForCausalLM

    from compact_ds.engine.ranks import Ranks
    from compact_ds.optimizer_step.batches import StepBatches
    from compact_ds.sections import TreeConfig
    from compact_ds.student.measure import Student

    shape = {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    lm = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **shape))
    rec = record(np.random.default_rng(0), 2)
    work = StepBatches([rec], [[0, 1]], TreeConfig(), 1, Ranks(0, 1, torch.device("cpu"))).batches
    weights = 2 * (4 * 16 * 16 + 3 * 16 * 24)
    (batch,) = work
    trunk = len(rec.prompt_ids) + sum(len(one.ids) - 1 for one in rec.rationales)
    probes = (1 + sum(len(one.step_ends) > 0 for one in rec.rationales)) * (len(rec.probe_ids) - 1)
    assert batch.ids_BL.shape == (1, trunk + probes)
    pairs = batch.positions_BL[0] + 1
    by_hand = 6 * weights * trunk + 2 * weights * probes
    by_hand += 4 * 16 * 2 * (3 * int(pairs[:trunk].sum()) + int(pairs[trunk:].sum()))
    by_hand += 2 * 64 * 16 * (len(batch.index_N) + 2 * batch.num_grad)
    assert trees.operations(work, Student(lm, "tree")) == by_hand
