"""Two runs in one process: the quickstart, then one with hooks from code and from the config, each noting what it is told.

Run as `python callbacks_of_a_run.py FOLDER`; also the module that `callbacks: [callbacks_of_a_run:Noting]` names.
"""

import json
import runpy
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import compact_ds

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart.py"


class Noting(compact_ds.Callback):
    """One line in `NAME.jsonl` of the working folder for every call."""

    def __init__(self, name: str = "named") -> None:
        self.file = Path(f"{name}.jsonl")

    def note(self, hook: str, told: object) -> None:
        with self.file.open("a") as stream:
            stream.write(json.dumps([hook, told]) + "\n")

    def on_step(self, row: Mapping[str, Any]) -> None:
        self.note("step", dict(row))

    def on_evaluation(self, row: Mapping[str, Any]) -> None:
        self.note("evaluation", dict(row))

    def on_checkpoint(self, folder: Path) -> None:
        assert list(folder.glob("*optim_states.pt"))
        self.note("checkpoint", str(folder))

    def on_end(self, summary: Mapping[str, Any]) -> None:
        self.note("end", dict(summary))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    walked = runpy.run_path(str(QUICKSTART))
    settings = walked["settings"] | {
        "run_dir": folder / "second",
        "max_steps": 3,
        "checkpoint_every": 2,
        "evaluation.every": 2,
        "evaluation.before": False,
        "callbacks": ["callbacks_of_a_run:Noting"],
        "extensions": ["length_extension"],
        "compatibility.added": {"length": -0.5},
        "texts_every": 1,
    }
    before = signal.getsignal(signal.SIGINT)
    trained = compact_ds.train_student("arithmetic", overrides=settings, callbacks=[Noting("given")])
    assert signal.getsignal(signal.SIGINT) is before, "Ctrl-C is the notebook's again"
    assert trained.folder == folder / "second" and trained.summary["steps"] == 3
