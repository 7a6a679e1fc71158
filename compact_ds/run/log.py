"""What a run writes while it trains: `metrics.jsonl`, TensorBoard and the progress bar.

Owns the files' form. Values arrive on the host; nothing here reads a tensor. Only the first rank has one of these.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from compact_ds.run.board_layout import hyperparameters, layout

METRICS = "metrics.jsonl"
EVALUATIONS = "evaluations.jsonl"


class RunLog:
    """The first rank's record of a run; a resumed run goes on after `first_step` lines."""

    def __init__(self, folder: Path, first_step: int, max_steps: int, name: str, added: Sequence[str] = ()) -> None:
        """`added` are metrics of the user's own, beside the three."""
        self._metrics = _continue(folder / METRICS, first_step)
        # The step of a checkpoint is not evaluated again; but a run that starts over evaluates step 0, and its end any run.
        is_within = 0 < first_step < max_steps
        self._evaluations = _continue(folder / EVALUATIONS, first_step + 1 if is_within else first_step)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)
        self._added, self._has_layout = added, False
        self._last: Mapping[str, Any] = {}
        self._bar = tqdm(total=max_steps, initial=first_step, desc=name, unit="step", dynamic_ncols=True)
        for row in read(folder / EVALUATIONS):
            if row["step"] == first_step:
                # TensorBoard drops all points of the first step, this one too.
                self._draw_evaluation(row)

    def step(self, row: Mapping[str, Any]) -> None:
        """One optimizer step: a line, a point on every curve, a tick of the bar."""
        _append(self._metrics, row)
        if not self._has_layout:
            self._board.add_custom_scalars(layout(sorted(row["weight"]), self._added))
            self._has_layout = True
        self._board.add_histogram("weight_of_teachers", np.array(list(row["weight"].values())), row["step"])
        for key, value in row.items():
            if isinstance(value, Mapping):
                for teacher, of_teacher in value.items():
                    self._board.add_scalar(f"{key}/{teacher}", of_teacher, row["step"])
            elif key != "step":
                self._board.add_scalar(f"train/{key}", value, row["step"])
        weights = " ".join(f"{teacher}={share:.2f}" for teacher, share in row["weight"].items())
        speed = row["tokens"] / row["step_seconds"]
        self._bar.set_postfix_str(f"loss={row['loss']:.3f} {speed:,.0f} tokens/s {weights:.60}", refresh=False)
        self._bar.update()

    def texts(self, texts: Mapping[str, str], step: int) -> None:
        """Texts in Markdown by tag, to read in TensorBoard."""
        for tag, text in texts.items():
            self._board.add_text(f"rationales/{tag}", text, step)

    def evaluation(self, row: Mapping[str, Any]) -> None:
        """One evaluation on held-out questions."""
        _append(self._evaluations, row)
        self._last = row
        self._draw_evaluation(row)
        self.say("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in _flat(row).items()))

    def on_disk(self) -> None:
        """See every row onto the disk, so that a checkpoint never knows of steps that the log has lost."""
        for stream in (self._metrics, self._evaluations):
            os.fsync(stream.fileno())

    def outcome(self, config: Mapping[str, Any]) -> None:
        """At a run's end: its settings and the last evaluation's figures, side by side with other runs' under HParams."""
        figures = {
            f"outcome/{key}": value for key, value in _flat(self._last).items() if key != "step" and value is not None
        }
        self._board.add_hparams(hyperparameters(config), figures, run_name=".")

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._bar.write(line)

    def close(self) -> None:
        """Flush and end."""
        self._bar.close()
        self._board.close()
        self._metrics.close()
        self._evaluations.close()

    def _draw_evaluation(self, row: Mapping[str, Any]) -> None:
        for key, value in _flat(row).items():
            if key != "step" and value is not None:
                self._board.add_scalar(f"evaluation/{key}", value, row["step"])


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; a last line that a crash left unfinished is none."""
    whole = file.read_text(encoding="utf-8").rpartition("\n")[0]
    # Not by splitlines, which also breaks at separators that JSON text may hold.
    return [json.loads(line) for line in whole.split("\n") if line]


def _continue(file: Path, before: int) -> Any:
    """Open for appending, without rows of steps from `before` on, which will be written again.

    The rows kept replace the file as a whole: a run that dies here loses none.
    """
    rows = read(file) if file.is_file() else []
    kept = file.with_name(f"{file.name}.unfinished")
    with kept.open("w", encoding="utf-8") as stream:
        for row in rows:
            if row["step"] < before:
                _append(stream, row)
        os.fsync(stream.fileno())
    os.replace(kept, file)
    return file.open("a", encoding="utf-8")


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Figures within figures by their path."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        flat |= _flat(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _append(stream: Any, row: Mapping[str, Any]) -> None:
    stream.write(json.dumps(row) + "\n")
    stream.flush()
