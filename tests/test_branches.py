"""Merge-of-Thought: after one round the student is the mean of the students that each teacher alone would have made."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import start
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from compact_ds.config import load
from compact_ds.engine import trained_state
from compact_ds.engine.trained_state import mean
from compact_ds.errors import ConfigError

SMALL = ("max_steps=3", "data.batch_size=4", "data.teachers=[ada,ben]", "data.limit=40", "evaluation.limit=2")


def _final(folder: Path, *overrides: str) -> dict[str, torch.Tensor]:
    command = ["-m", "compact_ds.cli", "train", "arithmetic", f"run_dir={folder}", *SMALL, *overrides]
    codes, outputs = start(command, world_size=1)
    assert codes == [0], outputs[0]
    return load_file(folder / "final" / "model.safetensors")


@pytest.mark.slow
def test_a_round_ends_in_the_mean_of_the_branches(tmp_path: Path) -> None:
    merged = _final(tmp_path / "mot", "method=mot", "mixer.merge_every=3")
    alone = [_final(tmp_path / teacher, f"method=single:{teacher}") for teacher in ("ada", "ben")]
    moved = 0.0
    for name, tensor in merged.items():
        expected = (alone[0][name].double() + alone[1][name].double()) / 2
        # One rounding to fp32 of numbers below 4 parts the two.
        assert torch.allclose(tensor.double(), expected, atol=2.5e-7, rtol=0), name
        moved = max(moved, float((alone[0][name] - alone[1][name]).abs().max()))
    assert moved > 5e-4  # the branches did go apart, by twice the rates of three warm-up steps at most


def test_the_mean_of_copies() -> None:
    copies = [
        {"a": torch.tensor([1.0, 4.0]), "b": torch.tensor(1)},
        {"a": torch.tensor([2.0, -4.0]), "b": torch.tensor(3)},
    ]
    assert {name: tensor.tolist() for name, tensor in mean(copies).items()} == {"a": [1.5, 0.0], "b": 2}


class _Doubles(TorchDispatchMode):
    """The most elements of float64 that one operation has made."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.dtype == torch.float64:
            self.most = max(self.most, found.numel())
        return found


def test_the_mean_of_long_tensors_is_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained_state, "_BLOCK", 1000)
    draw = torch.Generator().manual_seed(0)
    flat = [torch.randn(2500, generator=draw) for _ in range(3)]
    turned = [torch.randn(30, 50, generator=draw).bfloat16().T for _ in range(3)]
    with _Doubles() as doubles:  # type: ignore[no-untyped-call]
        found = mean([{"flat": a, "turned": b} for a, b in zip(flat, turned, strict=True)])
    assert 0 < doubles.most <= 1000
    for name, tensors in (("flat", flat), ("turned", turned)):
        exact = [sum(Fraction(float(x)) for x in of) / 3 for of in zip(*(t.reshape(-1) for t in tensors), strict=True)]
        expected = torch.tensor([float(x) for x in exact], dtype=torch.float64).to(tensors[0].dtype)
        assert torch.equal(found[name], expected.view(tensors[0].shape))


@pytest.mark.parametrize("key", ["checkpoint_every=10", "evaluation.every=10"])
def test_a_checkpoint_between_merges_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=r"every: found 10; expected a multiple of mixer.merge_every=25"):
        load("arithmetic", ["method=mot", key])
    load("arithmetic", ["method=mot", key, "mixer.merge_every=5"])


def test_surgery_on_branches_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method: found mot; expected mixer.mode=loss"):
        load("arithmetic", ["method=mot", "mixer.mode=gradient"])
