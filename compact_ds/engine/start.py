"""The student inside DeepSpeed: from our config to its dict, and the few calls that the loop makes.

Owns DeepSpeed's configuration and the scale of the loss. Checkpoints are `checkpoint`, whole parameters `shards`.
"""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from torch import Tensor, nn

from compact_ds.config import deepspeed_file
from compact_ds.engine.frozen import frozen_hashes
from compact_ds.engine.gradient_shards import gradient_shards
from compact_ds.engine.precision import remark_imitated_bf16
from compact_ds.engine.ranks import Ranks
from compact_ds.engine.traffic import Traffic
from compact_ds.engine.trained_state import TrainedState
from compact_ds.errors import ConfigError
from compact_ds.sections import Config, OptimizerConfig

_OURS = {
    "train_batch_size": "data.batch_size",
    "train_micro_batch_size_per_gpu": "tree.row_tokens and tree.rows",
    "gradient_accumulation_steps": "tree.row_tokens and tree.rows",
    "optimizer": "optimizer",
    "scheduler": "optimizer.schedule",
    "gradient_clipping": "optimizer.grad_clip",
    "bf16": "engine.precision",
    "fp16": "engine.precision",
    "checkpoint": "checkpoint_every",
}


class Engine:
    """One student under ZeRO, stages 0 to 3, on CPU or GPU."""

    def __init__(self, student: nn.Module, config: Config, ranks: Ranks, universal: bool = False) -> None:
        """Partition the student. `universal`: the checkpoint to load was written by another number of ranks."""
        import deepspeed

        torch.set_float32_matmul_precision(config.engine.matmul_precision)
        optimizer = torch.optim.AdamW(
            _parameter_groups(student, config.optimizer.weight_decay),
            lr=config.optimizer.lr, betas=config.optimizer.betas, eps=config.optimizer.eps,
        )  # fmt: skip
        if ranks.device.type == "cuda":
            student.to(ranks.device)
        self.settings = deepspeed_settings(config)
        if self.zero_stage == 0 and config.engine.precision == "bf16":
            raise ConfigError("engine.precision", "bf16", "ZeRO stage 1, 2 or 3", "set engine.zero_stage=1")
        if ranks.is_first:
            remark_imitated_bf16(next(student.parameters()).dtype, ranks.device, "engine.precision=fp32")
        if universal:
            self.settings["checkpoint"] = {"load_universal": True}
        # ZeRO spreads the first rank's parameters, whatever the others hold.
        self.frozen = frozen_hashes(student) if ranks.is_first else {}
        self.traffic = Traffic(ranks.world_size)
        self.deepspeed, *_ = deepspeed.initialize(model=student, optimizer=optimizer, config=self.settings)
        self.shards = gradient_shards(self.deepspeed, self.zero_stage)
        self.trained_state = TrainedState(self.deepspeed)
        self._ranks = ranks

    @property
    def student(self) -> nn.Module:
        """The wrapped module."""
        module: nn.Module = self.deepspeed.module
        return module

    @property
    def zero_stage(self) -> int:
        """The ZeRO stage in use."""
        return int(self.settings["zero_optimization"]["stage"])

    def forward(self, batch: Any) -> Any:
        """The student's forward pass. Forward and backward passes must alternate."""
        return self.deepspeed(batch)

    def backward(self, loss: Tensor, global_examples: int, *, last: bool) -> None:
        """Backward of a micro-batch's loss sum, so that the pass's gradient is that of the global sum / global_examples.

        DeepSpeed averages over ranks, hence the factor. `last` marks the last micro-batch of a pass: stages 0 and 1 reduce
        then, and stages 1 and 2 would hand on the last micro-batch's gradient alone without it.
        """
        # An offloaded optimizer would copy the gradients of those parameters only that the last micro-batch used.
        offloads = self._offloads()
        self.deepspeed.set_gradient_accumulation_boundary(last and not offloads)
        self.deepspeed.backward(loss * (self._ranks.world_size / global_examples), scale_wrt_gas=False)
        if last and offloads:
            self.deepspeed.optimizer.finalize_gradient_accumulation_boundary()
            self.deepspeed.set_gradient_accumulation_boundary(True)

    @property
    def parameter_bytes(self) -> int:
        """Size of the student's parameters in the type that they travel in, trained or frozen."""
        return sum(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in self.student.parameters())

    def step(self, lr: float) -> float:
        """Clip, update, clear. Returns the global gradient norm before clipping; nan or inf mean that nothing moved."""
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = lr
        # Without ZeRO DeepSpeed reports no norm, and the gradients are gone after its step.
        whole = self._whole_norm() if self.zero_stage == 0 else None
        # Nor does it look for what is no number there: AdamW would write it into every parameter.
        if whole is None or math.isfinite(whole):
            self.deepspeed.step()
        self.shards.clear()
        return whole if whole is not None else float(self.deepspeed.get_global_grad_norm() or 0.0)

    def _offloads(self) -> bool:
        """Whether gradients go to the host as they are reduced; at stage 1 that is at the boundary anyhow."""
        optimizer = self.deepspeed.optimizer
        return self.zero_stage > 1 and bool(
            getattr(optimizer, "cpu_offload", False) or getattr(optimizer, "offload_optimizer", False)
        )

    def _whole_norm(self) -> float:
        gradients = [p.grad for p in self.student.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))


def learning_rate(settings: OptimizerConfig, step: int, max_steps: int) -> float:
    """The rate of optimizer step `step` (from 0): linear warm-up, then constant or a cosine down to `min_lr * lr`."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.lr
    progress = (step - settings.warmup_steps) / max(1, max_steps - settings.warmup_steps)
    return settings.lr * (settings.min_lr + (1 - settings.min_lr) * (1 + math.cos(math.pi * progress)) / 2)


def deepspeed_settings(config: Config) -> dict[str, Any]:
    """DeepSpeed's dict for a config, the user's JSON laid over it. Raises ConfigError for keys that we set."""
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optimizer.grad_clip,
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": config.engine.zero_stage},
    }
    if config.engine.precision == "bf16":
        settings |= {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    given = given_settings(config)
    settings["zero_optimization"] |= given.pop("zero_optimization", {})
    return settings | given


def given_settings(config: Config) -> dict[str, Any]:
    """The user's own DeepSpeed JSON, empty when there is none. Raises ConfigError."""
    return {} if config.engine.deepspeed is None else _read(deepspeed_file(config.engine.deepspeed))


def _read(file: Any) -> dict[str, Any]:
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise ConfigError("engine.deepspeed", str(file), "a readable JSON file in UTF-8", "check the path") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}:{error.lineno}", error.msg, "valid JSON", "mend the line") from None
    zero = given.get("zero_optimization", {}) if isinstance(given, dict) else {}
    for where, part in ((file, given), (f"{file}: zero_optimization", zero)):
        if not isinstance(part, dict):
            raise ConfigError(str(where), part, "a JSON object", 'write {"key": value, ...}')
    for key, ours in _OURS.items():
        if key in given:
            raise ConfigError(f"{file}: {key}", given[key], f"no such key: {ours} says it", f"remove it and set {ours}")
    return dict(given)


def _parameter_groups(student: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    trained = [p for p in student.parameters() if p.requires_grad]
    matrices, others = [p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
