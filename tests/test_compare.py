"""The comparison with a stub in place of the runs: which are started, what is made of their figures."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from compact_ds import compare, config
from compact_ds.compare import Plan, Survey
from compact_ds.errors import ConfigError, UserError
from compact_ds.evaluation import comparison
from compact_ds.launcher.jobs import Job, Stopped

ACCURACY = {"compact": (0.95, 0.99), "uniform": (0.20, 0.30), "consensus": (0.05, 0.07), "single:ada": (0.10, 0.12)}


@dataclass
class Runs:
    """Stands in for `run_jobs`: writes what a finished run leaves, except for jobs named in `failing`."""

    started: list[Job] = field(default_factory=list)
    slots: list[Mapping[str, str]] = field(default_factory=list)
    failing: set[str] = field(default_factory=set)
    stop: int = 0

    def __call__(self, jobs: Sequence[Job], slots: Sequence[Mapping[str, str]], console: Console) -> list[Job]:
        self.started, self.slots = list(jobs), list(slots)
        if self.stop:
            raise Stopped(self.stop)
        for job in jobs:
            job.folder.mkdir(parents=True, exist_ok=True)
            self._write(job)
        return [job for job in jobs if job.name in self.failing]

    def _write(self, job: Job) -> None:
        settings = config.load("arithmetic", [word for word in job.command if "=" in word])
        config.save(settings, job.folder / "config.yaml")
        if job.name in self.failing:
            job.log.write_text("first\ncompact-ds: error: data.train: found [x]\n")
            return
        accuracy = ACCURACY.get(settings.method, (0.5, 0.5))[settings.seed % 2]
        summary = {
            "method": settings.method,
            "steps": 3,
            "accuracy": accuracy,
            "answer_loss_after_steps": 1.5,
            "right_share": 0.75,
            "train_seconds": 2.0,
        }
        (job.folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    stub = Runs()
    monkeypatch.setattr(compare, "run_jobs", stub)
    return stub


def _plan(folder: Path, methods: str | None, *overrides: str, **settings: Any) -> Plan:
    values = {"seeds": 2, "nprocs": 1, "jobs": None} | settings
    return Plan("arithmetic", [f"run_dir={folder}", *overrides], methods.split(",") if methods else None, **values)


def test_one_run_per_method_and_seed_in_its_own_folder(tmp_path: Path, runs: Runs) -> None:
    assert compare.run(_plan(tmp_path, "compact,single:a b/c", "seed=4", "max_steps=3")) == 0
    folders = [job.folder.relative_to(tmp_path).as_posix() for job in runs.started]
    assert folders == ["compact/seed-4", "compact/seed-5", "single-a-b-c/seed-4", "single-a-b-c/seed-5"]
    command = runs.started[2].command
    assert command[3:6] == ("compact_ds.cli", "train", "arithmetic")
    ran = config.load("arithmetic", [word for word in command if "=" in word])
    assert (ran.method, ran.seed, ran.run_dir, ran.max_steps) == (
        "single:a b/c",
        4,
        tmp_path / "single-a-b-c/seed-4",
        3,
    )
    assert runs.started[2].max_steps == 3
    # The log may not lie inside: a run refuses a folder that is not empty.
    assert runs.started[2].log == tmp_path / "single-a-b-c" / "seed-4.log"


def test_several_ranks_go_through_launch(tmp_path: Path, runs: Runs) -> None:
    compare.run(_plan(tmp_path, "compact", nprocs=2))
    assert runs.started[0].command[3:8] == ("compact_ds.cli", "launch", "--nprocs", "2", "arithmetic")


def test_cores_are_shared_out(tmp_path: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "num_cores", lambda: 16)
    monkeypatch.setattr(compare, "local_devices", lambda nprocs: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    compare.run(_plan(tmp_path / "a", "compact,uniform,first", nprocs=4))
    assert [slot["OMP_NUM_THREADS"] for slot in runs.slots] == ["1"] * 4
    compare.run(_plan(tmp_path / "b", "compact,uniform", nprocs=4, jobs=2))
    assert [slot["OMP_NUM_THREADS"] for slot in runs.slots] == ["2"] * 2
    compare.run(_plan(tmp_path / "c", "compact", seeds=1, nprocs=2))
    assert [slot["OMP_NUM_THREADS"] for slot in runs.slots] == ["8"]


def test_no_two_runs_share_an_accelerator(tmp_path: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "local_devices", lambda nprocs: [str(device) for device in range(nprocs)])
    monkeypatch.setattr(compare, "_num_accelerators", lambda: 5)
    compare.run(_plan(tmp_path, "compact,uniform,first", nprocs=2))
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in runs.slots] == ["0,1", "2,3"]


def test_single_stands_for_every_teacher_of_the_data(tmp_path: Path, runs: Runs) -> None:
    compare.run(_plan(tmp_path, "uniform,single", seeds=1))
    assert [job.name for job in runs.started] == [
        "uniform seed 0",
        "single:ada seed 0",
        "single:ben seed 0",
        "single:cleo seed 0",
    ]


def test_a_method_with_a_solver_runs_in_gradient_mode(tmp_path: Path, runs: Runs) -> None:
    assert compare.run(_plan(tmp_path, "compact,compact+pcgrad", seeds=1)) == 0
    plain, mixed = (config.load(job.folder / "config.yaml") for job in runs.started)
    assert (plain.method, plain.mixer.mode) == ("compact", "loss")
    assert (mixed.method, mixed.mixer.mode, mixed.mixer.solver) == ("compact", "gradient", "pcgrad")
    assert compare.expand(["single+mgda"], lambda: Survey(("ada", "ben"), True)) == [
        "single:ada+mgda",
        "single:ben+mgda",
    ]
    rows = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))
    assert [row["method"] for row in rows] == ["compact", "compact+pcgrad"]
    odd = Survey(("gpt+tools", "ada"), True)
    assert compare.expand(["single"], lambda: odd) == ["single:gpt+tools", "single:ada"]
    assert compare.split_solver("single:gpt+tools") == ("single:gpt+tools", "")
    assert compare.split_solver("single:gpt+tools+mgda") == ("single:gpt+tools", "mgda")
    with pytest.raises(UserError, match="did you mean 'pcgrad'"):
        compare.expand(["compact+pcgrd"], lambda: Survey((), False))


def test_all_methods_are_those_that_the_data_can_serve() -> None:
    served = [
        "compact",
        "consensus",
        "adaptability",
        "difficulty",
        "uniform",
        "best_of",
        "first",
        "single:a",
        "single:b",
    ]
    assert compare.expand(None, lambda: Survey(("a", "b"), True)) == served
    assert compare.expand(None, lambda: Survey(("a", "b"), False)) == [name for name in served if name != "best_of"]
    assert compare.expand(["single:b", " single", "single:b"], lambda: Survey(("a", "b"), True)) == [
        "single:b",
        "single:a",
    ]
    assert compare.expand(["uniform"], lambda: pytest.fail("the data was read")) == ["uniform"]
    with pytest.raises(UserError, match=r"--methods: found unifrom; .* did you mean 'uniform'"):
        compare.expand(["unifrom"], lambda: Survey((), False))


def test_finished_runs_are_kept_and_unfinished_ones_resumed(tmp_path: Path, runs: Runs) -> None:
    runs.failing = {"uniform seed 1"}
    assert compare.run(_plan(tmp_path, "compact,uniform")) == compare.FAILED
    runs.failing = set()
    assert compare.run(_plan(tmp_path, "compact,uniform")) == 0
    assert [(job.name, job.command[-1]) for job in runs.started] == [("uniform seed 1", "--resume")]
    assert compare.run(_plan(tmp_path, "compact,uniform")) == 0
    assert runs.started == []


def test_a_finished_run_of_another_config_is_not_passed_off_as_this_one(tmp_path: Path, runs: Runs) -> None:
    assert compare.run(_plan(tmp_path, "compact", "optimizer.lr=0.1")) == 0
    with pytest.raises(ConfigError, match=r"compact/seed-0/config\.yaml: optimizer\.lr: .* give another run_dir"):
        compare.run(_plan(tmp_path, "compact", "optimizer.lr=0.2"))


def test_a_failed_run_shows_the_end_of_its_log(tmp_path: Path, runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    runs.failing = {"compact seed 0"}
    assert compare.run(_plan(tmp_path, "compact")) == 1
    captured = capsys.readouterr()
    assert "compact-ds: error: data.train: found [x]" in captured.err
    assert captured.out == ""
    assert not (tmp_path / "compare.json").exists()


def test_a_signal_ends_it_with_its_own_exit_code(
    tmp_path: Path, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.stop = 15
    assert compare.run(_plan(tmp_path, "compact")) == 143
    assert "the same command goes on from here" in capsys.readouterr().err


def test_json_and_files_hold_every_run(tmp_path: Path, runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.run(_plan(tmp_path, "compact,uniform"), as_json=True) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [(r["method"], r["seed"], r["accuracy"]) for r in printed] == [
        ("compact", 0, 0.95),
        ("compact", 1, 0.99),
        ("uniform", 0, 0.20),
        ("uniform", 1, 0.30),
    ]
    assert printed == json.loads((tmp_path / "compare.json").read_text())
    page = (tmp_path / "compare.md").read_text()
    # The spread is the sample standard deviation: 0.04 / sqrt(2) and 0.10 / sqrt(2).
    assert "| compact | 2 | 0.970 ± 0.028 | 1.500 | 0.750 | 2 |" in page
    assert "| uniform | 2 | 0.250 ± 0.071 | 1.500 | 0.750 | 2 |" in page
    assert f"`compact-ds compare arithmetic --methods compact,uniform --seeds 2 --nprocs 1 run_dir={tmp_path}`" in page


def test_the_table_ends_with_the_run_folder(tmp_path: Path, runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.run(_plan(tmp_path, "uniform,compact,consensus,single:ada")) == 0
    shown = capsys.readouterr().out.splitlines()
    assert any("0.970 ± 0.028" in line for line in shown)
    assert shown[-1] == f"run folder: {tmp_path / 'compact' / 'seed-0'}"
    assert any(
        line.startswith("consensus alone hurts: accuracy 0.060 for consensus, 0.250 for uniform") for line in shown
    )
    assert any(line.startswith("compact is above single:ada: accuracy 0.970") for line in shown)


def _rows(**accuracies: Sequence[float]) -> list[comparison.Row]:
    results = [
        {"method": method, "seed": seed, "accuracy": accuracy}
        for method, values in accuracies.items()
        for seed, accuracy in enumerate(values)
    ]
    return comparison.rows(results)


def test_a_metric_that_hurts_is_named() -> None:
    found = comparison.findings(_rows(compact=(0.5, 0.6), adaptability=(0.9, 0.9), uniform=(0.7, 0.7)))
    assert found == [
        "another metric hurts adaptability: accuracy 0.550 for compact, 0.900 for adaptability (spread 0.071)",
        "compact is below uniform: accuracy 0.550 for compact, 0.700 for uniform (spread 0.071)",
    ]


def test_a_difference_within_the_spread_is_no_finding() -> None:
    # 0.60 against 0.65, and sqrt(0.0707^2 + 0.0707^2) = 0.1.
    found = comparison.findings(_rows(compact=(0.55, 0.65), uniform=(0.60, 0.70), consensus=(0.55, 0.65)))
    assert found == [
        "compact is level with uniform: accuracy 0.600 for compact, 0.650 for uniform (spread 0.100)",
        "no metric hurts",
    ]


def test_one_seed_has_no_spread_and_says_so() -> None:
    found = comparison.findings(_rows(compact=(0.9,), uniform=(0.2,)))
    assert found == ["compact is above uniform: accuracy 0.900 for compact, 0.200 for uniform (one seed, no spread)"]


def test_runs_without_held_out_questions_make_a_table_without_findings() -> None:
    table = comparison.rows([{"method": "compact", "seed": 0, "accuracy": None, "train_seconds": 3.2}])
    assert table[0].cells() == ("compact", "1", "-", "-", "-", "3")
    assert comparison.findings(table) == []


def test_the_command_of_a_run_can_be_started_by_hand(tmp_path: Path, runs: Runs) -> None:
    compare.run(_plan(tmp_path, "compact", seeds=1))
    command = [*runs.started[0].command, "max_stps=1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, "did you mean 'max_steps'" in result.stderr) == (2, True)


def test_names_survive_yaml(tmp_path: Path, runs: Runs) -> None:
    compare.run(_plan(tmp_path, "single:yes: #1", seeds=1))
    saved = yaml.safe_load((runs.started[0].folder / "config.yaml").read_text())
    assert saved["method"] == "single:yes: #1"
