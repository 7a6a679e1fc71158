"""`data generate` as a job: what it writes, asks anew and refuses, and that a kill at any moment loses and doubles nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from generate_job import FAULTS, Job, journal, rows, texts, words, write_job
from misbehaving_server import MisbehavingServer, share_of, text_of

from compact_ds import cli
from compact_ds.data.generate import Options, plan, run
from compact_ds.data.generate_journal import Key
from compact_ds.data.readers import read
from compact_ds.errors import UserError
from compact_ds.sections import DataConfig

ROOT = Path(__file__).parents[1]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Writes a job into the test's folder."""
    return partial(write_job, tmp_path)


def test_every_teacher_and_sample_stands_in_the_output_in_order(job: Job) -> None:
    other = {"model": "n", "system": "Be brief", "temperature": 0.5, "max_tokens_field": "max_completion_tokens"}
    other |= {"extra_body": {"top_k": 5}}
    with MisbehavingServer(models=("m", "n")) as server:
        options = job(server, {"samples": 3, "seed": 7}, other)
        totals = run(options)
    found = rows(options.output)
    assert [row["id"] for row in found] == ["q0", "q1", "q2", "q3"]
    for row in found:
        assert [(one["teacher"], one["sample"]) for one in row["rationales"]] == [
            ("t0", 0),
            ("t0", 1),
            ("t0", 2),
            ("t1", 0),
        ]
    # The server derives a text from model, prompt and seed: each is the answer to its own question.
    own = {asked.prompt: {text_of(a) for a in server.requests if a.prompt == asked.prompt} for asked in server.requests}
    assert all({one["text"] for one in row["rationales"]} == own[row["question"]] for row in found)
    assert set(server.answers.values()) == {1}
    assert [len(example.rationales) for example in read(str(options.output), DataConfig(train="x"), 0)] == [4] * 4
    bodies = {body["model"]: body for body in server.bodies}
    assert bodies["n"]["messages"][0] == {"role": "system", "content": "Be brief"}
    assert {name: bodies["n"].get(name) for name in ("temperature", "max_completion_tokens", "top_k")} == {
        "temperature": 0.5, "max_completion_tokens": 1024, "top_k": 5,
    }  # fmt: skip
    assert "temperature" not in bodies["m"]  # the endpoint's own
    assert totals["teachers"]["t0"] | {"seconds": 0} == {
        "rationales": 12, "calls": 12, "kept": 0, "failed": 0, "retries": 0, "cut_off": 0, "input_tokens": 120,
        "output_tokens": 240, "price": 0.0, "seconds": 0,
    }  # fmt: skip


def test_exit_code_1_only_above_the_share(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    with MisbehavingServer(lambda asked, _: "400" if "1 +" in asked.prompt else None) as server:
        options = job(server)
        assert cli.main(words(options, "--json")) == 1
        seen = capsys.readouterr()
        assert json.loads(seen.out)["failed"] == 1
        assert "1 failed, listed in" in seen.err
        assert len(rows(options.output)) == 4
        assert cli.main(words(options, "--max-failed", "0.25")) == 0
        assert "t0" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--max-failed: found 2\.0; expected a share"):
        run(Options(options.data, options.teachers, options.output, max_failed=2.0))


def test_settings_that_shape_a_text_ask_anew_and_others_do_not(job: Job) -> None:
    with MisbehavingServer() as server:
        assert run(job(server))["teachers"]["t0"]["calls"] == 4
        cheap = {"concurrency": 2, "price_per_million_input_tokens": 1000, "timeout_seconds": 9}
        totals = run(options := job(server, cheap))
        assert (totals["teachers"]["t0"]["calls"], totals["price"]) == (0, pytest.approx(4 * 10 * 1000 / 1e6))
        assert run(job(server, {"samples": 2}))["teachers"]["t0"]["calls"] == 4
        assert run(job(server, {"max_tokens": 99}))["teachers"]["t0"]["calls"] == 4
        assert texts(options.output).total() == 4
        # A question of the same id with other words is another question.
        changed = Path(options.data.train).read_text().replace("How much is 2", "What makes 2")
        Path(options.data.train).write_text(changed)
        assert run(options)["teachers"]["t0"]["calls"] == 1


def test_a_dry_run_asks_nobody_and_writes_nothing(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    price = {
        "price_per_million_input_tokens": 100.0,
        "price_per_million_output_tokens": 1000.0,
        "api_key_env": "NOT_SET",
    }
    with MisbehavingServer() as server:
        options = job(server, price | {"samples": 2, "max_tokens": 50})
        before = sorted(file.name for file in options.output.parent.iterdir())
        assert cli.main(words(options, "--dry-run", "--json")) == 0
        figures = json.loads(capsys.readouterr().out)
        # 8 prompts of 20 characters at 4 a token, and 50 tokens each at most.
        assert figures["calls"] == 8
        assert figures["price"] == pytest.approx((8 * 20 / 4 * 100 + 8 * 50 * 1000) / 1e6)
        assert figures["teachers"]["t0"]["basis"] == "max_tokens"
        assert sorted(file.name for file in options.output.parent.iterdir()) == before
        assert not server.requests
        run(job(server, {"samples": 1, "max_tokens": 50}))
        figures = plan(job(server, price | {"samples": 2, "max_tokens": 50}))
    assert (figures["calls"], figures["teachers"]["t0"]["kept"]) == (4, 4)
    assert figures["price"] == pytest.approx((4 * 20 / 4 * 100 + 4 * 20 * 1000) / 1e6)  # the server counts 20 each


def test_a_file_of_someone_else_is_not_overwritten(job: Job) -> None:
    options = job(None, {"base_url": "http://localhost:1"})
    options.output.write_text("precious\n")
    with pytest.raises(UserError, match=r"--output: found .* which has no journal"):
        run(options)
    assert options.output.read_text() == "precious\n"


def start(options: Options) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "compact_ds.cli", *words(options)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def lines(options: Options) -> int:
    file = journal(options)
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_killed_at_three_random_moments_and_resumed_it_equals_an_uninterrupted_run(job: Job, tmp_path: Path) -> None:
    draw = random.Random()
    teachers = ({"samples": 2, "concurrency": 3}, {"concurrency": 3, "model": "n"})
    faults = share_of(0.05, ("500", "dropped", "truncated"))
    with MisbehavingServer(faults, models=("m", "n"), seconds=0.02) as server:
        uninterrupted = job(server, *teachers, questions=60)
        run(uninterrupted)
        expected = uninterrupted.output.rename(tmp_path / "expected.jsonl")
        journal(uninterrupted).unlink()
        server.answers.clear()
        options = job(server, *teachers, questions=60)
        for _ in range(3):
            process, target = start(options), lines(options) + draw.randrange(1, 48)
            deadline = time.monotonic() + 60
            while lines(options) < target:
                assert process.poll() is None and time.monotonic() < deadline, (target, lines(options))
                time.sleep(0.002)
            time.sleep(draw.random() * 0.02)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            assert not options.output.exists()
        finished = lines(options)
        totals = run(options)
    assert options.output.read_bytes() == expected.read_bytes()
    assert set(texts(options.output).values()) == {1}
    assert totals["rationales"] == 180
    assert sum(row["kept"] for row in totals["teachers"].values()) == finished
    keys = Counter(tuple(row[part] for part in Key._fields) for row in rows(journal(options)))
    assert (len(keys), set(keys.values())) == (180, {1})
    # Only what was in flight at a kill, at most 6 calls, was answered twice.
    assert server.answers.total() - 180 <= 3 * 6


@pytest.mark.slow
def test_two_thousand_questions_and_three_teachers_with_faults(job: Job) -> None:
    faults = share_of(0.05, FAULTS)
    with MisbehavingServer(faults, models=("a", "b", "c"), slow_seconds=2.5) as server:
        teachers = [{"name": name, "model": name, "concurrency": 16, "timeout_seconds": 2} for name in "abc"]
        options = job(server, *teachers, questions=2000)
        began = time.monotonic()
        totals = run(options)
        seconds = time.monotonic() - began
    found = texts(options.output)
    print(f"{seconds:.1f} s, {server.requests.total()} requests, {totals}")
    assert (len(found), set(found.values()), totals["failed"]) == (6000, {1}, 0)
    assert {text for *_, text in found} == {text_of(asked) for asked in server.requests}
    assert len(rows(journal(options))) == 6000
