"""The shipped configs for 1B, 3B and 8B students: they load, they fit by the plan, and one layer of true width trains."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from compact_ds.config import SHIPPED, load
from compact_ds.engine.start import deepspeed_settings
from compact_ds.kernels.segment_scores import plan_scores
from compact_ds.launcher.plan import plan
from compact_ds.launcher.plan_activations import activations
from compact_ds.launcher.plan_shape import architecture, shape
from compact_ds.launcher.plan_time import machine
from compact_ds.launcher.plan_workload import Lengths, MicroBatch, workload
from compact_ds.student.measure import Student
from compact_ds.tree.batch import Batch

CASES = [(size, ranks) for size in ("1b", "3b", "8b") for ranks in (1, 8, 64)]
GIVEN = ["data.train=train.jsonl"]


def test_there_are_no_others() -> None:
    assert {file.stem for file in SHIPPED.glob("llama_*.yaml")} == {f"llama_{s}_{r}gpu" for s, r in CASES}


@pytest.mark.parametrize(("size", "ranks"), CASES)
def test_it_loads_and_fits(size: str, ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # an installed package has no configs/ beside it
    # Held-out questions are one more gradient of a diagnosing step.
    config = load(f"llama_{size}_{ranks}gpu", [*GIVEN, "data.eval=eval.jsonl"])
    settings = deepspeed_settings(config)
    assert settings["zero_optimization"]["stage"] == 3
    assert settings["bf16"]["enabled"]
    found = plan(config, shape(config), machine("h100"), ranks, workload(config, Lengths(), ranks))
    assert found.fits, found.memory.parts


def test_diagnostics_do_not_fit_where_they_are_off() -> None:
    config = load("llama_3b_1gpu", [*GIVEN, "mixer.diagnose_every=250"])
    student = shape(config)
    found = plan(config, student, machine("h100"), 1, workload(config, Lengths(), 1))
    assert not found.fits
    assert found.memory.parts["gradient shards"] == 4 * 4 * student.total  # the update's and three teachers', in fp32
    on = [size for size, ranks in CASES if load(f"llama_{size}_{ranks}gpu", GIVEN).mixer.diagnose_every]
    assert len(on) == len(CASES) - 1


def batch_of(rows: int, trunk: int, words: int) -> Batch:
    """Rows of one plain sequence each, every token of which predicts the next."""
    ids_BL = torch.randint(words, (rows, trunk))
    places_BL = torch.arange(trunk).expand(rows, trunk)
    index_N = torch.arange(rows * trunk).view(rows, trunk)[:, :-1].flatten()
    count = len(index_N)
    offsets_S1 = torch.arange(0, count + 1, trunk - 1)
    flags_R = torch.zeros(rows)
    none = torch.zeros(0, dtype=torch.int64)
    return Batch(
        layout="tree", ids_BL=ids_BL, positions_BL=places_BL, order_BL=places_BL, end_BL=torch.full((rows, trunk), trunk),
        num_trunk=trunk, index_N=index_N, target_N=ids_BL[:, 1:].flatten(), num_grad=count,
        plan=plan_scores(count, 1, offsets_S1), num_probes=0, example_R=torch.arange(rows),
        teacher_R=torch.zeros(rows, dtype=torch.int64), consensus_R=flags_R, right_R=flags_R, rationale_P=none, step_P=none,
        places_R=tuple((r, 0) for r in range(rows)),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("size", ["1b", "3b", "8b"])
def test_a_layer_of_true_width_takes_a_step_and_keeps_what_the_plan_says(size: str, tmp_path: Path) -> None:
    config = load(f"llama_{size}_8gpu", GIVEN)
    whole = architecture(config).to_dict() | {"num_hidden_layers": 1, "vocab_size": 4096, "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(whole), encoding="utf-8")
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = whole.pop("model_type")
    student = Student(
        AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **whole), dtype=torch.bfloat16),
        "tree",
        "beside",
        "torch",
    )
    own = {p.untyped_storage().data_ptr() for p in student.parameters()}
    saved: dict[int, int] = {}
    held = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    before = next(iter(student.parameters())).detach().clone()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        lse_N, z_N1, *_ = student(batch_of(2, 192, 4096))
    loss = (lse_N - z_N1[:, 0]).mean()
    # Of random weights: about the log of the number of words.
    assert float(loss) == pytest.approx(8.3, abs=1.5)
    loss.backward()
    optimizer.step()
    assert not torch.equal(before, next(iter(student.parameters())))

    changed = config.model_copy(update={"student": config.student.model_copy(update={"model": str(tmp_path)})})
    layer = dataclasses.replace(shape(changed), layers=1)
    counted = activations(layer, MicroBatch(2, 192, 0, 382, 382), 2, checkpointing=False, on_gpu=False)
    norm = 2 * 192 * layer.hidden * 6
    assert counted.saved + norm == pytest.approx(sum(saved.values()), rel=0.05)
