"""`bench kernels` on tiny inputs: its truth, its errors, its memory, its rows and its refusals."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from compact_ds.cli import main
from compact_ds.errors import UserError
from compact_ds.kernels import bench, bench_report
from compact_ds.kernels.bench_data import Problem, describe, make_problem
from compact_ds.kernels.bench_measure import PeakMemory
from compact_ds.kernels.bench_plot import plot
from compact_ds.kernels.bench_providers import PROVIDERS, Provider, providers_named
from compact_ds.kernels.bench_reference import Reference
from compact_ds.kernels.bench_report import COLUMNS, Row
from compact_ds.kernels.bench_shapes import SHAPES, Shape, shape_named
from compact_ds.kernels.bench_trial import Trial, check

TINY = Shape("tiny", 300, 16)
OPTIONS = ["--shapes", "300x16", "--rows", "40", "--repeats", "2", "--no-plot", "--device", "cpu"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of small products wait for one another: on a busy machine ten times as long as one takes for all."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny_problem(
    distribution: str = "peaked", slots: int = 2, grad_rows: int = 25, softcap: float | None = None
) -> Problem:
    return make_problem(TINY, 40, slots, torch.float32, "cpu", distribution, grad_rows, softcap)


def naive(problem: Problem) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Losses and gradients in float64, all logits at once, by autograd."""
    hidden = problem.hidden_ND.detach().double().requires_grad_()
    weight = problem.weight_VD.detach().double().requires_grad_()
    logits = hidden @ weight.T
    if problem.softcap is not None:
        logits = problem.softcap * torch.tanh(logits / problem.softcap)
    nll = -logits.log_softmax(1).gather(1, problem.targets_NK)
    grad_hidden, grad_weight = torch.autograd.grad((nll * problem.upstream_NK).sum(), (hidden, weight))
    return nll.detach(), grad_hidden, grad_weight


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("slots", [1, 2])
def test_the_reference_is_the_definition(softcap: float | None, slots: int) -> None:
    problem = tiny_problem(slots=slots, softcap=softcap)
    nll, grad_hidden, grad_weight = naive(problem)
    errors = Reference(problem).errors(nll, problem.upstream_NK, grad_hidden, grad_weight)
    # Two orders of the same float64 sums.
    assert max(errors.nll_max, errors.grad_hidden, errors.grad_weight_targets, errors.grad_weight_others) < 1e-12


# Random logits have a spread of 0.08: a cap of 0.2 bends them and does not flatten them, where its slope is a small difference.
@pytest.mark.parametrize(("distribution", "softcap"), [("peaked", None), ("random", 0.2)])
@pytest.mark.parametrize("name", ["ours-torch", "plain", "torch-lce", "torch-lce-auto", "trl-chunked"])
def test_providers_are_right_to_fp32(name: str, distribution: str, softcap: float | None) -> None:
    provider, problem = PROVIDERS[name], tiny_problem(distribution, softcap=softcap)
    if provider.package:
        pytest.importorskip(provider.package)
    if softcap and not provider.has_softcap:
        pytest.skip("has no softcap")
    trial = Trial(provider, problem)
    check(trial, Reference(problem), PeakMemory("cpu"))
    assert trial.errors is not None and trial.repeatable
    # fp32 sums of 300 logits of size 20: epsilon 1.2e-7 times a few of their size.
    assert trial.errors.nll_max < 2e-5
    assert max(trial.errors.grad_hidden, trial.errors.grad_weight_targets, trial.errors.grad_weight_others) < 2e-5


def test_gradients_that_ignore_the_upstream_are_found_out() -> None:
    problem = tiny_problem()
    uniform = replace(PROVIDERS["plain"], nll=_uniform_nll)
    trial = Trial(uniform, problem)
    check(trial, Reference(problem), PeakMemory("cpu"))
    assert trial.errors is not None
    assert trial.errors.nll_max < 2e-5
    assert trial.errors.grad_hidden > 0.1 and trial.errors.grad_weight_targets > 0.1


def _uniform_nll(problem: Problem) -> Any:
    return _Uniform.apply(PROVIDERS["plain"].nll(problem))  # type: ignore[no-untyped-call]


class _Uniform(torch.autograd.Function):
    """Passes on the mean of the upstream gradient, as a fused loss did that kept only its first element."""

    @staticmethod
    def forward(ctx: Any, nll: torch.Tensor) -> torch.Tensor:
        return nll.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return torch.full_like(grad, float(grad.abs().mean()))


def test_skipped_small_gradients_show_beside_the_targets() -> None:
    problem = tiny_problem("random")
    nll, grad_hidden, grad_weight = naive(problem)
    targets = problem.targets_NK[: problem.grad_rows].unique()
    only_targets = torch.zeros_like(grad_weight)
    only_targets[targets] = grad_weight[targets]
    errors = Reference(problem).errors(nll, problem.upstream_NK, grad_hidden, only_targets)
    assert errors.grad_weight_targets < 1e-12
    assert errors.grad_weight_others == pytest.approx(1.0)


def test_a_mean_is_held_against_the_mean() -> None:
    problem = tiny_problem(slots=1, grad_rows=40)
    mean = Provider("mean", "", lambda p: PROVIDERS["plain"].nll(p).mean(), gives_mean=True)
    trial = Trial(mean, problem)
    check(trial, Reference(problem), PeakMemory("cpu"))
    assert trial.errors is not None
    assert trial.errors.nll_max < 2e-5 and trial.errors.grad_hidden < 2e-5


def test_peaked_logits_have_two_nats_and_are_calibrated() -> None:
    shape = Shape("small", 4096, 64)
    figures = describe(make_problem(shape, 1024, 1, torch.float32, "cpu", "peaked", 1024, None))
    # Targets are drawn from the softmax, so losses average to the entropy; 512 rows of spread 2 nats: 0.09 of sampling error.
    assert figures.entropy_mean == pytest.approx(2.0, abs=0.3)
    assert figures.nll_mean == pytest.approx(figures.entropy_mean, abs=0.3)
    assert 0.4 < figures.target_is_argmax < 0.8


def test_random_logits_are_nearly_flat() -> None:
    figures = describe(make_problem(Shape("small", 4096, 64), 512, 1, torch.float32, "cpu", "random", 512, None))
    # Logits are normal with variance v = 64 * 0.02^2: the mean loss of a uniform target is log V + v / 2.
    assert figures.nll_mean == pytest.approx(math.log(4096) + 64 * 0.02**2 / 2, abs=0.03)
    assert figures.logit_std == pytest.approx(0.16, rel=0.05)


def test_skippable_tiles_of_a_head_that_is_sure() -> None:
    # Each row's target has nearly all of the mass: only tiles that hold a target of theirs stay. Rows 0..127 aim at word
    # 0, so of 4 tiles of words 3 are skippable, unless a small p reaches 2^-12.
    hidden, weight = torch.full((128, 4), 2.0), torch.zeros(512, 4)
    weight[0] = 1.0
    targets = torch.zeros(128, 1, dtype=torch.int64)
    problem = Problem(hidden, weight, targets, torch.ones(128, 1), 128, None)
    p_other = 1 / (511 + math.exp(8))
    assert p_other > 2**-12  # 2.9e-4 > 2.4e-4: nothing can be skipped
    assert describe(problem).tiles_skippable == 0
    assert describe(replace_hidden(problem, 2.5)).tiles_skippable == 0.75


def replace_hidden(problem: Problem, value: float) -> Problem:
    return replace(problem, hidden_ND=torch.full_like(problem.hidden_ND, value))


def test_memory_sees_an_allocation_and_forgets_a_peak() -> None:
    memory = PeakMemory("cpu")
    if not memory.is_available:
        pytest.skip("needs a writable /proc/self/clear_refs")
    torch.ones(1 << 24)
    memory.start()
    kept = torch.ones(1 << 23)
    del_me = torch.ones(1 << 24)
    # 32 and 64 MiB; the kernel counts resident pages a little late.
    assert memory.read() == pytest.approx(96 << 20, rel=0.05)
    del del_me
    memory.forget()
    assert memory.read() == pytest.approx(32 << 20, rel=0.1)
    assert kept.sum() == 1 << 23


def test_flops_by_the_algorithm() -> None:
    problem = tiny_problem(grad_rows=25)
    unit = 300 * 16
    assert PROVIDERS["ours-torch"].algorithmic_flops(problem) == (2 * 40 * unit, 6 * 25 * unit)
    assert PROVIDERS["plain"].algorithmic_flops(problem) == (2 * 40 * unit, 4 * 25 * unit)
    assert PROVIDERS["liger-mean"].algorithmic_flops(problem) == ((6 * 25 + 2 * 15) * unit, 0)


def test_the_command_writes_rows_with_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [
        "--providers",
        "ours-torch,plain,torch-lce,liger",
        "--softcap",
        "5",
        "--slots",
        "2",
        "--distributions",
        "peaked",
    ]
    assert main(["bench", "kernels", *OPTIONS, *asked, "--output", str(tmp_path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "results.json").read_text())
    assert printed["environment"]["releases"]["torch"] == torch.__version__
    assert printed["matrix_tflops"] > 0

    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["provider"], row["status"], row["phase"]) for row in rows] == [
        *(("ours-torch", "measured", phase) for phase in ("forward", "backward", "both")),
        *(("plain", "measured", phase) for phase in ("forward", "backward", "both")),
        ("torch-lce", "skipped", ""),
        ("liger", "skipped", ""),
    ]
    assert [row["reason"] for row in rows[-2:]] == ["has no softcap", "needs a GPU"]
    both = rows[2]
    assert (both["rows"], both["vocabulary"], both["hidden_size"], both["runs"]) == ("40", "300", "16", "2")
    # Counted for 40 rows: 8 NVD in the median time.
    assert float(both["tflops"]) == pytest.approx(8 * 40 * 300 * 16 / float(both["median_ms"]) / 1e9)
    assert float(both["logits_mib"]) == pytest.approx(40 * 300 * 4 / 2**20)


def test_the_table_says_what_was_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "matrix_rate", lambda *_: 1e12)  # a second of products that nothing here reads
    asked = ["--providers", "plain,cce", "--distributions", "random"]
    assert main(["bench", "kernels", *OPTIONS, *asked, "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "skipped: cce: needs a GPU" in printed
    assert "300x16: 40 rows" in printed and str(tmp_path) in printed


def test_a_failure_of_our_own_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(problem: Problem) -> torch.Tensor:
        raise RuntimeError("wrong")

    monkeypatch.setattr(bench, "matrix_rate", lambda *_: 1e12)
    monkeypatch.setitem(PROVIDERS, "ours-torch", replace(PROVIDERS["ours-torch"], nll=fail))
    assert main(["bench", "kernels", *OPTIONS, "--providers", "ours-torch,plain", "--output", str(tmp_path)]) == 1
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert {row["reason"] for row in rows if row["provider"] == "ours-torch"} == {"RuntimeError: wrong"}
    assert sum(row["status"] == "measured" for row in rows) == 6


def test_a_package_that_is_missing_is_named_as_the_reason() -> None:
    absent = replace(PROVIDERS["trl-chunked"], package="no_such_package")
    assert absent.reason_to_skip("cpu", None, 1) == "not installed: pip install 'compact-ds[bench]'"
    reason = PROVIDERS["plain"].reason_to_skip("cpu", None, 1 << 50)
    assert reason is not None and reason.startswith("would hold about 12582912.0 GiB of logits")


def test_defaults_and_refusals() -> None:
    assert (shape_named("llama-3.1-8b").vocabulary, shape_named("12x34").hidden_size) == (128256, 34)
    assert SHAPES["trl-6858"] == Shape("trl-6858", 248320, 2048, (16384,))
    assert "torch-lce-auto" not in [p.name for p in providers_named(None, "cpu")]
    assert len(providers_named(None, "cuda")) == len(PROVIDERS)
    plan = bench.make_plan(bench.Options(shapes=["trl-6858", "12x34"], device="cpu"))
    assert [(shape.name, rows) for shape, rows, _ in plan.inputs] == [("trl-6858", 16384)] * 2 + [("12x34", 512)] * 2
    for wrong in (
        {"shapes": ["llama"]}, {"providers": ["ligre"]}, {"distributions": ["flat"]}, {"dtype": "int8"},
        {"grad_fraction": 0.0}, {"slots": 0}, {"rows": [0]}, {"softcap": -1.0},
    ):  # fmt: skip
        with pytest.raises(UserError, match="expected"):
            bench.make_plan(bench.Options(device="cpu", **wrong))


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    common = Row("s", 300, 16, 40, 1, "fp32", "random", 1.0, None, "plain", True, bench_report.MEASURED, phase="both")
    measured = replace(common, median_ms=1.0, peak_mib=2.0, nll_error_max=1e-6)
    others = [replace(measured, provider="ours-torch", distribution=name) for name in ("random", "peaked")]
    plot([measured, *others, replace(common, status="skipped")], "title", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.gpu
def test_every_provider_that_is_installed_runs_on_the_gpu(tmp_path: Path) -> None:
    asked = ["--shapes", "4096x256", "--rows", "300", "--repeats", "2", "--no-plot", "--device", "cuda", "--slots", "2"]
    assert main(["bench", "kernels", *asked, "--grad-fraction", "0.5", "--output", str(tmp_path), "--json"]) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    exact = [row for row in rows if row["status"] == "measured" and row["provider"].startswith("ours")]
    assert {row["provider"] for row in exact} == {"ours-workspace", "ours-atomic", "ours-torch"}
    # The bf16 workspace rounds logit gradients: 2^-9 of each, 1.6e-3 measured on a real model's head.
    assert max(row["grad_hidden_error"] for row in exact) < 5e-3
    assert max(row["nll_error_max"] for row in exact) < 1e-4
