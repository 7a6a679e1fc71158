"""Runs of several ranks whose checkpoints do not fit, are damaged, belong to another run or to another number of ranks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from processes import start
from safetensors.torch import load_file, save_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SMALL = ["max_steps=6", "checkpoint_every=2", "checkpoint_keep=3", "data.limit=60", "data.batch_size=6"]
SMALL += ["evaluation.limit=2", "evaluation.max_new_tokens=2", "compatibility.warmup=1", "optimizer.eps=1e-3"]
SMALL += ["student.scratch.hidden_size=32", "student.scratch.intermediate_size=64"]
SMALL += ["student.scratch.num_hidden_layers=1"]

# Other sums in fp32 and one Adam step of 2e-3 more or less; AdamW's eps keeps gradients near 0 from becoming whole steps.
TOLERANCE = 2e-6


def _train(run: Path, world_size: int, *options: str) -> tuple[list[int], str]:
    words = ["-m", "compact_ds.cli", "train", "arithmetic", f"run_dir={run}", f"data.cache_dir={run.parent / 'cache'}"]
    codes, outputs = start([*words, *SMALL, *options], world_size)
    return codes, outputs[0]


def _begun(run: Path, whole: Path, step: int = 2) -> Path:
    """A run folder as it was when the checkpoint of a step had just been written."""
    run.mkdir()
    shutil.copytree(whole / "checkpoints" / f"step-{step}", run / "checkpoints" / f"step-{step}")
    for name in ("metrics.jsonl", "evaluations.jsonl", "config.yaml"):
        shutil.copy(whole / name, run / name)
    return run


def _rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two ranks."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    codes, said = _train(run, 2)
    assert codes == [0, 0], said[-3000:]
    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own with room for one checkpoint and a half."""
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]).returncode
    ):
        pytest.skip("mounting a small disk takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("policy", ["go_on", "stop"])
def test_a_full_disk_leaves_the_last_checkpoint_intact_and_is_told(small_disk: Path, policy: str) -> None:
    codes, said = _train(small_disk.parent, 2, "--resume", f"checkpoint_failure={policy}")
    assert codes == ([0, 0] if policy == "go_on" else [2, 2]), said[-3000:]
    assert "step-4: found No space left on device on rank" in said
    assert "the newest checkpoint is step-2" in said
    assert sorted(path.name for path in small_disk.iterdir()) == ["latest", "step-2"]
    assert (small_disk / "latest").read_text(encoding="utf-8") == "step-2"
    assert (small_disk.parent / "summary.json").exists() == (policy == "go_on")
    # Whole: a resumed run goes on from it.
    shutil.rmtree(small_disk.parent / "final", ignore_errors=True)
    codes, said = _train(small_disk.parent, 2, "--resume", "checkpoint_every=0")
    assert codes == [0, 0], said[-3000:]
    assert [row["step"] for row in _rows(small_disk.parent)] == list(range(6))


@pytest.mark.parametrize("world_size", [1, 3])
def test_another_number_of_ranks_gives_the_same_losses_and_gradients(
    whole: Path, tmp_path: Path, world_size: int
) -> None:
    run = _begun(tmp_path / "run", whole)
    codes, said = _train(run, world_size, "--resume")
    assert codes == [0] * world_size, said[-3000:]
    assert f"step-2 was written by 2 ranks and is read by {world_size}; a step has 6 questions as before" in said
    for ours, theirs in zip(_rows(run), _rows(whole), strict=True):
        for key in ("loss", "grad_norm"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-5), (key, ours["step"])
    found, expected = (load_file(folder / "final" / "model.safetensors") for folder in (run, whole))
    assert all((found[name] - expected[name]).abs().max() < TOLERANCE for name in expected)
    assert not (run / "checkpoints" / "converted").exists()


def test_a_number_of_ranks_that_does_not_divide_the_batch_is_told(whole: Path, tmp_path: Path) -> None:
    codes, said = _train(_begun(tmp_path / "run", whole), 4, "--resume")
    assert codes == [2] * 4
    assert "data.batch_size: found 6; expected a multiple of the world size 4" in said


def _ends_as_the_whole_on_one_rank(folder: Path, own: list[str]) -> None:
    run = _begun(folder / "run", folder / "whole")
    codes, said = _train(run, 1, "--resume", *own)
    assert codes == [0], said[-3000:]
    found, expected = (load_file(place / "final" / "model.safetensors") for place in (run, folder / "whole"))
    assert all((found[name] - expected[name]).abs().max() < TOLERANCE for name in expected)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_other_stages_change_their_number_of_ranks_too(tmp_path: Path, stage: int) -> None:
    own = [f"engine.zero_stage={stage}"]
    codes, said = _train(tmp_path / "whole", 2, *own)
    assert codes == [0, 0], said[-3000:]
    _ends_as_the_whole_on_one_rank(tmp_path, own)


def test_adapters_go_on_only_upon_the_base_they_were_trained_on(whole: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(whole / "final", base)
    own = [f"student.model={base}", "student.scratch=null", "student.lora={r: 4}"]
    codes, said = _train(tmp_path / "whole", 2, *own)
    assert codes == [0, 0], said[-3000:]

    _ends_as_the_whole_on_one_rank(tmp_path, own)

    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] = torch.nextafter(weights["model.norm.weight"], torch.tensor(9.0))
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    codes, said = _train(_begun(tmp_path / "other", tmp_path / "whole"), 1, "--resume", *own)
    assert codes == [2]
    assert "student.model: found other weights than the checkpoint" in said and "model.norm.weight" in said


def test_another_run_is_refused_before_anything_of_the_old_one_is_touched(whole: Path, tmp_path: Path) -> None:
    run = _begun(tmp_path / "run", whole)
    before = (run / "config.yaml").read_bytes()
    codes, said = _train(run, 2, "--resume", "mixer.cagrad_radius=0.1", "data.limit=40")
    assert codes == [2, 2]
    assert "content of data, data.limit, mixer.cagrad_radius: found" in said
    assert "mixer.cagrad_radius=0.1" in said and "mixer.cagrad_radius=0.4" in said
    assert (run / "config.yaml").read_bytes() == before


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(whole: Path, tmp_path: Path) -> None:
    run = _begun(tmp_path / "run", whole)
    shutil.copytree(whole / "checkpoints" / "step-4", run / "checkpoints" / "step-4")
    shard = run / "checkpoints" / "step-4" / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    codes, said = _train(run, 2, "--resume")
    assert codes == [0, 0], said[-3000:]
    assert f"step-4: {shard.name}: changed after it was written; passed over" in said
    found, expected = (load_file(folder / "final" / "model.safetensors") for folder in (run, whole))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert [row["step"] for row in _rows(run)] == list(range(6))


def test_a_checkpoint_without_a_manifest_takes_trust(whole: Path, tmp_path: Path) -> None:
    run = _begun(tmp_path / "run", whole)
    (run / "checkpoints" / "step-2" / "manifest.json").unlink()
    codes, said = _train(run, 2, "--resume")
    assert codes == [2, 2] and "--trust" in said
    codes, said = _train(run, 2, "--resume", "--trust")
    assert codes == [0, 0], said[-3000:]
    found, expected = (load_file(folder / "final" / "model.safetensors") for folder in (run, whole))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_evaluation_that_a_stop_prevented_is_made_up_for(whole: Path, tmp_path: Path) -> None:
    run = _begun(tmp_path / "run", whole)
    first = (run / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()[0]
    (run / "evaluations.jsonl").write_text(first + "\n", encoding="utf-8")
    codes, said = _train(run, 2, "--resume", "evaluation.every=2")
    assert codes == [0, 0], said[-3000:]
    steps = [json.loads(line)["step"] for line in (run / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()]
    assert steps == [0, 2, 4, 6]
