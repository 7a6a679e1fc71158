"""The ahead-of-time check: it compiles, it counts, and it fails on a broken limit."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("triton")

from compact_ds.cli import main
from compact_ds.kernels import peers
from compact_ds.kernels.compile_check import Compiled
from compact_ds.kernels.shipped import failures, launches
from compact_ds.kernels.tiles import TARGETS, Target

GOOD = Compiled("forward bf16 K=1 128x128x64 TMA", "sm_90", 128, 0, 0, 98_304, 8, 3, 4, 6, 1000)


def test_a_kernel_within_the_limits_has_no_failures() -> None:
    assert failures(GOOD) == []
    assert failures(replace(GOOD, name="score segments K=1", matrix=0, tma_loads=0)) == []


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"stack_bytes": 8}, "8 bytes of stack"),
        ({"spill_bytes": 4}, "4 spilled"),
        ({"shared_bytes": 240_000}, "shared memory"),
        ({"matrix": 0}, "no matrix instruction"),
        ({"tma_loads": 0}, "no TMA load"),
        ({"registers": 171}, "170 is the limit"),
    ],
)
def test_each_limit(broken: dict[str, Any], words: str) -> None:
    assert any(words in reason for reason in failures(replace(GOOD, **broken)))


def test_fp32_operands_keep_their_bits() -> None:
    plain = replace(GOOD, name="workspace fp32 K=2 64x64x16 bias+scale+cap", matrix=0, tma_loads=0)
    assert failures(plain) == []
    assert any("TF32" in reason for reason in failures(replace(plain, matrix=8)))
    # There it has instructions that multiply fp32 as it is.
    assert failures(replace(plain, target="gfx942", matrix=24, shared_bytes=8192)) == []


@pytest.mark.parametrize("target", TARGETS)
def test_every_launch_names_each_argument_once(target: Target) -> None:
    seen = set()
    for launch in launches(target):
        assert set(launch.types) | set(launch.constants) == set(launch.kernel.arg_names), launch.name
        assert not set(launch.types) & set(launch.constants)
        assert launch.name not in seen
        seen.add(launch.name)


def test_an_unknown_target_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "check", "--targets", "sm_91"]) == 2
    assert "sm_91" in capsys.readouterr().err


@pytest.mark.parametrize("jobs", ["0", "-1"])
def test_less_than_one_job_is_refused(capsys: pytest.CaptureFixture[str], jobs: str) -> None:
    assert main(["kernels", "check", "--jobs", jobs]) == 2
    assert f"--jobs: found {jobs}; expected 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize("target", TARGETS)
def test_every_launch_of_an_installed_peer_names_each_argument_once(target: Target) -> None:
    if set(peers.missing()) == set(peers.PACKAGES):
        pytest.skip("; ".join(f"{name} is {reason}" for name, reason in peers.missing().items()))
    for launch in peers.launches(target):
        assert set(launch.types) | set(launch.constants) == set(launch.kernel.arg_names), launch.name
        assert not set(launch.types) & set(launch.constants)


def test_a_peer_that_is_not_installed_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PACKAGES", dict.fromkeys(peers.PACKAGES, "no_such_module"))
    assert peers.missing() == {
        name: f"not installed: pip install {name}, or compact-ds[bench]"
        for name in ("cut-cross-entropy", "liger-kernel")
    }
    assert peers.versions() == {} and list(peers.launches("sm_90")) == []


@pytest.mark.slow
def test_everything_that_is_shipped_compiles_within_the_limits() -> None:
    command = [sys.executable, "-m", "compact_ds.cli", "kernels", "check", "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"TRITON_INTERPRET": "0"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert {one["target"] for one in json.loads(done.stdout)} == set(TARGETS)
