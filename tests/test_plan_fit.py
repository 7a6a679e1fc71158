"""Traffic by theory, time's direction, what fits, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from compact_ds.cli import main
from compact_ds.config import load
from compact_ds.engine.ranks import Ranks
from compact_ds.errors import ConfigError, UserError
from compact_ds.launcher.plan import USABLE, fit, largest_rows, over_world_sizes, plan, write_config
from compact_ds.launcher.plan_memory import zero_settings
from compact_ds.launcher.plan_shape import Shape, shape
from compact_ds.launcher.plan_time import flops, machine
from compact_ds.launcher.plan_traffic import traffic
from compact_ds.launcher.plan_workload import Lengths, MicroBatch, workload
from compact_ds.optimizer_step.training_set import TrainingSet
from compact_ds.sections import Config
from compact_ds.student.load import load_tokenizer
from compact_ds.tree.tokenise import Tokeniser

BIG = [
    "student.model=Llama-3.1-8B", "student.scratch=null", "engine.precision=bf16", "data.batch_size=256", "tree.row_tokens=2048",
    "tree.rows=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def llama() -> Shape:
    return shape(load("arithmetic", BIG))


def config_of(folder: Path, stage: int, *own: str, **zero: int) -> Config:
    file = folder / "deepspeed.json"
    file.write_text(json.dumps({"zero_optimization": zero}), encoding="utf-8")
    return load("arithmetic", [*BIG, f"engine.zero_stage={stage}", f"engine.deepspeed={file}", *own])


NOTHING_LIVES = {
    "stage3_max_live_parameters": 0, "stage3_max_reuse_distance": 0, "stage3_param_persistence_threshold": 0,
}  # fmt: skip


def test_bytes_are_the_zero_papers(tmp_path: Path, llama: Shape) -> None:
    # arXiv 1910.02054, section 7: twice the parameters at stages 1 and 2, three times at 3. There an all-reduce is one
    # reduce-scatter and one all-gather; here stages 1 and 2 do both, and the all-gather of the updated parameters.
    size = 2 * llama.total
    stage2 = traffic(llama, zero_settings(config_of(tmp_path, 2)), 2, False, 1, 8)
    assert (stage2["all_gather"], stage2["all_reduce"]) == pytest.approx((size, size), rel=1e-4)
    stage3 = traffic(llama, zero_settings(config_of(tmp_path, 3, **NOTHING_LIVES)), 2, False, 1, 8)
    assert (stage3["all_gather"], stage3["reduce_scatter"]) == pytest.approx((2 * size, size), rel=1e-4)
    again = traffic(llama, zero_settings(config_of(tmp_path, 3, **NOTHING_LIVES)), 2, True, 2, 8)
    layers = 2 * 32 * llama.layer
    assert again["all_gather"] == pytest.approx(2 * (2 * size + layers), rel=1e-4)
    assert traffic(llama, zero_settings(config_of(tmp_path, 3)), 2, False, 1, 1) == {}


def test_arithmetic_is_six_times_parameters_and_tokens(llama: Shape) -> None:
    # Kaplan et al. 2020: C = 6 N D, without attention; a trained head row costs four products instead of three.
    batch = MicroBatch(1, 64, 0, 64, 64)
    matrices = 32 * llama.layer
    head = llama.vocabulary * llama.hidden
    expected = 6 * matrices * 64 + 8 * head * 64
    assert flops(llama, batch, False, False) == pytest.approx(expected, rel=0.01)
    assert flops(llama, batch, True, False) == pytest.approx(expected + 2 * matrices * 64, rel=0.01)


def test_a_workload_holds_every_question_once() -> None:
    config = load("arithmetic", [*BIG, "tree.max_probes=4"])
    lengths = Lengths(teachers=2, question=100, rationale=200, steps=3, probe=10, answer=4)
    found = workload(config, lengths, 8)
    # A tree: 100 + 2 x 200 tokens and 3 probes of 10, of the question and after each last step; three fit 2,048 tokens, and
    # 32 questions need 11 rows.
    assert len(found.micro_batches) == 11
    # A branch's 200 queries see 300 keys.
    assert found.largest == MicroBatch(1, 1500, 90, 3 * (400 + 12), 1200, 3 * 600, 3 * (2 * 200 * 300 + 100**2))
    assert found.global_tokens == 256 * 400
    jumps = workload(load("arithmetic", [*BIG, "compatibility.adaptability=jump", "tree.max_probes=4"]), lengths, 8)
    assert jumps.largest.probe == 3 * 10 * (1 + 2 * 3)
    with pytest.raises(ConfigError, match=r"data\.batch_size: found 256; expected a multiple of the world size 7"):
        workload(config, lengths, 7)


def test_no_ranks_are_refused(llama: Shape) -> None:
    for attempt in (
        lambda: workload(load("arithmetic"), Lengths(), 0),
        lambda: fit(load("arithmetic", BIG), llama, machine("h100"), 0, Lengths()),
    ):
        with pytest.raises(UserError, match="--world-size: found 0; expected 1 or more"):
            attempt()


@pytest.mark.parametrize("layout", ["tree", "rows"])
@pytest.mark.parametrize("own", [(), ("compatibility.adaptability=jump",), ("method=uniform",)])
def test_probes_are_as_many_as_training_builds(tmp_path: Path, layout: str, own: tuple[str, ...]) -> None:
    given = [f"tree.layout={layout}", f"data.cache_dir={tmp_path}", "data.batch_size=6", "data.limit=50", *own]
    config = load("arithmetic", [*given, "tree.row_tokens=384", "tree.rows=40"])
    data = TrainingSet(config, Tokeniser(load_tokenizer(config.student), config.data.cue))
    step = data.step(0, Ranks(0, 1, torch.device("cpu")))
    assert {len(r.step_ends) for record in step.records[0] for r in record.rationales} == {2}
    lengths = Lengths(teachers=3, question=14, rationale=26, steps=2, answer=1)
    planned = workload(config, lengths, 1).largest
    examples = planned.trained_rows / (3 * 26)  # the plan's last row is as full as the others
    assert (planned.head_rows - planned.trained_rows) / examples == step.batches[0].num_probes / 6


def test_the_largest_rows_fit_and_one_more_does_not(llama: Shape) -> None:
    config, gpu = load("arithmetic", [*BIG, "engine.deepspeed=configs/deepspeed/zero3.json"]), machine("h100")
    rows = largest_rows(config, llama, gpu, 8, Lengths())
    assert rows >= 1
    totals = [plan(config, llama, gpu, 8, workload(config, Lengths(), 8, n)).memory.total for n in (rows, rows + 1)]
    assert totals[0] <= USABLE * gpu.memory < totals[1]


def test_a_fitted_config_loads_and_fits(tmp_path: Path, llama: Shape) -> None:
    found = fit(load("arithmetic", BIG), llama, machine("h100"), 8, Lengths())
    write_config(found, tmp_path / "new" / "folder" / "fitted.yaml")
    again = load(tmp_path / "new" / "folder" / "fitted.yaml")
    assert again == found.config
    assert found.fits
    # 8B: 16 GB of parameters on every rank and 16 bytes a parameter shared out by 8 fit 80 GB without gathering.
    assert found.zero.stage == 2


def test_a_fitted_config_that_cannot_be_written_is_named(tmp_path: Path, llama: Shape) -> None:
    config, gpu = load("arithmetic", BIG), machine("h100")
    found = plan(config, llama, gpu, 8, workload(config, Lengths(), 8))
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"--fit: found .*file.*; expected a file that can be written"):
        write_config(found, tmp_path / "file" / "fitted.yaml")


def test_nothing_fits_on_too_small_a_machine(llama: Shape) -> None:
    with pytest.raises(UserError, match=r"--fit: .*give more ranks"):
        fit(load("arithmetic", [*BIG, "tree.row_tokens=200000"]), llama, machine("l40s"), 1, Lengths(rationale=50_000))


def test_a_slow_network_binds_first(llama: Shape) -> None:
    config = load("arithmetic", [*BIG, "engine.deepspeed=configs/deepspeed/zero3.json"])
    plans = over_world_sizes(config, llama, machine("l40s"), 8, Lengths())
    assert [one.world_size for one in plans][-1] == 1024
    seconds = [one.network_seconds for one in plans]
    assert seconds == sorted(seconds)
    bound = [one.network_bound for one in plans]
    assert bound == sorted(bound)  # once bound by the network, more ranks do not help


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rates = tmp_path / "rates.json"
    rates.write_text('{"flops_per_second": 1e12}', encoding="utf-8")
    assert (
        main(["plan", "arithmetic", "--gpu", "cpu", "--calibration", str(rates), "--lengths", "rationale=30", "--json"])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["memory_total"] == sum(found["memory"].values())
    assert found["basis"]["compute_seconds"] == "calibrated"
    assert [row["world_size"] for row in found["world_sizes"]][:2] == [1, 2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--gpu", "h10"], "--gpu: found h10"),
        (["--lengths", "rational=3"], "did you mean 'rationale'"),
        (["--lengths", "rationale=no"], "a number of tokens from 1 on"),
        (["--calibration", "/nowhere"], "flops_per_second"),
    ],
)
def test_what_cannot_be_planned_is_named(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "arithmetic", *given]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", '{"zero_optimization": []}', '{"zero_optimization": 3}'])
def test_a_deepspeed_file_that_is_no_object_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "zero.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"engine\.deepspeed: found .*zero\.json; expected a readable JSON file, an obj"
    ):
        zero_settings(load("arithmetic", [f"engine.deepspeed={file}"]))


def test_a_size_that_is_auto_is_deepspeeds_default(tmp_path: Path) -> None:
    file = tmp_path / "zero.json"
    zero = {"stage": 3, "reduce_bucket_size": "auto", "stage3_prefetch_bucket_size": "auto", "sub_group_size": 7}
    file.write_text(json.dumps({"zero_optimization": zero}), encoding="utf-8")
    found = zero_settings(load("arithmetic", [f"engine.deepspeed={file}"]))
    assert (found.stage, found.reduce_bucket, found.prefetch, found.sub_group) == (3, 5e8, 5e7, 7)
