"""Planned memory against hand-made tables, and activations against what autograd really saves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compact_ds.config import load
from compact_ds.engine.ranks import Ranks
from compact_ds.launcher.plan_activations import activations
from compact_ds.launcher.plan_memory import memory
from compact_ds.launcher.plan_shape import shape
from compact_ds.launcher.plan_workload import Lengths, MicroBatch, Workload, workload
from compact_ds.optimizer_step.training_set import TrainingSet
from compact_ds.sections import Config
from compact_ds.student.load import load_lm, load_tokenizer
from compact_ds.student.measure import Student
from compact_ds.tree.tokenise import Tokeniser

SCRATCH = "student.scratch={hidden_size: 64, intermediate_size: 160, num_hidden_layers: 2, num_attention_heads: 4}"
TINY = Workload((MicroBatch(1, 8, 0, 4, 4),), 4)


def config_of(folder: Path, *own: str, **zero: object) -> Config:
    file = folder / "deepspeed.json"
    file.write_text(json.dumps({"zero_optimization": {"reduce_bucket_size": 0, **zero}}), encoding="utf-8")
    given = [SCRATCH, f"engine.deepspeed={file}", f"data.cache_dir={folder}", "mixer.diagnose_every=0"]
    return load("arithmetic", [*given, *own])


@pytest.mark.parametrize(
    ("stage", "precision", "expected"),
    [
        # ZeRO (arXiv 1910.02054), figure 1, with fp32 gradients; on 4 ranks, in bytes of a parameter.
        (1, "bf16", 2 + 12 / 4 + 4),
        (2, "bf16", 2 + 12 / 4),
        (3, "bf16", 2 / 4 + 12 / 4 + 4 / 4),
        (0, "fp32", 4 + 8),
        (1, "fp32", 4 + 12 / 4),
        (3, "fp32", 4 / 4 + 12 / 4 + 4 / 4),
    ],
)
def test_what_stays_is_the_zero_papers(tmp_path: Path, stage: int, precision: str, expected: float) -> None:
    config = config_of(tmp_path, f"engine.zero_stage={stage}", f"engine.precision={precision}", persistence=0)
    student = shape(config, 1000)
    config_file = {"zero_optimization": {"reduce_bucket_size": 0, "stage3_param_persistence_threshold": 0}}
    (tmp_path / "deepspeed.json").write_text(json.dumps(config_file), encoding="utf-8")
    # A long batch, so that the backward pass decides.
    found = memory(config, student, Workload((MicroBatch(8, 2000, 0, 4, 4),), 4), 4, on_gpu=False)
    kept = sum(found.parts.get(name, 0) for name in ("parameters", "optimizer", "gradients"))
    assert found.moment == "backward"
    # Shares are rounded up to whole elements.
    assert kept == pytest.approx(expected * student.total, rel=1e-3)


@pytest.mark.parametrize(
    ("stage", "precision", "copy", "merges"),
    [
        # Parameters, fp32 parameters of DeepSpeed's own and both moments of AdamW; on 4 ranks, in bytes of a parameter.
        (0, "fp32", 4 + 8, True),
        (1, "fp32", 4 + 12 / 4, True),
        # Where more than a copy passes through, another moment decides; the branches rest beside it.
        (2, "bf16", 2 + 12 / 4, False),
        (3, "bf16", 2 / 4 + 12 / 4, False),
    ],
)
def test_every_branch_keeps_a_copy_of_what_an_update_changes(
    tmp_path: Path, stage: int, precision: str, copy: float, merges: bool
) -> None:
    own = [f"engine.zero_stage={stage}", f"engine.precision={precision}"]
    branched, plain = config_of(tmp_path, *own, "method=mot"), config_of(tmp_path, *own, "method=uniform")
    student, lengths = shape(branched, 1000), Lengths(teachers=3, question=14, rationale=26)
    assert [workload(one, lengths, 4).branches for one in (branched, plain)] == [3, 0]
    found = memory(branched, student, replace(TINY, branches=3), 4, on_gpu=False)
    assert (found.moment == "merge") == merges
    # The mean is one more.
    assert found.parts["branches"] == pytest.approx((3 + merges) * copy * student.total, rel=1e-3)
    assert "branches" not in memory(plain, student, TINY, 4, on_gpu=False).parts


def test_branches_of_what_is_offloaded_are_the_hosts(tmp_path: Path) -> None:
    offloaded = {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
    config = config_of(tmp_path, "engine.zero_stage=3", "method=mot", **offloaded)
    student = shape(config, 1000)
    found = memory(config, student, workload(config, Lengths(3, 14, 26), 2), 2, on_gpu=True)
    assert "branches" not in found.parts
    # Moments, fp32 parameters and gradients, and parameters; three branches and their mean have all but the gradients. For the
    # evaluation all parameters pass there.
    assert found.host == pytest.approx(((16 + 4 + 4 * (12 + 4)) / 2 + 4) * student.total, rel=1e-3)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("lora", [False, True])
def test_activations_are_what_autograd_saves(tmp_path: Path, rows: int, lora: bool) -> None:
    own = ["tree.row_tokens=300", f"tree.rows={rows}", "data.batch_size=6", "compatibility.warmup=0", "data.limit=50"]
    config = config_of(tmp_path, *own, *(["student.lora={r: 4}"] if lora else []))
    tokeniser = Tokeniser(load_tokenizer(config.student), config.data.cue)
    batch = TrainingSet(config, tokeniser).step(0, Ranks(0, 1, torch.device("cpu"))).batches[0]
    vocabulary = len(tokeniser.tokenizer)
    student = Student(load_lm(config, vocabulary), "tree", "beside", "torch")
    own_memory = {p.untyped_storage().data_ptr() for p in student.parameters()}
    saved: dict[int, int] = {}
    held = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own_memory:
            saved[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)  # so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        student(batch)
    sizes = MicroBatch(
        batch.ids_BL.shape[0],
        batch.num_trunk,
        batch.ids_BL.shape[1] - batch.num_trunk,
        len(batch.index_N),
        batch.num_grad,
        branch_keys=1,  # attention goes branch by branch, and saves nothing for their number
    )
    counted = activations(shape(config, vocabulary), sizes, 4, checkpointing=False, on_gpu=False)
    # The count leaves out rotations, row statistics and indices; the mask is held by the tree, not saved.
    norm = sizes.tokens * 64 * 8
    assert counted.saved + norm == pytest.approx(sum(saved.values()), rel=0.05)


def test_checkpointing_keeps_a_layers_input_and_one_layer(tmp_path: Path) -> None:
    student, batch = shape(config_of(tmp_path), 1000), MicroBatch(2, 100, 30, 60, 50)
    without, with_it = (activations(student, batch, 4, on, False).saved for on in (False, True))
    assert with_it == without // 2 + 2 * 260 * 64 * 4


def test_offloading_moves_the_optimizer_to_the_host(tmp_path: Path) -> None:
    config = config_of(tmp_path, offload_optimizer={"device": "cpu"}, offload_param={"device": "cpu"})
    student = shape(config, 1000)
    found = memory(config, student, TINY, 2, on_gpu=False)
    assert "optimizer" not in found.parts
    # Moments, fp32 parameters and gradients, and the parameters' own shard.
    assert found.host == pytest.approx((16 + 4) * student.total / 2, rel=1e-3)


@pytest.mark.parametrize(("stage", "pieces"), [(1, False), (2, False), (3, True)])
def test_only_stage_3_updates_a_group_in_pieces(tmp_path: Path, stage: int, pieces: bool) -> None:
    config = config_of(tmp_path, f"engine.zero_stage={stage}", sub_group_size=1_200_000)
    student = shape(config, 20000)
    found = memory(config, student, TINY, 1, on_gpu=False)
    matrices = sum(p.numel for p in student.parameters if p.matrix)
    # The flat gradient of what is updated at once, and two temporaries of AdamW.
    assert found.parts["update"] == 12 * (1_200_000 if pieces else matrices)


def test_gloo_holds_what_it_receives_until_a_layer_waits_for_it(tmp_path: Path) -> None:
    zero = {"stage3_prefetch_bucket_size": 1000, "stage3_param_persistence_threshold": 0}
    config = config_of(tmp_path, "engine.zero_stage=3", "student.lora={r: 4}", **zero)
    student = shape(config, 20000)
    cpu, gpu = (memory(config, student, TINY, 2, on_gpu) for on_gpu in (False, True))
    alone = memory(config, student, TINY, 1, on_gpu=False)
    # All parameters are gathered ahead, and as much again is gloo's; the last bucket is cut into parameters besides.
    largest = max(p.numel for p in student.parameters)
    assert cpu.moment == "forward"
    assert cpu.parts["passing through"] == 4 * (student.total + 1000 + largest)
    assert cpu.parts["gathered parameters"] == 4 * student.total
    assert gpu.moment != "forward"
    assert "gathered parameters" not in alone.parts


def test_on_gloo_the_update_may_begin_with_a_bucket(tmp_path: Path) -> None:
    config = config_of(tmp_path, "engine.zero_stage=2", reduce_bucket_size=5000)
    student = shape(config, 20000)
    cpu, gpu, alone = (memory(config, student, TINY, n, on_gpu) for n, on_gpu in ((2, False), (2, True), (1, False)))
    assert (cpu.moment, cpu.parts["buckets"]) == ("update", 4 * 5000)
    assert alone.moment == gpu.moment == "update"
    assert "buckets" not in alone.parts
    assert "buckets" not in gpu.parts
