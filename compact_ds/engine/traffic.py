"""Bytes that this rank's collectives carry, by kind, counted where DeepSpeed hands tensors to the backend.

Owns the count. DeepSpeed's own logger gives the same figures (for an all-gather it logs the shard) but waits for the device at
every call, so it can not stay on. Sizes are of the whole tensor: an all-gather's output, a reduce-scatter's input; a ring
sends (W - 1) / W of them, and an all-reduce twice that.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch import distributed as dist

_KIND_OF: dict[str, tuple[str, int]] = {
    "all_gather_into_tensor": ("all_gather", 0),
    "all_gather_base": ("all_gather", 0),
    "all_gather": ("all_gather", 0),
    "all_gather_coalesced": ("all_gather", 0),
    "reduce_scatter_tensor": ("reduce_scatter", 1),
    "reduce_scatter": ("reduce_scatter", 1),
    "all_reduce": ("all_reduce", 0),
    "all_reduce_coalesced": ("all_reduce", 0),
    "broadcast": ("broadcast", 0),
    "reduce": ("reduce", 0),
    "all_to_all_single": ("all_to_all", 0),
}
"""Backend method -> kind of collective, and which argument is the whole tensor."""


class Traffic:
    """Counts from its creation on; one for a process, made after the process group.

    `begin_step` and `end_step` mark what belongs to optimizer steps: evaluation and checkpoints move bytes of their own.
    """

    def __init__(self, world_size: int) -> None:
        """With a single rank nothing is counted: nothing travels."""
        self.num_bytes: Counter[str] = Counter()
        self.num_calls: Counter[str] = Counter()
        self._started: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self._of_steps: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self._num_steps = 0
        self.waited_seconds = 0.0
        """Time that this process stood still in collectives, where waiting is the host's and not a device's."""
        self._world_size = world_size
        self._inside = False
        self._on_host = False
        if world_size == 1:
            return
        import deepspeed.comm.comm as comm

        self._on_host = dist.get_backend() == "gloo"
        for name, (kind, place) in _KIND_OF.items():
            if hasattr(comm.cdb, name):
                setattr(comm.cdb, name, self._counted(getattr(comm.cdb, name), kind, place))

    def begin_step(self) -> None:
        """What follows belongs to an optimizer step."""
        self._started = (Counter(self.num_bytes), Counter(self.num_calls))

    @property
    def num_begun(self) -> int:
        """Collectives begun so far."""
        return sum(self.num_calls.values())

    def end_step(self) -> int:
        """The step's bytes, of all kinds."""
        own = (self.num_bytes - self._started[0], self.num_calls - self._started[1])
        for total, since in zip(self._of_steps, own, strict=True):
            total.update(since)
        self._num_steps += 1
        return sum(own[0].values())

    def summary(self, parameter_bytes: int) -> dict[str, Any]:
        """Means over the steps, by kind: bytes, calls, and bytes as a multiple of the student's parameters."""
        steps = max(1, self._num_steps)
        sizes, calls = ({kind: n / steps for kind, n in sorted(total.items())} for total in self._of_steps)
        return {
            "world_size": self._world_size,
            "steps": self._num_steps,
            "parameter_bytes": parameter_bytes,
            "bytes_per_step": sizes,
            "calls_per_step": calls,
            "bytes_per_step_of_parameters": {kind: size / parameter_bytes for kind, size in sizes.items()},
        }

    def _counted(self, function: Callable[..., Any], kind: str, place: int) -> Callable[..., Any]:
        # In the order of the backend's own signatures.
        names = (
            "output_tensor", "output_tensors", "output", "tensor_list", "input_tensor", "input_list", "tensor", "tensors",
        )  # fmt: skip

        @functools.wraps(function)
        def counted(*given: Any, **named: Any) -> Any:
            if self._inside:
                # The backend makes some collectives of others.
                return function(*given, **named)
            found = [*given, *(named[name] for name in names if name in named)]
            self.num_bytes[kind] += _size(found[place])
            self.num_calls[kind] += 1
            self._inside = True
            started = time.perf_counter()
            try:
                work = function(*given, **named)
            finally:
                self._inside = False
                self.waited_seconds += time.perf_counter() - started
            return _Waited(work, self) if self._on_host and hasattr(work, "wait") else work

        return counted


class _Waited:
    """A collective under way; the time until it has ended counts as waiting."""

    def __init__(self, work: Any, traffic: Traffic) -> None:
        self._work, self._traffic = work, traffic

    def wait(self, *given: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return self._work.wait(*given, **named)
        finally:
            self._traffic.waited_seconds += time.perf_counter() - started

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


def _size(found: Tensor | Iterable[Tensor]) -> int:
    return found.nbytes if isinstance(found, Tensor) else sum(one.nbytes for one in found)
