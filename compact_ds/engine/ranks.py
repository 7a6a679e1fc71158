"""The group of processes that train together: start, end, and the few messages that are not DeepSpeed's own.

Owns process groups and devices. Nothing else talks to other ranks.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from compact_ds.engine.allocator import keep_freed_memory
from compact_ds.launcher.devices import uses_gpu
from compact_ds.launcher.interface import choose_interface
from compact_ds.remarks import show_remarks


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's place among the others."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and shows progress."""
        return self.rank == 0

    def start_sum(self, vector: Tensor) -> Any:
        """Begin to add up `vector` over ranks, in place; call `.wait()` on the result before reading."""
        import deepspeed.comm

        # Through DeepSpeed, so that its traffic and ours are counted in one place.
        return deepspeed.comm.all_reduce(vector, async_op=True)

    def gather(self, item: Any) -> list[Any]:
        """The picklable items of all ranks, in rank order. For rare events, not for the step."""
        items = [None] * self.world_size
        dist.all_gather_object(items, item)
        return items

    def barrier(self) -> None:
        """Wait for every rank."""
        dist.barrier()


@contextmanager
def ranks(timeout_seconds: int) -> Iterator[Ranks]:
    """Join the processes that the launcher started, or be the only one when there was no launcher.

    A process of its own keeps its group to its end, for further runs: DeepSpeed holds on to the first one's.
    """
    if dist.is_initialized():
        yield _place()
        return
    is_alone = "RANK" not in os.environ
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if uses_gpu() else "cpu")
    if is_alone:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if os.environ["RANK"] == "0":
        show_remarks()
        # Of the libraries imported below some have handlers of their own at the root.
        logging.getLogger("compact_ds").propagate = False
    import deepspeed
    import deepspeed.ops

    # The CPU all-reduce op leaves 66 MiB in /dev/shm for every rank and job; gloo does the same work and leaves nothing.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if uses_gpu() else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        keep_freed_memory()
        choose_interface()
    deepspeed.init_distributed(backend, timeout=timedelta(seconds=timeout_seconds), verbose=False)
    if is_alone:
        atexit.register(dist.destroy_process_group)
        yield _place()
        return
    is_whole = False
    try:
        yield _place()
        dist.barrier()
        is_whole = True
    finally:
        # NCCL takes a group down together: a rank that fails alone would wait here for the others before it has said why.
        if is_whole or backend != "nccl":
            dist.destroy_process_group()


def _place() -> Ranks:
    is_gpu = dist.get_backend() == "nccl"
    device = torch.device("cuda", torch.cuda.current_device()) if is_gpu else torch.device("cpu")
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


class Alone(Ranks):
    """A single process without a process group, which waits for nobody."""

    def gather(self, item: Any) -> list[Any]:
        """The item."""
        return [item]

    def barrier(self) -> None:
        """Nothing to wait for."""


@contextmanager
def ranks_or_alone(timeout_seconds: int) -> Iterator[Ranks]:
    """The ranks that a launcher started, or this process alone: for jobs that only measure."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        with ranks(timeout_seconds) as group:
            yield group
        return
    yield Alone(0, 1, torch.device("cuda" if uses_gpu() else "cpu"))
