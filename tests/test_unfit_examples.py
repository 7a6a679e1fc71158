"""Law 7: an example without a finite loss, metric or weight is left out on every rank alike, named, and leaves no trace."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from processes import start
from test_gradient_mode import common_overrides
from uneven_questions import write

from compact_ds.engine.ranks import Alone
from compact_ds.errors import UserError
from compact_ds.optimizer_step.batches import StepBatches
from compact_ds.optimizer_step.step import Step
from compact_ds.tree.sampler import examples_of_step, with_substitutes

HERE = Path(__file__).parent
CASES = {
    "stage 0": ["engine.zero_stage=0"],
    "stage 2, some micro-batches": ["engine.zero_stage=2", "tree.rows=1", "tree.row_tokens=256"],
    "stage 3": ["engine.zero_stage=3"],
    "stage 3, gradient mode": ["engine.zero_stage=3", "mixer.mode=gradient", "mixer.solver=pcgrad"],
}
SEED = 0
NUM_EXAMPLES = 60
UNFIT = int(examples_of_step(NUM_EXAMPLES, 8, SEED, 0)[3])
"""A place in the data that the first step draws."""

Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What two steps leave, for every case, meeting the example and knowing it before."""
    folder = tmp_path_factory.mktemp("unfit")
    questions = write(folder / "questions.jsonl", NUM_EXAMPLES)
    unfit_id = json.loads(questions.read_text(encoding="utf-8").splitlines()[UNFIT])["id"]
    cases = [(name, known, own) for name, own in CASES.items() for known in (False, True)]
    cases.append(("too many", False, ["data.max_left_out=0.01"]))
    listed: list[dict[str, Any]] = []
    for name, known, own in cases:
        settings = [*common_overrides(folder, questions), "data.max_left_out=0.02", f"seed={SEED}", *own]
        out = folder / f"{name} {known}.pt"
        listed.append({"out": str(out), "unfit": UNFIT, "known": known, "overrides": settings})
    (folder / "cases.json").write_text(json.dumps(listed), encoding="utf-8")
    # A rank that went on alone would wait in a collective until the group's own timeout.
    worker = [str(HERE / "unfit_example.py"), str(folder / "cases.json"), unfit_id]
    _, outputs = start(worker, request.param, timeout=200)
    made = {Path(case["out"]).stem: Path(case["out"]) for case in listed}
    assert all(file.exists() for file in made.values()), outputs[0][-3000:]
    return {name: torch.load(file, weights_only=True) for name, file in made.items()} | {"id": {"id": unfit_id}}


@pytest.mark.parametrize("case", CASES)
def test_the_update_is_that_of_a_run_that_never_drew_it(found: Found, case: str) -> None:
    met, never = found[f"{case} False"], found[f"{case} True"]
    assert met["parameters"].keys() == never["parameters"].keys()
    assert all(torch.equal(value, never["parameters"][name]) for name, value in met["parameters"].items())
    assert all(value.isfinite().all() for value in met["parameters"].values())


@pytest.mark.parametrize("case", CASES)
def test_it_is_named_once_and_kept_in_the_checkpoint(found: Found, case: str) -> None:
    met = found[f"{case} False"]
    assert [report.get("examples_left_out") for report in met["reports"]] == [{found["id"]["id"]: 1.0}, None]
    assert met["unfit"] == met["resumed"] == [UNFIT]


def test_over_the_share_the_run_stops_before_an_update(found: Found) -> None:
    stopped = found["too many False"]
    assert f"questions.jsonl:{UNFIT + 1}: found" in stopped["error"] and "at step 0" in stopped["error"]
    assert "but for a share of data.max_left_out=0.01 of the examples" in stopped["error"]


def test_a_fault_that_does_not_repeat_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    step = object.__new__(Step)
    step._ranks = Alone(0, 1, torch.device("cpu"))
    monkeypatch.setattr(Step, "_unfit", lambda *_: [])
    expected = (
        "step 7: found a loss, metric or weight that was no number, and is one when taken again; expected the same"
    )
    with pytest.raises(UserError, match=expected):
        step._leave_out(7, cast(StepBatches, None))


def test_substitutes_are_sound_and_others_stay() -> None:
    usable = np.array([3, 5, 7, 11, 13, 17])
    drawn = np.array([5, 17, 3])
    replaced = [with_substitutes(drawn, usable, {17, 7}, 0, step).tolist() for step in range(60)]
    assert all(row[0] == 5 and row[2] == 3 for row in replaced)
    # What is left out or drawn already stands in for nobody.
    assert {row[1] for row in replaced} == {11, 13}
    assert replaced == [with_substitutes(drawn, usable, {17, 7}, 0, step).tolist() for step in range(60)]
    assert with_substitutes(drawn, usable, set(), 0, 0).tolist() == [5, 17, 3]
    # With nothing else to take, what is drawn is taken twice.
    both = [with_substitutes(np.array([3, 5, 7]), usable, {3, 5}, 0, step).tolist() for step in range(60)]
    assert all(row[0] != row[1] for row in both), "no two have one substitute"
    assert with_substitutes(np.array([3, 5]), np.array([3, 5]), {3}, 0, 0).tolist() == [5, 5]
