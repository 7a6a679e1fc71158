"""The gradients that a plan counts against those that training takes, what they weigh, and what their passes cost."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from compact_ds.config import load
from compact_ds.engine.ranks import Ranks
from compact_ds.launcher.plan import plan
from compact_ds.launcher.plan_memory import memory
from compact_ds.launcher.plan_mixing import gradients, held
from compact_ds.launcher.plan_shape import shape
from compact_ds.launcher.plan_time import machine
from compact_ds.launcher.plan_workload import Lengths, workload
from compact_ds.mixer.gradient_mode import Reference, groups_of, wanted
from compact_ds.optimizer_step.passes import Passes
from compact_ds.sections import Config

TEACHERS = ("ada", "ben", "cy")
LENGTHS = Lengths(teachers=3, question=14, rationale=26, steps=2, probe=5, answer=2)
SCRATCH = "student.scratch={hidden_size: 64, intermediate_size: 160, num_hidden_layers: 2, num_attention_heads: 4}"
RETAIN = "mixer.retain={train: 'task:arithmetic', batch_size: 8, guard: %s}"
GRADIENT = "mixer.mode=gradient"


def config_of(folder: Path, *own: str, **zero: object) -> Config:
    file = folder / "deepspeed.json"
    file.write_text(json.dumps({"zero_optimization": {"reduce_bucket_size": 0, **zero}}), encoding="utf-8")
    return load("arithmetic", [SCRATCH, f"engine.deepspeed={file}", *own])


@pytest.mark.parametrize("diagnosing", [False, True])
@pytest.mark.parametrize("world_size", [1, 12])
@pytest.mark.parametrize(
    "own",
    [
        (), (GRADIENT,), (RETAIN % "true",), (RETAIN % "false",), (GRADIENT, RETAIN % "true"),
        ("mixer.probe_questions=0",), ("evaluation.limit=11",), (GRADIENT, "mixer.groups={pair: [ada, cy]}"),
        ("method=single:ben",), (GRADIENT, "method=single:ben"),
    ],
)  # fmt: skip
def test_they_are_as_many_as_a_step_takes(
    tmp_path: Path, own: tuple[str, ...], world_size: int, diagnosing: bool
) -> None:
    config = config_of(tmp_path, *own)
    groups = groups_of(config.mixer, TEACHERS)
    if config.method == "single:ben":
        groups = {"ben": groups["ben"]}
    # Eight gold answers are asked for, and 12 taken to give each of 12 ranks one; eleven give some rank none.
    too_few = world_size == 12 and config.evaluation.limit == 11
    answers: list[Reference] = ["answer"] if config.mixer.probe_questions and not too_few else []
    references: list[Reference] = [*answers, *(["retention"] if config.mixer.retain else [])]  # type: ignore[list-item]
    taken = len(wanted(config.mixer, groups, references, diagnosing))
    found = gradients(config, workload(config, LENGTHS, world_size), world_size, diagnosing)
    assert found == (taken if taken > 1 else 0)


@pytest.mark.parametrize(
    ("own", "between", "most"),
    [
        (("max_steps=249",), 0, 0),  # the first diagnosing step is the 250th
        (("max_steps=250",), 0, 5),  # the update, three teachers, gold answers; given back before the update
        (("max_steps=249", GRADIENT), 3, 3),
        ((GRADIENT,), 4, 4),
        ((RETAIN % "true", "mixer.diagnose_every=0"), 2, 2),
        (("method=mot",), 0, 2),
    ],
)
def test_when_they_are_held(tmp_path: Path, own: tuple[str, ...], between: int, most: int) -> None:
    config = config_of(tmp_path, *own)
    found = held(config, workload(config, LENGTHS, 1), 1)
    assert (found.between, found.most) == (between, most)


@pytest.mark.parametrize(
    ("stage", "precision", "share"), [(0, "fp32", 1), (1, "fp32", 2), (1, "bf16", 1), (2, "bf16", 2), (3, "fp32", 2)]
)
def test_they_weigh_what_passes_allocate(tmp_path: Path, stage: int, precision: str, share: int) -> None:
    config = config_of(tmp_path, f"engine.zero_stage={stage}", f"engine.precision={precision}", "tree.rows=1")
    student = shape(config, 2000)
    size = student.trained // share
    shards: Any = SimpleNamespace(size=size, device=torch.device("cpu"), read=lambda out_N: None)
    passes = Passes(config, SimpleNamespace(shards=shards), Ranks(0, 1, torch.device("cpu")))  # type: ignore[arg-type]
    passes.take(0, 5)
    found = memory(config, student, workload(config, LENGTHS, 2), 2, on_gpu=True)
    assert found.moment in ("further pass", "mixing")
    assert found.parts["gradient shards"] == passes.shards.nbytes
    never = config.model_copy(update={"mixer": config.mixer.model_copy(update={"diagnose_every": 0})})
    assert "gradient shards" not in memory(never, student, workload(never, LENGTHS, 2), 2, on_gpu=True).parts


def test_offloaded_they_are_the_hosts(tmp_path: Path) -> None:
    config = config_of(tmp_path, "engine.zero_stage=3", offload_optimizer={"device": "cpu"})
    student = shape(config, 2000)
    found = memory(config, student, workload(config, LENGTHS, 2), 2, on_gpu=True)
    assert "gradient shards" not in found.parts
    # Moments, fp32 parameters and gradients, and five shards; all parameters pass there to be evaluated.
    assert found.host == (16 + 5 * 4) * student.trained // 2 + 4 * student.total


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_gradient_mode_reduces_for_every_teacher(tmp_path: Path, stage: int) -> None:
    given = (f"engine.zero_stage={stage}", "data.batch_size=6", "tree.rows=6")
    small = {"stage3_param_persistence_threshold": 0}
    plain, mixed = (config_of(tmp_path, *given, *own, **small) for own in ((), (GRADIENT,)))
    student = shape(plain, 2000)
    found = [plan(one, student, machine("cpu"), 2, workload(one, LENGTHS, 2)) for one in (plain, mixed)]
    assert len(found[1].work.micro_batches) == 1
    kind = "reduce_scatter" if stage == 3 else "all_reduce"
    gram = 0 if stage == 3 else 8 * 3 * 4  # where the reduced bytes have a kind of their own, it is in the other
    reduced = [one.traffic[kind] - (0 if stage == 3 else 304) for one in found]
    assert reduced[1] == 3 * reduced[0] + gram
    if stage == 3:
        assert found[1].traffic["all_gather"] == 3 * found[0].traffic["all_gather"]
        assert found[1].traffic["all_reduce"] == 304 + 8 * 3 * 4
    # The two further passes hold a teacher's rationales each, and no probes.
    assert 1.3 < found[1].compute_seconds / found[0].compute_seconds < 2.2
