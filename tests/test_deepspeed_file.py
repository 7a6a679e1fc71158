"""The user's own DeepSpeed file: what is no such file is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from compact_ds.config import load
from compact_ds.engine.start import deepspeed_settings
from compact_ds.errors import ConfigError


@pytest.mark.parametrize(
    ("content", "where", "found"),
    [
        (b"[1]", "", "[1]"),
        (b'{"zero_optimization": 2}', ": zero_optimization", "2"),
        (b'{"a": "\xff"}', None, ""),
    ],
)
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: bytes, where: str | None, found: str) -> None:
    file = tmp_path / "mine.json"
    file.write_bytes(content)
    place = "engine.deepspeed: " if where is None else f"{file}{where}: found {found};"
    with pytest.raises(ConfigError, match=r"expected a (readable )?JSON") as refusal:
        deepspeed_settings(load("arithmetic", [f"engine.deepspeed={file}"]))
    assert str(refusal.value).startswith(place)


@pytest.mark.parametrize("betas", ["[0.9, 1.0]", "[-0.1, 0.9]"])
def test_decays_that_torch_would_refuse_after_loading_are_refused_by_name(betas: str) -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.betas"):
        load("arithmetic", [f"optimizer.betas={betas}"])
