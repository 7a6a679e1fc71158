"""What the head's public function refuses, and which path it takes: before anything is computed."""

import logging
from typing import Any

import pytest
import torch

from compact_ds.errors import ConfigError
from compact_ds.kernels import choice
from compact_ds.kernels.lse_gather import lse_gather


def fitting(**changed: Any) -> dict[str, Any]:
    given = {
        "hidden_ND": torch.zeros(2, 4),
        "weight_VD": torch.zeros(5, 4),
        "targets_NK": torch.zeros(2, 1, dtype=torch.int64),
        "bias_V": torch.zeros(5),
        "kernels": "torch",
    }
    return given | changed


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"hidden_ND": torch.zeros(2, 1, 4)}, r"hidden must be \[N, D\].*\(2, 1, 4\)"),
        ({"targets_NK": torch.zeros(3, 1, dtype=torch.int64)}, r"targets \[N, K\], got \(2, 4\) and \(3, 1\)"),
        ({"weight_VD": torch.zeros(4)}, r"weight must be \[V, D\], got \(4,\)"),
        ({"weight_VD": torch.zeros(1, 5, 4)}, r"weight must be \[V, D\], got \(1, 5, 4\)"),
        ({"weight_VD": torch.zeros(5, 3)}, "4 features, the weight 3"),
        ({"bias_V": torch.zeros(1)}, r"bias must be \[5\], one a word, got \(1,\)"),
        ({"bias_V": torch.zeros(1, 5)}, r"bias must be \[5\]"),
        ({"targets_NK": torch.zeros(2, 1)}, "integers, got torch.float32"),
        ({"targets_NK": torch.zeros(2, 1, dtype=torch.bool)}, "integers, got torch.bool"),
        ({"targets_NK": torch.full((2, 1), 5)}, r"target 5 is neither in \[0, 5\)"),
        ({"weight_VD": torch.zeros(5, 4, device="meta")}, "weight must be on the device of hidden, cpu, got meta"),
        ({"bias_V": torch.zeros(5, device="meta")}, "bias must be on the device of hidden"),
        ({"grad_rows": 3}, r"grad_rows must be in \[0, 2\], got 3"),
        ({"softcap": 0.0}, "softcap must be positive or None, got 0.0"),
        ({"softcap": float("nan")}, "softcap must be positive"),
        ({"backward": "forward"}, "workspace or atomic, got 'forward'"),
        ({"kernels": "tritn"}, "kernels: found tritn; expected auto, torch or triton; did you mean 'triton'"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        lse_gather(**fitting(**changed))


def test_what_fits_is_taken() -> None:
    lse, z = lse_gather(**fitting(softcap=30.0, grad_rows=0, backward="atomic"))
    torch.testing.assert_close(lse, torch.full((2,), 5.0).log())
    assert not z.any()


MIXED = {"hidden_ND": torch.zeros(2, 4, dtype=torch.bfloat16)}
THREE = {"targets_NK": torch.zeros(2, 3, dtype=torch.int64)}
DOUBLE = {"hidden_ND": torch.zeros(2, 4).double(), "weight_VD": torch.zeros(5, 4).double()}


@pytest.mark.parametrize(
    ("changed", "words"), [(MIXED, "types must agree"), (THREE, "1, 2 or 4"), (DOUBLE, "torch.float64")]
)
def test_triton_says_why_it_cannot_and_what_can(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], words: str
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(choice, "_unable", lambda device: None)
    choice.choose.cache_clear()
    with pytest.raises(ConfigError, match=f"{words}.*kernels=torch"):
        lse_gather(**fitting(kernels="triton", **changed))
    choice.choose.cache_clear()


def test_auto_on_a_gpu_takes_torch_for_operands_that_do_not_fit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(choice, "_unable", lambda device: None)
    choice.choose.cache_clear()
    caplog.set_level(logging.INFO)
    gpu, reason = torch.device("cuda", 0), "3 target slots a row: 1, 2 or 4"
    assert [choice.choose("auto", gpu, torch.bfloat16, reason) for _ in range(2)] == ["torch"] * 2
    assert choice.choose("auto", gpu, torch.bfloat16, None) == "triton"
    assert [record.message for record in caplog.records] == [
        f"kernels: torch for the head in bfloat16 ({reason})",
        "kernels: triton for the head in bfloat16 (the device is a GPU)",
    ]
    choice.choose.cache_clear()
