"""Gradient mode when something is missing or broken: nothing hangs, nothing stale is used, and who is left out is said."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from processes import start
from test_gradient_mode import Steps, assert_same_gradients, common_overrides
from uneven_questions import write

from compact_ds.config import load
from compact_ds.mixer.gradient_mode import Decision
from compact_ds.optimizer_step.mixing import Mixing
from compact_ds.optimizer_step.passes import Passes
from compact_ds.run.log import read

HERE = Path(__file__).parent
UNUSED = cast(Passes, None)
"""For a mixing that decides but takes no passes."""

# A deadlock would last until the process group's own timeout; a healthy job takes some 20 s on a busy machine.
WATCHDOG_SECONDS = 150

SOLVERS = ("sum", "pcgrad", "cagrad", "mgda", "nash")
ONE_TEACHER = "data.teachers=[ben]"
ONE_EACH = "data.batch_size=2"
ABSENT = [ONE_EACH, "data.limit=3", "mixer.groups={rare: [cleo]}"]
CASES = {
    "one question a rank": [ONE_EACH],
    "one teacher": [ONE_TEACHER],
    "a group that is absent": ABSENT,
}
# Two questions with one rationale each leave one of three teachers out on all ranks; where gradients are kept differs by stage.
STAGES = {f"nobody has one, stage {n}": [ONE_EACH, "method=first", f"engine.zero_stage={n}"] for n in range(4)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("faults")
    write(made / "questions.jsonl")
    return made


@pytest.fixture(scope="module")
def steps(folder: Path) -> Steps:
    """One step on two ranks, by loss mode and by every solver, for every case."""
    listed: list[dict[str, Any]] = []
    found = {}
    for case, own in (CASES | STAGES).items():
        for solver in ("loss", "sum") if case in STAGES else ("loss", *SOLVERS):
            words = [] if solver == "loss" else ["mixer.mode=gradient", f"mixer.solver={solver}"]
            overrides = [*common_overrides(folder, folder / "questions.jsonl"), *own, *words]
            out = folder / f"{case} {solver}.pt"
            listed.append({"out": str(out), "mute": False, "overrides": overrides})
    (folder / "cases.json").write_text(json.dumps(listed), encoding="utf-8")
    worker = str(HERE / "gradient_of_a_step.py")
    _, outputs = start([worker, str(folder / "cases.json")], 2, timeout=WATCHDOG_SECONDS)
    for step in listed:
        out = Path(step["out"])
        assert out.exists(), (out.stem, outputs[0][-3000:])
        found[out.stem] = torch.load(out, weights_only=True)
    return found


@pytest.mark.parametrize("case", CASES | STAGES)
def test_the_sum_is_loss_mode_whoever_is_missing(steps: Steps, case: str) -> None:
    assert_same_gradients(steps[f"{case} sum"]["gradients"], steps[f"{case} loss"]["gradients"])


@pytest.mark.parametrize("solver", SOLVERS[1:])
@pytest.mark.parametrize("case", CASES)
def test_every_solver_gets_through_with_a_finite_update(steps: Steps, case: str, solver: str) -> None:
    found = steps[f"{case} {solver}"]["gradients"]
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert max(float(gradient.abs().max()) for gradient in found.values()) > 0
    if case == "one teacher":
        assert_same_gradients(found, steps["one teacher loss"]["gradients"])


def train(folder: Path, name: str, world_size: int, *own: str) -> tuple[Path, list[int], list[str]]:
    run = folder / name
    settings = [f"run_dir={run}", f"data.cache_dir={folder}", "data.batch_size=6", "max_steps=8", "evaluation.limit=2"]
    settings += ["student.scratch.hidden_size=64", "student.scratch.intermediate_size=128", "mixer.mode=gradient"]
    codes, outputs = start(
        [str(HERE / "faulty_teacher.py"), "ben", *settings, *own], world_size, timeout=WATCHDOG_SECONDS
    )
    return run, codes, outputs


def test_a_teacher_with_a_broken_gradient_is_left_out_on_all_ranks_and_named(folder: Path) -> None:
    run, codes, outputs = train(folder, "left_out", 2, "mixer.max_bad=8")
    assert codes == [0, 0], outputs[0][-2000:]
    rows = read(run / "metrics.jsonl")
    assert [row["gradient_left_out"] for row in rows] == [{"ben": 1.0}] * 8
    assert all(row["grad_norm"] > 0 for row in rows) and rows[-1]["loss"] < rows[0]["loss"]


def test_the_first_teachers_own_pass_is_not_blamed_for_another(folder: Path) -> None:
    """Its trees hold all teachers, so that a NaN in one spreads over the shared question; taken alone it is sound."""
    run, codes, _ = train(folder, "first", 1, "mixer.max_bad=8", "max_steps=2")
    assert codes == [0]
    assert all(set(row["gradient_left_out"]) == {"ben"} for row in read(run / "metrics.jsonl"))


def test_after_too_many_bad_steps_in_a_row_the_run_stops_with_a_checkpoint(folder: Path) -> None:
    run, codes, outputs = train(folder, "stopped", 2, "mixer.max_bad=2")
    assert all(code != 0 for code in codes)
    assert "teacher ben: found a gradient that was not finite in 3 steps in a row" in outputs[0]
    assert "mixer.max_bad" in outputs[0] and "--resume" in outputs[0]
    assert (run / "checkpoints" / "latest").read_text(encoding="utf-8") == "step-3"
    assert len(read(run / "metrics.jsonl")) == 3


@pytest.mark.parametrize("every", [0, 1])
def test_in_loss_mode_a_broken_gradient_ends_the_run_with_the_step(folder: Path, every: int) -> None:
    _, codes, outputs = train(folder, f"loss-{every}", 1, "mixer.mode=loss", f"mixer.diagnose_every={every}")
    assert codes == [2] and "step 0: found" in outputs[0] and "gradient norm" in outputs[0]


def test_only_bad_steps_in_a_row_count_and_only_of_groups_that_are_there() -> None:
    config = load("arithmetic", ["mixer.mode=gradient", "mixer.max_bad=1"])
    mixing = Mixing(config, ["ada", "ben"], UNUSED, {})
    mixing.bad_in_a_row["a group of an earlier config"] = 9
    good, bad, guard = (Decision(np.ones(2), names) for names in ((), ("ben",), ("retention batch",)))
    faults = [mixing._judge(one, {}, step).fault for step, one in enumerate((bad, good, bad, guard, guard))]
    assert [fault is None for fault in faults] == [True, True, True, True, False]
    assert str(faults[-1]).startswith("retention batch: found a gradient that was not finite in 2 steps in a row")
    assert mixing._judge(bad, {"x": {}}, 5).report == {"x": {}, "gradient_left_out": {"ben": 1.0}}


def test_a_method_of_one_teacher_takes_one_pass() -> None:
    config = load("arithmetic", ["mixer.mode=gradient", "mixer.groups={pair: [ada, ben]}"])
    for only, names in ((None, ["pair", "cleo"]), ("cleo", ["cleo"]), ("ben", ["pair"])):
        assert [one.name for one in Mixing(config, ["ada", "ben", "cleo"], UNUSED, {}, only).wanted(0)] == names


def test_the_order_of_projections_changes_from_step_to_step() -> None:
    mixing = Mixing(load("arithmetic", ["mixer.mode=gradient", "mixer.solver=pcgrad"]), ["a", "b", "c"], UNUSED, {})
    vectors = np.array([[1.0, 0.0], [-1.0, 0.2], [-0.7, -0.9]])
    found = {tuple(mixing._decide(mixing.wanted(0), vectors @ vectors.T, step).coefficient_V) for step in range(20)}
    assert len(found) > 1
