"""TRL's SFTTrainer on the same rationales, a step a lap, at the fastest of its settings.

Owns the settings that are tried and the gate that makes a running trainer wait between its optimizer steps. It computes no
weights and no probes: it is what the same texts cost where nothing is asked of them.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import threading
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback

from compact_ds.errors import UserError
from compact_ds.sections import Config
from compact_ds.tree.tokenise import Record

SETTINGS: dict[str, dict[str, Any]] = {
    "a row a pass": {"per_device_train_batch_size": 1},
    "4 rows of like length": {"per_device_train_batch_size": 4, "train_sampling_strategy": "group_by_length"},
    "packed, 512 tokens": {"per_device_train_batch_size": 1, "packing": True, "max_length": 512},
}
"""No checkpointing of activations; the loss is the trainer's own fused and chunked one, its only one since 1.16."""


_LONG = 5.0
"""Seconds beside which what a first step sets up does not count."""


class Trl:
    """An SFTTrainer in a thread of its own, which takes one optimizer step at every lap."""

    name = "trl"

    def __init__(
        self, setting: str, config: Config, lm: Any, records: Sequence[Record], tokenizer: Any, folder: Path
    ) -> None:
        """`lm` is copied. Raises UserError where trl is not installed."""
        if importlib.util.find_spec("trl") is None:
            raise UserError("--against", "trl", "the package trl", "pip install 'compact-ds[bench]', or leave it out")
        self.setting = setting
        self._gate = _Gate()
        with _no_ranks():
            self._trainer = _trainer(setting, config, copy.deepcopy(lm), records, tokenizer, folder, self._gate)
        batches = list(self._trainer.get_train_dataloader())
        self.padded = sum(int(batch["input_ids"].numel()) for batch in batches)
        self.tokens = sum(len(r.prompt_ids) + len(one.ids) for r in records for one in r.rationales)
        self._thread = threading.Thread(target=self._train, daemon=True)

    def lap(self) -> None:
        """Let the trainer take one step. Raises what it raised."""
        if not self._thread.is_alive():
            self._thread.start()
        self._gate.pass_one()
        if self._gate.error is not None:
            raise self._gate.error

    def close(self) -> None:
        """End the trainer."""
        self._gate.closing = True
        if self._thread.is_alive():
            self._gate.opened.set()
            self._thread.join()

    def _train(self) -> None:
        try:
            self._trainer.train()
        except BaseException as error:  # the main thread waits and must hear of it
            self._gate.error = error
            self._gate.reached.set()


class _Gate(TrainerCallback):
    """Stops the trainer's thread before its first and after every optimizer step."""

    def __init__(self) -> None:
        self.opened, self.reached = threading.Event(), threading.Event()
        self.closing = False
        self.error: BaseException | None = None
        self._begun = False

    def pass_one(self) -> None:
        """Open, and wait until the trainer stands before the gate again."""
        self.reached.clear()
        self.opened.set()
        self.reached.wait()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The first lap begins here, after the trainer has set itself up."""
        self._wait(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A lap ends, the next one begins with the data of the next step."""
        self.reached.set()
        self._wait(control)

    def _wait(self, control: Any) -> None:
        self.opened.wait()
        self.opened.clear()
        control.should_training_stop = self.closing


def fastest(settings: Sequence[str], make: Any) -> Trl:
    """Of the contenders that `make(setting)` gives, the one whose step took the least time; the others are closed.

    Short steps are timed at their second run.
    """
    best: tuple[float, Trl] | None = None
    for setting in settings:
        one: Trl = make(setting)
        seconds = _timed(one)
        if seconds < _LONG:
            seconds = _timed(one)
        loser = one if best is not None and best[0] <= seconds else (best[1] if best else None)
        if loser is not one:
            best = (seconds, one)
        if loser is not None:
            loser.close()
    assert best is not None
    return best[1]


def _timed(one: Trl) -> float:
    started = time.perf_counter()
    one.lap()
    return time.perf_counter() - started


def _trainer(
    setting: str, config: Config, lm: Any, records: Sequence[Record], tokenizer: Any, folder: Path, gate: _Gate
) -> Any:
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    rows = [
        {
            "input_ids": [*record.prompt_ids.tolist(), *one.ids.tolist()],
            "completion_mask": [0] * len(record.prompt_ids) + [1] * len(one.ids),
            "length": len(record.prompt_ids) + len(one.ids),
        }
        for record in records
        for one in record.rationales
    ]
    optimizer, chosen = config.optimizer, SETTINGS[setting]
    arguments = {
        "output_dir": str(folder / "trl"), "max_steps": 10**6, "learning_rate": optimizer.lr, "optim": "adamw_torch",
        "adam_beta1": optimizer.betas[0], "adam_beta2": optimizer.betas[1], "adam_epsilon": optimizer.eps,
        "weight_decay": optimizer.weight_decay, "max_grad_norm": optimizer.grad_clip, "lr_scheduler_type": "constant",
        "gradient_checkpointing": False, "save_strategy": "no", "logging_strategy": "no", "report_to": [],
        "disable_tqdm": True, "use_cpu": not torch.cuda.is_available(), "bf16": config.engine.precision == "bf16",
        "max_length": config.tree.row_tokens, "dataloader_pin_memory": False, **chosen,
    }  # fmt: skip
    parts = {"model": lm, "processing_class": tokenizer, "callbacks": [gate]}
    trainer = SFTTrainer(args=SFTConfig(**arguments), train_dataset=Dataset.from_list(rows), **parts)
    trainer.remove_callback(PrinterCallback)  # it would print among our figures
    # All rationales make one step, however many rows they were packed into.
    trainer.args.gradient_accumulation_steps = len(trainer.get_train_dataloader())
    return trainer


@contextmanager
def _no_ranks() -> Any:
    """Hide the launcher's variables: the trainer is a single process, whatever runs beside it."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
