"""What a step sends: no more than plain fine-tuning of the same model, but for one small message."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from processes import start

WORKER = Path(__file__).with_name("traffic_of_steps.py")

# Nothing is kept between forward and backward pass, and no parameter stays whole: the figures are theory's.
LIMITS_0 = {
    "stage": 3, "stage3_param_persistence_threshold": 0, "stage3_max_live_parameters": 0,
    "stage3_max_reuse_distance": 0, "stage3_prefetch_bucket_size": 0,
}  # fmt: skip
LOGGER = {"comms_logger": {"enabled": True, "prof_all": True, "verbose": False}}
TIED = ["student.scratch.tie_word_embeddings=true"]
CHECKPOINTED = ["student.gradient_checkpointing=true"]


def steps(folder: Path, world_size: int, overrides: Sequence[str] = (), settings: dict[str, Any] | None = None) -> Any:
    file, out = folder / "deepspeed.json", folder / "found.json"
    file.write_text(json.dumps(settings or {"zero_optimization": LIMITS_0, **LOGGER}), encoding="utf-8")
    own = [f"data.cache_dir={folder}", f"run_dir={folder / 'run'}", "data.batch_size=6", "compatibility.warmup=0"]
    _, outputs = start([str(WORKER), str(out), str(file), *own, *overrides], world_size)
    assert out.exists(), outputs[0][-3000:]
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_step_sends_what_plain_fine_tuning_sends_and_one_small_message(tmp_path: Path, world_size: int) -> None:
    found = steps(tmp_path, world_size)
    plain, ours = found["plain"], found["ours"]
    size = ours["parameter_bytes"]
    # Shards are padded to equal parts, which 3 ranks show.
    assert sum(plain["bytes_per_step"].values()) == pytest.approx(3.0 * size, rel=0.005)
    for kind in ("all_gather", "reduce_scatter"):
        assert ours["bytes_per_step"][kind] == plain["bytes_per_step"][kind]
        assert ours["calls_per_step"][kind] == plain["calls_per_step"][kind]
    extra = ours["bytes_per_step"]["all_reduce"] - plain["bytes_per_step"]["all_reduce"]
    assert 0 < extra <= 4096
    assert ours["calls_per_step"]["all_reduce"] == plain["calls_per_step"]["all_reduce"] + 1
    assert sum(ours["bytes_per_step"].values()) <= 1.001 * sum(plain["bytes_per_step"].values())


@pytest.mark.parametrize("overrides", [TIED, CHECKPOINTED])
def test_tied_heads_and_checkpointing_cost_what_they_cost_anyone(tmp_path: Path, overrides: list[str]) -> None:
    found = steps(tmp_path, 2, overrides)
    plain, ours = (sum(found[name]["bytes_per_step"].values()) for name in ("plain", "ours"))
    assert ours <= 1.001 * plain


def test_the_count_is_that_of_the_engines_own_logger(tmp_path: Path) -> None:
    found = steps(tmp_path, 2)
    logged, ours = found["logged"], found["ours"]["bytes_per_step"]
    for kind in ("all_gather", "reduce_scatter", "all_reduce"):
        of_kind = sum(size for name, size in logged.items() if name.startswith(kind))
        # The logger does not see what the backend makes of one call; it takes sizes as we do.
        assert of_kind == pytest.approx(ours[kind], rel=1e-6), logged
