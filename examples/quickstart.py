"""A walk through the Python API, as cells of a notebook: look at rationales, score them, train, watch, score again.

`python examples/quickstart.py [FOLDER]` takes seconds on a CPU: a tiny student from random weights, the built-in task.
"""

# %% Questions with three teachers' rationales, each teacher right on one kind of problem and wrong on the others
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import compact_ds

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
examples = compact_ds.load_examples("task:arithmetic", limit=48)
print(examples[0].question)
for rationale in examples[0].rationales:
    print(f"  {rationale.teacher}: {rationale.text}")

# %% What an untrained student makes of them: likelier gold answers, mainstream steps, losses, and the weights that follow
TINY = {
    "student.tokenizer": "task:arithmetic",
    "student.scratch": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    "data.cache_dir": folder / "cache",
}
rows = compact_ds.score_rationales(examples[:8], "scratch", overrides=TINY)
print(f"{rows[0]['teacher']}: weight {rows[0]['weight']:.2f}, adaptability {rows[0]['adaptability']:+.3f} nats a token")


# %% A run, with an instrument of our own attached to it
class Curve(compact_ds.Callback):
    """Keeps the losses; W&B or MLflow would log the row here."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_step(self, row: Mapping[str, Any]) -> None:
        self.losses.append(row["loss"])

    def on_end(self, summary: Mapping[str, Any]) -> None:
        print(f"loss {self.losses[0]:.2f} -> {self.losses[-1]:.2f}, {summary['train_seconds']:.0f} s")


curve = Curve()
settings = TINY | {
    "run_dir": folder / "run",
    "max_steps": 8,
    "data.limit": 48,
    "data.batch_size": 8,
    "compatibility.warmup": 2,
    "optimizer.warmup_steps": 2,
    "evaluation.limit": 8,
    "evaluation.max_new_tokens": 16,
}
student = compact_ds.train_student("arithmetic", overrides=settings, callbacks=[curve])
print({teacher: round(weight, 2) for teacher, weight in student.summary["weight"].items()})

# %% The student is a Hugging Face folder; what does it make of the rationales now?
after = compact_ds.score_rationales(examples[:8], student.model, overrides={"data.cache_dir": folder / "cache"})
drop = sum(r["token_loss"] for r in rows) / len(rows) - sum(r["token_loss"] for r in after) / len(after)
print(f"token loss of the rationales fell by {drop:.2f} nats a token")
