"""Laws 1 and 7 across processes: whatever the split, ZeRO stage or memory setting, gradients and update are the same."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import ROOT, start
from uneven_questions import write

WORKER = Path(__file__).with_name("gradient_of_a_step.py")
SHARED_MEMORY = Path("/dev/shm")
Steps = dict[str, dict[str, Any]]

# fp32 sums in another order; gradients are up to about 1. Measured 2e-7.
TOLERANCE = 2e-6

# Two ways to four micro-batches or more, and several rows in one.
SMALL_ROWS = ["tree.row_tokens=120", "tree.rows=1"]
MORE_ROWS = ["tree.row_tokens=160", "tree.rows=2"]
LORA = ["student.lora.r=4", "student.lora.alpha=8"]

CASES = {
    1: {
        "whole": [],
        "1x4": SMALL_ROWS,
        "muted": ["mute"],
        "rows": ["tree.layout=rows"],
        "inside": ["tree.probes=inside"],
        "stage 0": ["engine.zero_stage=0"],
        "stage 1": ["engine.zero_stage=1"],
        "stage 2": ["engine.zero_stage=2"],
        "recomputed": ["student.gradient_checkpointing=true"],
        "offloaded": [f"engine.deepspeed={ROOT / 'configs/deepspeed/zero3_offload.json'}"],
        "lora": LORA,
        "triton": ["kernels=triton"],
        "lora triton": [*LORA, "kernels=triton"],
        "lora recomputed": [*LORA, "student.gradient_checkpointing=true"],
        "bf16": ["engine.precision=bf16"],
        "medium": ["engine.matmul_precision=medium"],
    },
    2: {
        "2x2": SMALL_ROWS,
        "2x1x2": [*MORE_ROWS, "engine.zero_stage=2"],
        "2x2 stage 0": [*SMALL_ROWS, "engine.zero_stage=0"],
        "2x2 stage 1": [*SMALL_ROWS, "engine.zero_stage=1"],
        "2x2 stage 2": [*SMALL_ROWS, "engine.zero_stage=2"],
        "2 stage 1": [f"engine.deepspeed={ROOT / 'configs/deepspeed/zero1.json'}"],
        "2 stage 3": [*MORE_ROWS, f"engine.deepspeed={ROOT / 'configs/deepspeed/zero3.json'}"],
        "2 muted": ["mute", *SMALL_ROWS],
        "2 lora": [*LORA, *SMALL_ROWS],
        "2 triton": ["kernels=triton", *SMALL_ROWS],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Steps:
    """What one optimizer step over the same eight questions gives in every case."""
    folder = tmp_path_factory.mktemp("steps")
    questions = write(folder / "questions.jsonl")
    before = set(SHARED_MEMORY.iterdir())
    common = [f"data.train={questions}", f"data.cache_dir={folder}", f"run_dir={folder / 'run'}", "data.batch_size=8"]
    common += ["compatibility.warmup=0", "student.scratch.hidden_size=64", "student.scratch.intermediate_size=128"]
    # Adam divides by |g| + eps: a large eps keeps the rounding of a gradient near 0 from becoming a whole step.
    common += ["optimizer.eps=1e-3", "optimizer.grad_clip=0.5"]
    found = {}
    for world_size, cases in CASES.items():
        outs = {name: folder / f"{name}.pt" for name in cases}
        listed = [
            {
                "out": str(outs[name]),
                "mute": "mute" in own,
                "overrides": [*common, *(word for word in own if word != "mute")],
            }
            for name, own in cases.items()
        ]
        file = folder / f"{world_size}.json"
        file.write_text(json.dumps(listed), encoding="utf-8")
        _, outputs = start([str(WORKER), str(file)], world_size)
        for name, out in outs.items():
            assert out.exists(), (name, outputs[0][-3000:])
            found[name] = torch.load(out, weights_only=True)
    assert set(SHARED_MEMORY.iterdir()) <= before
    return found


def _assert_same(got: Mapping[str, Any], want: Mapping[str, Any]) -> None:
    for kind, tolerance in (("gradients", TOLERANCE), ("parameters", TOLERANCE)):
        assert got[kind].keys() == want[kind].keys()
        for name, value in want[kind].items():
            difference = (got[kind][name] - value).abs()
            # The mean catches a drift to one side that the maximum would let pass.
            assert difference.max() < tolerance and difference.mean() < tolerance / 5, (kind, name)
    assert got["norm"] == pytest.approx(want["norm"], rel=1e-5)


def test_the_cases_are_what_their_names_say(steps: Steps) -> None:
    assert steps["whole"]["num_batches"] == 1
    assert steps["1x4"]["num_batches"] >= 4
    assert steps["2x2"]["num_batches"] >= 2
    assert max(float(g.abs().max()) for g in steps["whole"]["gradients"].values()) > 1e-2
    assert len(set(steps["1x4"]["rationales"])) > 1


SPLITS = ["1x4", "2x2", "2x2 stage 0", "2x2 stage 1", "2x2 stage 2", "2x1x2", "2 stage 1", "2 stage 3"]


@pytest.mark.parametrize("name", SPLITS)
def test_the_split_over_ranks_and_micro_batches_changes_no_gradient(steps: Steps, name: str) -> None:
    _assert_same(steps[name], steps["whole"])


@pytest.mark.parametrize("name", ["triton", "2 triton"])
def test_the_triton_kernels_give_the_gradients_of_the_torch_path(steps: Steps, name: str) -> None:
    _assert_same(steps[name], steps["whole"])


@pytest.mark.parametrize("name", ["rows", "inside", "stage 0", "stage 1", "stage 2", "recomputed", "offloaded"])
def test_layout_stage_and_memory_settings_change_no_gradient(steps: Steps, name: str) -> None:
    _assert_same(steps[name], steps["whole"])


@pytest.mark.parametrize("name", ["lora recomputed", "lora triton", "2 lora"])
def test_adapters_learn_the_same_under_every_split(steps: Steps, name: str) -> None:
    assert all("lora" in parameter for parameter in steps["lora"]["gradients"])
    _assert_same(steps[name], steps["lora"])


def test_a_rank_whose_weights_are_all_zero_adds_nothing_and_stops_nobody(steps: Steps) -> None:
    _assert_same(steps["2 muted"], steps["muted"])
    whole, muted = steps["whole"]["gradients"], steps["muted"]["gradients"]
    assert max(float((whole[n] - muted[n]).abs().max()) for n in whole) > 1e-3


def _far_from_fp32(steps: Steps, name: str) -> float:
    fine, coarse = (torch.cat([g.flatten() for g in steps[of]["gradients"].values()]) for of in ("whole", name))
    return float((coarse - fine).norm() / fine.norm())


@pytest.mark.parametrize("name", ["bf16", "medium"])
def test_bf16_points_where_fp32_does(steps: Steps, name: str) -> None:
    # bf16 keeps 8 bits: 0.4 % a rounding, over some ten roundings on the way to a gradient.
    assert _far_from_fp32(steps, name) < 0.05


def test_products_are_rounded_where_the_processor_gains_by_it(steps: Steps) -> None:
    # Sums of fp32 in another order differ by 2e-7, factors of 8 bits by a thousandth and more.
    assert (_far_from_fp32(steps, "medium") > 1e-4) == torch.ops.mkldnn._is_mkldnn_bf16_supported()
