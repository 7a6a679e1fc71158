"""What matrix products cost while a mode is on: each is three sizes multiplied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode


class Multiplications(TorchDispatchMode):
    """Multiplications and additions of all matrix products, in units of one product of so many."""

    def __init__(self, unit: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.unit, self.units = unit, 0.0

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket._qualified_op_name.split("::")[1] in ("addmm", "addmm_", "mm"):
            rows, inner = args[-2].shape
            self.units += rows * inner * args[-1].shape[1] / self.unit
        return func(*args, **(kwargs or {}))
