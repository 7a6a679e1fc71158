"""Two pictures of what the mixer's instruments show: teachers in conflict, and forgetting with and without the guard.

`python tests/measure_mixing.py FOLDER` trains on the built-in arithmetic, some ten minutes on two cores, and draws
`conflict.png` and `retention.png`. A run that is already there is not made again.

Conflict: ada and ben follow different conventions on the same questions, so each is right where the other is wrong. Retention: a
student that has learnt all three kinds of problem goes on with ada alone, who is right on `plus` only; what it should keep
are `times` and `max`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from compact_ds.config import DataConfig
from compact_ds.data.readers import read
from compact_ds.metrics import read as read_rows

CONFLICT = ["method=uniform", "data.teachers=[ada,ben]", "mixer.diagnose_every=5", "mixer.probe_questions=24"]
LEARN = ["method=best_of", "max_steps=300", "mixer.diagnose_every=0"]
GO_ON = [
    "method=single:ada",
    "max_steps=150",
    "optimizer.lr=3.0e-4",
    "optimizer.warmup_steps=5",
    "student.scratch=null",
]
GO_ON += ["student.tokenizer=task:arithmetic", "mixer.diagnose_every=5", "evaluation.limit=201", "evaluation.every=50"]


def train(folder: Path, *overrides: str) -> list[dict]:
    """The rows of a run in `folder`, made now or before."""
    if not (folder / "summary.json").exists():
        command = [sys.executable, "-m", "compact_ds.cli", "train", "arithmetic", f"run_dir={folder}", *overrides]
        subprocess.run(command, check=True)
    return read_rows(folder / "metrics.jsonl")


def retained(file: Path) -> Path:
    """Questions of `times` and `max` with their right rationales."""
    lines = []
    for example in read("task:arithmetic", DataConfig(train="task:arithmetic"), 0, limit=None):
        right = [{"teacher": r.teacher, "text": r.text} for r in example.rationales if r.is_correct]
        if " plus " not in example.question:
            row = {"id": example.id, "question": example.question, "answer": example.answer, "rationales": right}
            lines.append(json.dumps(row) + "\n")
    file.write_text("".join(lines), encoding="utf-8")
    return file


def draw_conflict(rows: list[dict], file: Path) -> None:
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


def draw_retention(runs: dict[str, list[dict]], file: Path) -> None:
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
    train(folder / "learnt", *LEARN)
    file = retained(folder / "retained.jsonl")
    runs = {}
    for name, guard in (("unguarded", "false"), ("guarded", "true")):
        retain = f"mixer.retain={{train: {file}, batch_size: 24, guard: {guard}}}"
        runs[name] = train(folder / name, *GO_ON, f"student.model={folder / 'learnt' / 'final'}", retain)
        losses = [row["reference_loss"]["retention"] for row in runs[name] if "reference_loss" in row]
        print(
            name,
            "retention loss",
            losses[0],
            "to",
            losses[-1],
            "; task loss",
            runs[name][0]["loss"],
            runs[name][-1]["loss"],
        )
        print(*(folder / name / "evaluations.jsonl").read_text(encoding="utf-8").splitlines(), sep="\n")
    draw_retention(runs, folder / "retention.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
