"""Which kernels run where, and what is said when they cannot."""

import importlib.util
import logging
from collections.abc import Iterator

import pytest
import torch

from compact_ds.errors import ConfigError
from compact_ds.kernels import choice

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def undecided() -> Iterator[None]:
    choice.choose.cache_clear()
    yield
    choice.choose.cache_clear()


def test_a_cpu_takes_torch_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert choice.choose("auto", CPU, torch.bfloat16) == choice.choose("auto", CPU, torch.bfloat16) == "torch"
    assert [r.message for r in caplog.records] == ["kernels: torch for the head in bfloat16 (the device is a CPU)"]


def test_triton_on_a_cpu_is_refused_with_what_would_run(monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    with pytest.raises(ConfigError, match=r"kernels.*triton.*no CPU backend.*kernels=torch"):
        choice.choose("triton", CPU, torch.float32)


def test_without_triton_the_request_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="triton is not installed"):
        choice.choose("triton", CPU, torch.float32)


@pytest.mark.parametrize(
    ("dtype", "capability", "path"),
    [
        (torch.bfloat16, (9, 0), "triton"),
        (torch.float16, (8, 6), "triton"),
        (torch.float32, (9, 0), "torch"),
        (None, (9, 0), "triton"),
        (torch.bfloat16, (7, 5), "torch"),
    ],
)
def test_a_gpu_takes_triton_for_16_bit_operands(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype | None, capability: tuple[int, int], path: str
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choice.choose("auto", torch.device("cuda", 0), dtype) == path


def test_importing_kernels_needs_no_triton() -> None:
    import subprocess
    import sys

    code = "import sys; sys.modules['triton'] = None; import compact_ds.kernels.lse_gather, compact_ds.kernels.segment_scores"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
