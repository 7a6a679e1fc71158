"""Compiles kernels ahead of time for targets that need not be here, and reads what the compiler made of them.

Owns compiling and counting: registers, stack, spills, shared memory, matrix and TMA instructions of one kernel for one target.
Which kernels are shipped, and what they must satisfy, is in `shipped`. Needs Triton with its NVIDIA tools, no GPU.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from compact_ds.kernels.operands import FP_FUSION
from compact_ds.kernels.tiles import Target

_TARGETS: dict[str, GPUTarget] = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# What a kernel's matrix instructions are called in each target's assembly.
_MATRIX = {"sm_80": r"\bHMMA", "sm_90": r"\bHGMMA", "sm_100": r"\bUTC\w*MMA", "gfx942": r"v_mfma"}


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel with everything that specialises it: argument types, constants, warps and stages.

    `types` names the type of every argument that is no constant, in Triton's spelling (`*bf16`, `i32`, `fp32`,
    `tensordesc<bf16[128, 64]>`). Pointers, and integers named in `divisible`, are taken as multiples of 16, as the launcher
    finds them for real models.
    """

    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    warps: int
    stages: int
    divisible: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Compiled:
    """What the compiler made of a launch: registers a thread, bytes of stack, spilled and shared memory, instructions."""

    name: str
    target: Target
    registers: int
    stack_bytes: int
    spill_bytes: int
    shared_bytes: int
    warps: int
    stages: int
    matrix: int
    tma_loads: int
    instructions: int


def compile_for(launch: Launch, target: Target) -> Compiled:
    """Compile one launch for one target. Raises what Triton raises when it cannot."""
    names = launch.kernel.arg_names
    source = ASTSource(
        fn=launch.kernel,
        signature={n: launch.types.get(n, "constexpr") for n in names},
        constexprs={(names.index(n),): value for n, value in launch.constants.items()},
        attrs={
            (names.index(n),): [["tt.divisibility", 16]]
            for n, kind in launch.types.items()
            if kind.startswith("*") or n in launch.divisible
        },
    )
    options = {"num_warps": launch.warps, "num_stages": launch.stages, "enable_fp_fusion": FP_FUSION}
    made = triton.compile(source, target=_TARGETS[target], options=options)
    read = _read_amd if target == "gfx942" else _read_nvidia
    return Compiled(launch.name, target, *read(made, target), launch.warps, launch.stages, *_instructions(made, target))


def _read_nvidia(made: Any, target: Target) -> tuple[int, int, int, int]:
    usage = _cuda_tool("cuobjdump", "-res-usage", made.asm["cubin"])
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump printed no resource usage for {target}: {usage[:200]}")
    # Local loads and stores are what spills become; 4 bytes a thread is the smallest.
    spills = 4 * len(re.findall(r"\b(?:LDL|STL)\b", _assembly(made, target)))
    return int(found[1]), int(found[2]), spills, int(made.metadata.shared)


def _read_amd(made: Any, target: Target) -> tuple[int, int, int, int]:
    text = made.asm["amdgcn"]

    def number(key: str) -> int:
        found = re.search(rf"\.{key}:\s*(\d+)", text)
        if found is None:
            raise RuntimeError(f"the {target} assembly states no {key}")
        return int(found[1])

    spills = 4 * (number("vgpr_spill_count") + number("sgpr_spill_count"))
    return number("vgpr_count"), number("private_segment_fixed_size"), spills, int(made.metadata.shared)


def _instructions(made: Any, target: Target) -> tuple[int, int, int]:
    """Matrix instructions, TMA loads, and lines of assembly."""
    text = _assembly(made, target)
    lines = [line for line in text.splitlines() if _is_instruction(line, target)]
    return len(re.findall(_MATRIX[target], text)), len(re.findall(r"\bUTMALDG", text)), len(lines)


def _is_instruction(line: str, target: Target) -> bool:
    if target == "gfx942":
        return bool(re.match(r"\s+[vsdg][a-z_]*\w", line)) and not line.strip().startswith(".")
    return bool(re.match(r"\s+/\*[0-9a-f]{4,}\*/", line))


def _assembly(made: Any, target: Target) -> str:
    if target == "gfx942":
        return str(made.asm["amdgcn"])
    return _cuda_tool("cuobjdump", "-sass", made.asm["cubin"])


def _cuda_tool(tool: str, option: str, cubin: bytes) -> str:
    path = Path(triton.__file__).parent / "backends/nvidia/bin" / tool
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([str(path), option, file.name], check=True, capture_output=True, text=True).stdout
