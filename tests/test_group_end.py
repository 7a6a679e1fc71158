"""How a group of ranks ends: together, and under NCCL never by a rank that fails alone."""

from __future__ import annotations

import deepspeed
import pytest
import torch
from torch import distributed as dist

from compact_ds.engine import ranks as module
from compact_ds.engine.ranks import Ranks


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done to the group, in order; there is no group."""
    done: list[str] = []
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    monkeypatch.setattr(dist, "barrier", lambda: done.append("barrier"))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: done.append("destroy"))
    monkeypatch.setattr(deepspeed, "init_distributed", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(module, "choose_interface", lambda: None)
    monkeypatch.setattr(module, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(module, "_place", lambda: Ranks(1, 2, torch.device("cpu")))
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "DS_ACCELERATOR": "cpu"}.items():
        monkeypatch.setenv(name, value)
    return done


@pytest.mark.parametrize("is_gpu", [False, True])
def test_ranks_that_are_done_take_the_group_down_together(
    ended: list[str], monkeypatch: pytest.MonkeyPatch, is_gpu: bool
) -> None:
    monkeypatch.setattr(module, "uses_gpu", lambda: is_gpu)
    with module.ranks(60):
        ended.append("work")
    assert ended == ["work", "barrier", "destroy"]


# NCCL's own end of a group is a collective on each node: who fails alone would wait in it, silent, until the others time out.
@pytest.mark.parametrize(("is_gpu", "then"), [(False, ["destroy"]), (True, [])])
def test_a_rank_that_fails_leaves_a_group_of_nccl_as_it_is(
    ended: list[str], monkeypatch: pytest.MonkeyPatch, is_gpu: bool, then: list[str]
) -> None:
    monkeypatch.setattr(module, "uses_gpu", lambda: is_gpu)
    with pytest.raises(RuntimeError, match="out of memory"), module.ranks(60):
        raise RuntimeError("out of memory")
    assert ended == then
