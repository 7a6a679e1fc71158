"""Several small processes in place of runs: how many at a time, what counts as finished, signals, and the display."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from compact_ds.launcher.jobs import Job, Stopped, run_jobs

ROOT = Path(__file__).parents[1]

RUN = """
import os, signal, sys, time
from pathlib import Path
folder, behaviour = Path(sys.argv[1]), sys.argv[2]
folder.mkdir(parents=True, exist_ok=True)
started = time.time()
(folder / "slot").write_text(os.environ.get("SLOT", ""))
if behaviour == "waits":
    signal.signal(signal.SIGTERM, lambda *_: ((folder / "saved").touch(), sys.exit(0)))
    (folder / "ready").touch()
    time.sleep(60)
print("seen", behaviour)
time.sleep(0.3)
(folder / "times").write_text(f"{started} {time.time()}")
if behaviour != "fails":
    (folder / "summary.json").write_text("{}")
sys.exit(0 if behaviour == "works" else 250)
"""


def _job(folder: Path, name: str, behaviour: str) -> Job:
    command = (sys.executable, "-c", textwrap.dedent(RUN), str(folder / name), behaviour)
    return Job(name, command, folder / name, folder / f"{name}.log", max_steps=10)


def _console() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_as_many_at_a_time_as_slots_each_with_its_environment(tmp_path: Path) -> None:
    jobs = [_job(tmp_path, f"run-{number}", "works") for number in range(4)]
    assert run_jobs(jobs, [{"SLOT": "a"}, {"SLOT": "b"}], _console()) == []
    spans = [tuple(map(float, (job.folder / "times").read_text().split())) for job in jobs]
    busy = [sum(start <= moment < end for start, end in spans) for moment, _ in spans]
    assert max(busy) <= 2
    assert {(job.folder / "slot").read_text() for job in jobs} == {"a", "b"}


def test_the_summary_decides_not_the_exit_code(tmp_path: Path) -> None:
    jobs = [_job(tmp_path, "whole", "aborts on its way out"), _job(tmp_path, "broken", "fails")]
    console = _console()
    assert run_jobs(jobs, [{}, {}], console) == [jobs[1]]
    assert jobs[1].tail() == "seen fails"
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "whole: finished after" in shown
    assert "broken: ended with exit code 250 after" in shown


def test_a_signal_lets_runs_save_and_starts_no_more(tmp_path: Path) -> None:
    jobs = [_job(tmp_path, name, "waits") for name in ("one", "two")]
    # A shell that starts the tests in the background lets them inherit an ignored SIGINT.
    before = signal.getsignal(signal.SIGINT)

    def interrupt() -> None:
        while not jobs[0].folder.joinpath("ready").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(Stopped) as caught:
        run_jobs(jobs, [{}], _console())
    assert caught.value.number == signal.SIGINT
    assert (jobs[0].folder / "saved").exists()
    assert not jobs[1].folder.exists()
    assert signal.getsignal(signal.SIGINT) == before


def test_the_step_is_that_of_the_last_whole_line(tmp_path: Path) -> None:
    job = _job(tmp_path, "run", "works")
    assert job.step() == 0
    job.folder.mkdir()
    metrics = job.folder / "metrics.jsonl"
    metrics.write_text("")
    assert job.step() == 0
    metrics.write_text("".join(f'{{"step": {step}, "pad": "{"x" * 500}"}}\n' for step in range(399)) + '{"step": 39')
    assert job.step() == 399


def test_a_watched_display_has_a_line_per_running_job(tmp_path: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        from rich.console import Console
        from compact_ds.launcher.jobs import Job, run_jobs
        folder = Path(sys.argv[1])
        folder.mkdir()
        (folder / "metrics.jsonl").write_text('{"step": 4}\\n')
        command = (sys.executable, "-c", "import time; time.sleep(0.6)")
        job = Job("compact seed 0", command, folder, folder / "log", 9)
        run_jobs([job], [{}], Console(force_terminal=True, width=100))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True
    )
    assert "compact seed 0" in result.stdout
    assert "5/9" in result.stdout
