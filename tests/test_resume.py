"""Law 5: a run that was interrupted ends as one that was not, at the same number of ranks and at another."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from processes import start
from safetensors.torch import load_file
from torch import Tensor

# Another number of ranks adds up in another order; two AdamW steps of 2e-3 follow. Measured 2e-7.
TOLERANCE = 2e-6
Whole = tuple[Path, list[str], int]

GRADIENT = ["mixer.mode=gradient", "mixer.solver=pcgrad", "mixer.diagnose_every=2", "mixer.probe_questions=4"]
GRADIENT += ["mixer.retain={train: task:arithmetic, limit: 100, batch_size: 8}"]


@pytest.fixture(scope="module", params=[(1, []), (2, []), (2, GRADIENT)], ids=["1", "2", "2 gradient"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """An uninterrupted run of five steps that left checkpoints after the third and the last."""
    world_size, own = request.param
    folder = tmp_path_factory.mktemp(f"whole{world_size}")
    common = ["-m", "compact_ds.cli", "train", "arithmetic", f"data.cache_dir={folder / 'cache'}", "max_steps=5"]
    common += ["checkpoint_every=3", "evaluation.limit=4", "evaluation.max_new_tokens=4", "compatibility.warmup=1"]
    common += ["data.limit=100", "data.batch_size=8", "optimizer.eps=1e-3", "student.scratch.hidden_size=64", *own]
    codes, outputs = start([*common, f"run_dir={folder / 'whole'}"], world_size)
    assert (folder / "whole" / "summary.json").exists(), (codes, outputs[0][-3000:])
    return folder, common, world_size


def _losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def _resumed(whole: Whole, name: str, world_size: int, step: int = 3) -> list[dict[str, Tensor]]:
    folder, common, _ = whole
    (folder / name).mkdir()
    place = Path("checkpoints") / f"step-{step}"
    shutil.copytree(folder / "whole" / place, folder / name / place)
    for log in ("metrics.jsonl", "evaluations.jsonl"):
        shutil.copy(folder / "whole" / log, folder / name / log)
    codes, outputs = start([*common, f"run_dir={folder / name}", "--resume"], world_size)
    assert (folder / name / "summary.json").exists(), (codes, outputs[0][-3000:])
    assert len(_losses(folder / name)) == 5
    return [load_file(folder / run / "final" / "model.safetensors") for run in (name, "whole")]


def test_resuming_equals_never_having_stopped_bit_for_bit(whole: Whole) -> None:
    resumed, uninterrupted = _resumed(whole, "same", whole[2])
    assert all(torch.equal(resumed[name], tensor) for name, tensor in uninterrupted.items())


def test_a_run_that_died_in_its_last_evaluation_trains_no_step_again(whole: Whole) -> None:
    resumed, uninterrupted = _resumed(whole, "last", whole[2], step=5)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in uninterrupted.items())
    logs = [(whole[0] / run / "metrics.jsonl").read_text(encoding="utf-8") for run in ("last", "whole")]
    assert logs[0] == logs[1], "its times too, which a step taken again would change"
    evaluations = [(whole[0] / run / "evaluations.jsonl").read_text(encoding="utf-8") for run in ("last", "whole")]
    assert evaluations[0] == evaluations[1]


def test_resuming_with_another_number_of_ranks_ends_at_the_same_student(whole: Whole) -> None:
    resumed, uninterrupted = _resumed(whole, "other", 3 - whole[2])
    for name, tensor in uninterrupted.items():
        difference = (resumed[name] - tensor).abs()
        assert difference.max() < TOLERANCE and difference.mean() < TOLERANCE / 5, name
    assert _losses(whole[0] / "other") == pytest.approx(_losses(whole[0] / "whole"), rel=1e-4)
