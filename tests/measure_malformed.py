"""Give the commands what is wrong, and see that each says so in one line and does nothing else.

    python tests/measure_malformed.py [--count 200] [--seed 0]

Each input must end within three minutes with exit code 2 and one line that begins as our errors do: no traceback, no other
code, no run that goes through. `--count 0` takes all there are. Prints a table and one JSON line; exit
code 1 when anything else happened.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepspeed
from malformed_inputs import BROKEN_YAML, wrong_checkpoints, wrong_lines, wrong_settings

from compact_ds import cli, train
from compact_ds.errors import ERROR_PREFIX

PATIENCE_SECONDS = 180
SMALL = ["max_steps=1", "data.limit=20", "data.batch_size=4", "evaluation.limit=2", "evaluation.max_new_tokens=2"]
SMALL += ["student.scratch.hidden_size=32", "student.scratch.num_hidden_layers=1", "compatibility.warmup=1"]


def outcome(words: list[str]) -> tuple[str, str]:
    """`refused`, `accepted`, `traceback`, `hang` or `other`, and the last line that was said.

    The command runs in a copy of this process, since a run leaves its process group behind in DeepSpeed.
    """
    ours, its = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        signal.alarm(PATIENCE_SECONDS)  # whose default is to end the process
        with os.fdopen(its, "w") as answer:
            json.dump(_run(words), answer)
        os._exit(0)
    os.close(its)
    with os.fdopen(ours) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    if text:
        how, said = json.loads(text)
        return how, said
    return ("hang" if os.WTERMSIG(status) == signal.SIGALRM else "other"), f"status {status}"


def _run(words: list[str]) -> tuple[str, str]:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = cli.main(words)
    except BaseException:
        return "traceback", traceback.format_exc(limit=-3).strip().replace("\n", " | ")
    last = (said.getvalue().strip().splitlines() or [""])[-1]
    if code == 0:
        return "accepted", last
    return ("refused" if code == 2 and last.startswith(ERROR_PREFIX) else "other"), last


class Inputs:
    """All inputs by kind, as (kind, what is wrong, words of the command), files made as they are taken."""

    def __init__(self, folder: Path, draw: random.Random) -> None:
        self._folder, self._draw = folder, draw
        self._cache = f"data.cache_dir={folder / 'cache'}"

    def take(self, count: int) -> Iterator[tuple[str, str, list[str]]]:
        """`count` of them, as many of each kind; all when it is 0."""
        for kind, found in (("config", self._config()), ("data", self._data()), ("checkpoint", self._checkpoints())):
            chosen = list(found)
            self._draw.shuffle(chosen)
            for what, make in chosen[: -(-count // 3) or None]:
                yield kind, what, make()

    def _train(self, *words: str) -> list[str]:
        shutil.rmtree(self._folder / "run", ignore_errors=True)
        return ["train", "arithmetic", f"run_dir={self._folder / 'run'}", self._cache, *SMALL, *words]

    def _config(self) -> Iterator[tuple[str, Any]]:
        for text in BROKEN_YAML:
            yield f"a file {text!r}", lambda t=text: self._with_file("config.yaml", t.encode(), ["train"])
        for what, overrides in wrong_settings():
            yield what, lambda words=overrides: self._train(*words)

    def _data(self) -> Iterator[tuple[str, Any]]:
        student = ["student.tokenizer=task:arithmetic", "data.max_left_out=1"]
        for what, raw in wrong_lines():
            yield what, lambda r=raw: self._with_file("questions.jsonl", r, self._train(*student), "data.train=")

    def _checkpoints(self) -> Iterator[tuple[str, Any]]:
        words = [*self._train(), "max_steps=2", "checkpoint_every=1"]
        if (found := outcome(words))[0] != "accepted":
            raise SystemExit(f"the run that is to be damaged did not go through: {found}")
        whole = self._folder / "whole"
        shutil.copytree(self._folder / "run", whole)
        for what, change in wrong_checkpoints(whole / "checkpoints" / "step-1", self._draw, flips=12):
            yield what, lambda c=change: self._damaged(whole, c, [*words, "--resume"])

    def _damaged(self, whole: Path, change: Any, words: list[str]) -> list[str]:
        shutil.rmtree(self._folder / "run", ignore_errors=True)
        shutil.copytree(whole, self._folder / "run")
        change(self._folder / "run" / "checkpoints" / "step-1")
        return words

    def _with_file(self, name: str, raw: bytes, words: list[str], key: str = "") -> list[str]:
        file = self._folder / name
        file.write_bytes(raw)
        return [*words, f"{key}{file}"]


def measure(count: int, seed: int) -> tuple[Counter[tuple[str, str]], list[str], float]:
    """Outcomes by kind, what was not refused, and the longest time in seconds."""
    outcomes: Counter[tuple[str, str]] = Counter()
    wrong, longest = [], 0.0
    assert train and deepspeed  # imported once, here, for all copies
    with tempfile.TemporaryDirectory() as folder:
        for kind, what, words in Inputs(Path(folder), random.Random(seed)).take(count):
            started = time.monotonic()
            how, said = outcome(words)
            longest = max(longest, time.monotonic() - started)
            outcomes[kind, how] += 1
            if how != "refused":
                wrong.append(f"{kind}: {what}: {how}: {said}")
                print(wrong[-1], flush=True)
    return outcomes, wrong, longest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    outcomes, wrong, longest = measure(arguments.count, arguments.seed)
    for (kind, how), number in sorted(outcomes.items()):
        print(f"{kind:<12}{how:<12}{number:>6}")
    found = {f"{kind} {how}": number for (kind, how), number in sorted(outcomes.items())}
    print(json.dumps({"inputs": sum(outcomes.values()), "longest_seconds": round(longest, 1), **found}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
