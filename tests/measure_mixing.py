"""Two pictures of what the mixer's instruments show: teachers in conflict, and forgetting with and without the guard.

`python tests/measure_mixing.py FOLDER` trains on the built-in arithmetic, some ten minutes on two cores, and draws
`conflict.png` and `retention.png`. A run that is already there is not made again.

Conflict: ada and ben follow different conventions on the same questions, so each is right where the other is wrong. Retention: a
student that has learnt two kinds of problem, `plus` and `max`, goes on with the third, `times`; what it should keep are the
first two.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from compact_ds.data.readers import read
from compact_ds.run.log import read as read_rows
from compact_ds.sections import DataConfig

CONFLICT = ["method=uniform", "data.teachers=[ada,ben]", "mixer.diagnose_every=5", "mixer.probe_questions=24"]
LEARN = ["method=uniform", "max_steps=300", "mixer.diagnose_every=0"]
GO_ON = ["method=uniform", "max_steps=150", "optimizer.lr=5.0e-4", "optimizer.warmup_steps=5", "student.scratch=null"]
GO_ON += [
    "student.tokenizer=task:arithmetic",
    "mixer.diagnose_every=5",
    "mixer.probe_questions=0",
    "evaluation.every=50",
]
GUARDS = {"unguarded": "guard: false", "guarded, margin 0": "margin: 0.0", "guarded, margin 0.5": "margin: 0.5"}


def train(folder: Path, *overrides: str) -> list[dict[str, Any]]:
    """The rows of a run in `folder`, made now or before."""
    if not (folder / "summary.json").exists():
        command = [sys.executable, "-m", "compact_ds.cli", "train", "arithmetic", f"run_dir={folder}", *overrides]
        subprocess.run(command, check=True)
    return read_rows(folder / "metrics.jsonl")


def questions(file: Path, source: str, kinds: tuple[str, ...]) -> Path:
    """The task's questions of some kinds with their right rationales."""
    lines = []
    for example in read(source, DataConfig(train=source), 0, limit=None):
        if any(f" {kind} " in example.question for kind in kinds):
            right = [{"teacher": r.teacher, "text": r.text} for r in example.rationales if r.is_correct]
            row = {"id": example.id, "question": example.question, "answer": example.answer, "rationales": right}
            lines.append(json.dumps(row) + "\n")
    file.write_text("".join(lines), encoding="utf-8")
    return file


def draw_conflict(rows: list[dict[str, Any]], file: Path) -> None:
    """Cosine of the two teachers' gradients and their cosine with the gold answers', over the run."""
    seen = [row for row in rows if "gradient_cosine" in row]
    steps = [row["step"] for row in seen]
    figure, axes = pyplot.subplots(figsize=(8, 4))
    axes.plot(steps, [row["gradient_cosine"]["ada | ben"] for row in seen], label="ada | ben", color="black")
    for teacher in ("ada", "ben"):
        axes.plot(
            steps, [row["answer_agreement"][teacher] for row in seen], label=f"{teacher} | gold answers", alpha=0.5
        )
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set(xlabel="step", ylabel="cosine of gradients", title="Two teachers with different conventions")
    axes.legend(frameon=False)
    figure.savefig(file, dpi=120, bbox_inches="tight")


def draw_retention(runs: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """Loss on what should be kept, and on what is learnt, by run."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    for name, rows in runs.items():
        seen = [row for row in rows if "reference_loss" in row]
        left.plot([row["step"] for row in seen], [row["reference_loss"]["retention"] for row in seen], label=name)
        right.plot([row["step"] for row in rows], [row["loss"] for row in rows], label=name)
    left.set(xlabel="step", ylabel="nats per token", title="retention batch")
    right.set(xlabel="step", ylabel="nats per token", title="the new teacher's rationales")
    left.legend(frameon=False)
    figure.savefig(file, dpi=120, bbox_inches="tight")


def main(folder: Path) -> None:
    """Train what is missing, draw, and print the figures' ends."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_conflict(train(folder / "conflict", *CONFLICT), folder / "conflict.png")
    known = questions(folder / "known.jsonl", "task:arithmetic", ("plus", "max"))
    new = questions(folder / "new.jsonl", "task:arithmetic", ("times",))
    held_out = questions(folder / "held_out.jsonl", "task:arithmetic:eval", ("plus", "max"))
    train(folder / "learnt", *LEARN, f"data.train={known}", f"data.eval={held_out}")
    runs = {}
    for name, guard in GUARDS.items():
        own = [f"data.train={new}", f"data.eval={held_out}", f"student.model={folder / 'learnt' / 'final'}"]
        own.append(f"mixer.retain={{train: {known}, batch_size: 24, {guard}}}")
        runs[name] = train(folder / name.replace(", ", "-").replace(" ", "-"), *GO_ON, *own)
        losses = [row["reference_loss"]["retention"] for row in runs[name] if "reference_loss" in row]
        task = [runs[name][at]["loss"] for at in (0, -1)]
        print(
            f"{name}: retention loss {losses[0]:.4f} to {losses[-1]:.4f}, at most {max(losses):.4f}; task loss {task}"
        )
    draw_retention(runs, folder / "retention.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
