"""The comparison: one run per method and seed, several at a time, and a table of what came out.

Owns which runs there are, where they lie, and what is printed and written at the end. Each run is a process of its own
that could be started by hand; a finished one is not started again and an unfinished one goes on from its checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from compact_ds.config import load
from compact_ds.data.readers import read
from compact_ds.errors import ConfigError, UserError, nearest
from compact_ds.evaluation import comparison, comparison_picture, evidence_of_runs
from compact_ds.launcher.devices import local_devices
from compact_ds.launcher.jobs import Job, Stopped, run_jobs
from compact_ds.launcher.launch import check_world_size
from compact_ds.launcher.ranks import num_cores
from compact_ds.plugins import added
from compact_ds.sections import METHODS, SOLVERS, Config
from compact_ds.terminal_table import terminal_table

FAILED = 1
USUAL = ("compact", "consensus", "adaptability", "difficulty", "uniform", "best_of", "first", "single")
"""What is compared when nothing is said; `METHODS` has more."""


@dataclass(frozen=True)
class Plan:
    """What to compare. `methods` may hold `single`, which stands for every teacher alone; None means the `USUAL` ones.

    `METHOD+SOLVER` is the method in gradient mode with that solver, `compact+pcgrad` for example.

    `jobs` is the number of runs at a time; None fills the machine. `quiet` shows no progress.
    """

    config: str
    overrides: Sequence[str]
    methods: Sequence[str] | None
    seeds: int
    nprocs: int
    jobs: int | None
    quiet: bool = False


@dataclass(frozen=True)
class Survey:
    """What the training questions hold: their teachers, by name, and whether any rationale carries a verdict."""

    teachers: tuple[str, ...]
    has_verdicts: bool


@dataclass(frozen=True)
class Run:
    """One method with one seed, in its own folder."""

    method: str
    seed: int
    config: Config
    job: Job


def run(plan: Plan, as_json: bool = False) -> int:
    """Train every method with every seed, print the table, and return the exit code: 1 when a run did not finish.

    Writes `compare.json`, `.md`, `.tex`, `.csv` and, with matplotlib, `.png` into the config's `run_dir`.
    Raises ConfigError and UserError.
    """
    base = load(plan.config, list(plan.overrides))
    _check(plan, base)
    console = Console(stderr=True)
    methods = expand(plan.methods, lambda: survey(base))
    if plan.methods is None and "best_of" not in methods:
        console.print("best_of is left out: no rationale of data.train carries is_correct")
    runs = [_run(plan, base, method, base.seed + number) for method in methods for number in range(plan.seeds)]
    waiting = [run.job for run in runs if not is_finished(run)]
    try:
        failed = run_jobs(waiting, _slots(plan, len(waiting)), Console(stderr=True, quiet=plan.quiet))
    except Stopped as stopped:
        console.print("stopped; the same command goes on from here")
        return 128 + stopped.number
    for job in failed:
        console.print(f"{job.name} did not finish; the end of {job.log}:\n{job.tail()}", markup=False, highlight=False)
    if failed:
        return FAILED
    _report(runs, base.run_dir, plan, as_json)
    return 0


def survey(base: Config) -> Survey:
    """Read the training questions once, for what the choice of methods depends on."""
    examples = read(base.data.train, base.data, base.seed, limit=base.data.limit)
    seen = [(rationale.teacher, rationale.is_correct) for example in examples for rationale in example.rationales]
    has_verdicts = any(verdict is not None for _, verdict in seen)
    return Survey(tuple(sorted({teacher for teacher, _ in seen})), has_verdicts)


def expand(methods: Sequence[str] | None, look: Callable[[], Survey]) -> list[str]:
    """The methods by their config names, in the order given, once each; `single` becomes every teacher alone.

    None means the `USUAL` ones that the data can serve. `look` is called only where the answer depends on the data. Raises
    UserError for an unknown method.
    """
    if methods is None:
        methods = [name for name in USUAL if name != "best_of" or look().has_verdicts]
    expanded = []
    for name in (name.strip() for name in methods):
        plain = split_solver(name)[0]
        if plain == "single":
            expanded += [name.replace("single", f"single:{teacher}", 1) for teacher in look().teachers]
        elif plain in (*METHODS, *added("method")) or plain.startswith("single:"):
            expanded.append(name)
        else:
            raise UserError(
                "--methods", name, "methods, separated by commas", nearest(name, (*METHODS, *added("method"), "single"))
            )
    return list(dict.fromkeys(expanded))


def split_solver(name: str) -> tuple[str, str]:
    """METHOD and SOLVER of `METHOD+SOLVER`; no solver in `METHOD`, nor in a teacher's name with a plus that no solver follows.

    Raises UserError where a solver must be meant and is none.
    """
    plain, plus, solver = name.rpartition("+")
    if plus and solver in (*SOLVERS, *added("solver")):
        return plain, solver
    if plus and (plain in (*METHODS, *added("method")) or plain == "single"):
        raise UserError("--methods", name, "METHOD+SOLVER", nearest(solver, (*SOLVERS, *added("solver"))))
    return name, ""


def is_finished(run: Run) -> bool:
    """Whether the run has a summary, written under the very config that it would be started with.

    Raises ConfigError when the folder holds a finished run of another config: its figures would pass for this one's.
    """
    if not run.job.is_finished:
        return False
    file = run.job.folder / "config.yaml"
    key = _first_difference(load(file).model_dump(mode="json"), run.config.model_dump(mode="json"))
    if key is not None:
        raise ConfigError(f"{file}: {key}", "another value", "the setting of this comparison", "give another run_dir")
    return True


def folder_name(method: str) -> str:
    """A method's name as a folder's: letters, digits, `.`, `_` and `-` stay; anything else, `:` too, becomes `-`."""
    return re.sub(r"[^\w.-]", "-", method)


def _check(plan: Plan, base: Config) -> None:
    check_world_size(base.data.batch_size, plan.nprocs)
    for option, value in (("--seeds", plan.seeds), ("--jobs", plan.jobs)):
        if value is not None and value < 1:
            raise UserError(option, value, "1 or more", "give a larger number")


def _run(plan: Plan, base: Config, method: str, seed: int) -> Run:
    folder = base.run_dir / folder_name(method) / f"seed-{seed}"
    # JSON strings are YAML strings, whatever characters a teacher's name or a path holds.
    plain, solver = split_solver(method)
    own = [f"method={json.dumps(plain)}", f"seed={seed}", f"run_dir={json.dumps(str(folder))}"]
    own += ["mixer.mode=gradient", f"mixer.solver={solver}"] if solver else []
    overrides = [*plan.overrides, *own]
    words = [plan.config, *overrides]
    if folder.is_dir() and any(folder.iterdir()):
        words.append("--resume")
    start = ["launch", "--nprocs", str(plan.nprocs)] if plan.nprocs > 1 else ["train"]
    command = (sys.executable, "-u", "-m", "compact_ds.cli", *start, *words)
    job = Job(f"{method} seed {seed}", command, folder, folder.with_suffix(".log"), base.max_steps)
    return Run(method, seed, load(plan.config, overrides), job)


def _slots(plan: Plan, num_waiting: int) -> list[dict[str, str]]:
    """One environment per run at a time, so that cores are shared out and no two runs share an accelerator."""
    devices = local_devices(plan.nprocs)
    room = num_cores() if devices is None else _num_accelerators()
    jobs = max(1, min(plan.jobs or room // plan.nprocs, num_waiting))
    threads = str(max(1, num_cores() // (jobs * plan.nprocs)))
    environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
    if devices is None:
        return [environment | {"DS_ACCELERATOR": os.environ.get("DS_ACCELERATOR", "cpu")}] * jobs
    taken = local_devices(plan.nprocs * jobs) or []
    parts = [taken[slot * plan.nprocs : (slot + 1) * plan.nprocs] for slot in range(jobs)]
    return [environment | {"CUDA_VISIBLE_DEVICES": ",".join(part)} for part in parts]


def _num_accelerators() -> int:
    import torch

    return torch.accelerator.device_count()


def _report(runs: Sequence[Run], run_dir: Path, plan: Plan, as_json: bool) -> None:
    results = [_result(run) for run in runs]
    answers = evidence_of_runs.answers_of(results)
    table = comparison.rows(results, evidence_of_runs.intervals(answers), evidence_of_runs.retention_drops(results))
    reference = "uniform" if "uniform" in answers else results[0]["method"]
    found = comparison.findings(table) + evidence_of_runs.sentences(evidence_of_runs.differences(answers, reference))
    pages = {
        "json": json.dumps(results, indent=2) + "\n",
        "md": comparison.markdown(table, found, _command(plan)),
        "tex": comparison.latex(table),
        "csv": comparison.as_csv(table),
    }
    for ending, page in pages.items():
        (run_dir / f"compare.{ending}").write_text(page, encoding="utf-8")
    note = comparison_picture.plot(table, run_dir / "compare.png")
    if as_json:
        print(json.dumps(results))
        return
    console = Console(highlight=False)
    console.print(terminal_table(*comparison.full_table(table)))
    for sentence in found:
        console.print(sentence, markup=False, soft_wrap=True)
    console.print(note, markup=False, soft_wrap=True)
    chosen = next((run for run in runs if run.method == "compact"), runs[0])
    console.print(f"run folder: {chosen.job.folder}", markup=False, soft_wrap=True)


def _result(run: Run) -> dict[str, Any]:
    summary = json.loads((run.job.folder / "summary.json").read_text(encoding="utf-8"))
    # A run knows its method, not the solver that this comparison tells apart by.
    return {**summary, "method": run.method, "seed": run.seed, "run_dir": str(run.job.folder)}


def _command(plan: Plan) -> str:
    words = ["compact-ds", "compare", plan.config]
    words += ["--methods", ",".join(plan.methods)] if plan.methods is not None else []
    return shlex.join([*words, "--seeds", str(plan.seeds), "--nprocs", str(plan.nprocs), *plan.overrides])


def _first_difference(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> str | None:
    """The dotted name of the first setting that differs; None when all are equal."""
    for name in one:
        value, against = one[name], other.get(name)
        if value == against:
            continue
        if isinstance(value, dict) and isinstance(against, dict):
            return _first_difference(value, against, f"{prefix}{name}.") or prefix + name
        return prefix + name
    return None
