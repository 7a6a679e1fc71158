"""Three ways to score probes, side by side: seconds and gathered bytes of a training step under ZeRO-3.

A measurement, not a test: `OMP_NUM_THREADS=1 deepspeed --num_gpus 2 tests/measure_probes.py` (or any launcher that sets RANK
and its companions). `beside`: one forward, probe tokens behind the trunk without a gradient. `inside`: one forward, probes
in the graph. `cached`: a forward of the trunk that keeps keys and values, then one of the probes alone without a gradient.
Steps of the three alternate, so that a busy machine is unfair to none.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any, Literal

import torch
from deepspeed.runtime.zero import partition_parameters
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from compact_ds.config import load
from compact_ds.engine.ranks import ranks
from compact_ds.engine.start import Engine
from compact_ds.kernels.tree_attention import ancestor_mask
from compact_ds.optimizer_step.training_set import TrainingSet
from compact_ds.student import attention
from compact_ds.student.load import load_lm, load_tokenizer
from compact_ds.student.measure import Student
from compact_ds.tree.batch import Batch
from compact_ds.tree.tokenise import Tokeniser

STEPS, WARMUP = 12, 4
Variant = Literal["beside", "inside", "cached"]
SETTINGS = ["student.scratch.hidden_size=256", "student.scratch.intermediate_size=768"]
SETTINGS += ["student.scratch.num_hidden_layers=6", "run_dir=unused"]


class CachedProbes(torch.nn.Module):
    """The student with the trunk and the probes as two forward passes."""

    def __init__(self, lm: Any) -> None:
        super().__init__()
        self.student = Student(lm, "tree", "inside")
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.probing = False
        self.mask: Tensor | None = None

    def attend(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        mask = self.mask
        if self.probing:
            before = self.kept[module.layer_idx]
            key, value = (torch.cat(pair, dim=2) for pair in zip(before, (key, value), strict=True))
        else:
            self.kept[module.layer_idx] = key.detach(), value.detach()
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
        return out.transpose(1, 2).contiguous(), None

    def forward(self, batch: Batch, probing: bool) -> Any:
        self.probing = probing
        AttentionInterface.register(attention.NAME, self.attend)
        tokens = slice(batch.num_trunk, None) if probing else slice(None, batch.num_trunk)
        keys = slice(None) if probing else tokens
        self.mask = ancestor_mask(batch.order_BL, batch.end_BL)[:, :, tokens, keys]
        lm = self.student.lm
        hidden = lm.get_decoder()(
            input_ids=batch.ids_BL[:, tokens], position_ids=batch.positions_BL[:, tokens], use_cache=False
        ).last_hidden_state
        length = batch.ids_BL.shape[1]
        rows = slice(batch.num_grad, None) if probing else slice(None, batch.num_grad)
        row, place = batch.index_N[rows] // length, batch.index_N[rows] % length
        at = row * hidden.shape[1] + place - (batch.num_trunk if probing else 0)
        return lm.lm_head(hidden.flatten(0, 1)[at], batch.target_N[rows, None])


class Traffic:
    """Bytes of gathered parameters, counted at DeepSpeed's call."""

    def __init__(self) -> None:
        self.bytes = 0
        gather = partition_parameters._dist_allgather_fn

        def counted(input_tensor: Tensor, output_tensor: Tensor, group: Any = None) -> Any:
            self.bytes += output_tensor.numel() * output_tensor.element_size()
            return gather(input_tensor, output_tensor, group)

        partition_parameters._dist_allgather_fn = counted


def one_step(variant: Variant, engine: Engine, batches: Sequence[Batch]) -> None:
    for batch in batches:
        if variant == "cached":
            lse, z = engine.deepspeed(batch, False)
            with torch.no_grad():
                engine.deepspeed(batch, True)
        else:
            AttentionInterface.register(attention.NAME, attention._attend)
            lse, z = engine.forward(batch)
        engine.backward((lse[: batch.num_grad] - z[: batch.num_grad, 0]).sum(), 1000, last=True)
    engine.step(1e-4)


def main() -> None:
    config = load("arithmetic", SETTINGS)
    tokeniser = Tokeniser(load_tokenizer(config.student), config.data.cue)
    data = TrainingSet(config, tokeniser)
    traffic = Traffic()
    with ranks(300) as group:
        engines = {}
        variants: tuple[Variant, ...] = ("beside", "inside", "cached")
        for variant in variants:
            lm = load_lm(config, len(tokeniser.tokenizer))
            student = CachedProbes(lm) if variant == "cached" else Student(lm, "tree", variant)
            engines[variant] = Engine(student, config, group)
        seconds: dict[Variant, list[float]] = {v: [] for v in engines}
        gathered: dict[Variant, list[int]] = {v: [] for v in engines}
        for step in range(STEPS):
            batches = data.step(step, group).batches
            for variant, engine in engines.items():
                before, started = traffic.bytes, time.perf_counter()
                one_step(variant, engine, batches)
                group.barrier()
                seconds[variant].append(time.perf_counter() - started)
                gathered[variant].append(traffic.bytes - before)
        if group.is_first:
            base = statistics.median(seconds["beside"][WARMUP:])
            for variant in engines:
                median = statistics.median(seconds[variant][WARMUP:])
                volume = statistics.median(gathered[variant][WARMUP:]) / 2**20
                print(f"{variant}: {median:.3f} s a step, {median / base:.2f} of beside, {volume:.1f} MiB gathered")


if __name__ == "__main__":
    main()
