"""Calls against a real HTTP server that misbehaves: what is made again, how fast, and that no key is told."""

from __future__ import annotations

import email.utils
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from generate_job import FAULTS, SECRET, Job, failed, rows, texts, words, write_job
from misbehaving_server import RETRY_AFTER, Asked, MisbehavingServer

from compact_ds import cli
from compact_ds.data.generate import run
from compact_ds.data.generate_calls import _retry_after
from compact_ds.errors import UserError


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Writes a job into the test's folder."""
    return partial(write_job, tmp_path)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_request_that_fails_once_is_made_again(job: Job, fault: str) -> None:
    def first(asked: Asked, time_: int) -> str | None:
        return fault if time_ == 1 and asked.prompt.startswith("How much is 0") else None

    with MisbehavingServer(first, slow_seconds=1.5) as server:
        options = job(server, {"timeout_seconds": 1}, questions=3)
        totals = run(options)
    assert (totals["rationales"], totals["failed"], totals["teachers"]["t0"]["retries"]) == (3, 0, 1)
    assert sum(texts(options.output).values()) == 3
    assert sorted(server.requests.values()) == [1, 1, 2]
    if fault == "429":
        before, after = next(times for times in server.times.values() if len(times) == 2)
        assert after - before >= RETRY_AFTER


def test_an_endpoint_that_asks_for_patience_is_given_it_by_every_call(job: Job) -> None:
    with MisbehavingServer(lambda asked, time_: "429" if sum(server.requests.values()) == 1 else None) as server:
        run(job(server, {"concurrency": 1}, questions=3))
    times = sorted(when for each in server.times.values() for when in each)
    assert times[1] - times[0] >= RETRY_AFTER
    assert len(times) == 4


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "soon"}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, 0.0),
    ],
)
def test_retry_after_as_seconds(headers: dict[str, str], seconds: float) -> None:
    assert _retry_after(headers) == seconds


def test_retry_after_as_a_date() -> None:
    # A date has whole seconds, and a busy machine takes some between the two calls.
    date = email.utils.formatdate(time.time() + 1000, usegmt=True)
    assert _retry_after({"retry-after": date}) == pytest.approx(1000, abs=60)


@pytest.mark.parametrize(
    ("fault", "reason", "attempts"),
    [
        ("500", "fault 500", 3),
        ("truncated", "a reply that is no whole JSON", 3),
        ("nonsense", "a reply without a text", 3),
        ("surrogate", "half a surrogate pair in the text", 3),
        ("empty", "an empty text", 3),
        ("filter", "the endpoint's content filter", 1),
        ("400", "fault 400", 1),
    ],
)
def test_what_stays_broken_is_listed_and_asked_for_again(job: Job, fault: str, reason: str, attempts: int) -> None:
    broken = True
    with MisbehavingServer(lambda asked, _: fault if broken and "1 +" in asked.prompt else None) as server:
        options = job(server, {"max_retries": 2})
        totals = run(options)
        assert (totals["rationales"], totals["failed"], totals["failed_share"]) == (3, 1, 0.25)
        (row,) = failed(options)
        assert (row["id"], row["teacher"], row["sample"], row["attempts"]) == ("q1", "t0", 0, attempts)
        assert reason in row["reason"]
        assert [len(row["rationales"]) for row in rows(options.output)] == [1, 0, 1, 1]
        broken, so_far = False, server.requests.total()
        totals = run(options)
        assert server.requests.total() == so_far + 1
    assert (totals["rationales"], totals["failed"], totals["teachers"]["t0"]["kept"]) == (4, 0, 3)
    assert not Path(f"{options.output}.failed.jsonl").exists()
    assert [len(row["rationales"]) for row in rows(options.output)] == [1, 1, 1, 1]


def test_a_wrong_model_name_stops_its_teacher_alone(job: Job) -> None:
    with MisbehavingServer() as server:
        options = job(server, {"model": "gtp", "concurrency": 2}, {}, questions=30)
        with pytest.raises(
            UserError, match=r"teachers\.yaml: teachers\.0\.model: found gtp .*; expected a model that http"
        ):
            run(options)
        assert sum(count for asked, count in server.requests.items() if asked.model == "gtp") <= 2
    # The other teacher's texts are there, and the missing ones are accounted for.
    assert texts(options.output).total() == 30
    assert {name for _, name, _, _ in texts(options.output)} == {"t1"}
    assert Counter(row["teacher"] for row in failed(options)) == {"t0": 30}


def test_a_wrong_key_stops_at_once_and_is_not_repeated_in_the_message(
    job: Job, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEST_KEY", SECRET)
    with MisbehavingServer(key="another") as server:
        options = job(server, {"api_key_env": "TEST_KEY", "concurrency": 3}, questions=30)
        assert cli.main(words(options)) == 2
        assert server.requests.total() <= 3
    shown = capfd.readouterr().err
    assert "teachers.0.api_key_env: found the key in TEST_KEY (" in shown
    assert "Incorrect API key provided: Bearer [key]" in shown
    assert SECRET[:12] not in shown


def test_a_dead_endpoint_is_given_up_and_everything_accounted_for(job: Job) -> None:
    with MisbehavingServer(lambda asked, _: "500") as server:
        options = job(server, {"max_retries": 0}, questions=60)
        totals = run(options)
        assert 25 <= server.requests.total() <= 25 + 8  # calls in flight at a concurrency of 8
    assert (totals["rationales"], totals["failed"], len(failed(options))) == (0, 60, 60)
    assert "not asked: 25 calls in a row failed" in failed(options)[-1]["reason"]


def test_no_more_calls_at_a_time_than_allowed(job: Job) -> None:
    with MisbehavingServer(models=("m", "n"), seconds=0.03) as server:
        run(job(server, {"concurrency": 3}, {"model": "n", "concurrency": 5}, questions=20))
    assert server.most_at_once == {"m": 3, "n": 5}


def test_no_more_requests_a_minute_than_allowed(job: Job) -> None:
    # Repeated requests count: 9 of them at 10 a second take 0.8 s.
    with MisbehavingServer(lambda asked, time_: "503" if time_ == 1 and "0 +" in asked.prompt else None) as server:
        run(job(server, {"requests_per_minute": 600}, questions=8))
    times = sorted(when for each in server.times.values() for when in each)
    assert len(times) == 9
    assert times[-1] - times[0] >= 0.8 - 0.15  # the first may arrive late
    assert all(later - first >= 0.4 - 0.15 for first, later in zip(times, times[4:], strict=False))


def test_a_key_is_nowhere_but_in_the_request(
    job: Job, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("TEST_KEY", SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-meant-for-this-address")
    faults = {"0": "400", "1": "key", "2": "500"}
    with MisbehavingServer(lambda asked, _: faults.get(asked.prompt[12]), key=SECRET) as server:
        options = job(server, {"api_key_env": "TEST_KEY", "max_retries": 1})
        assert cli.main(words(options)) == 1
    refused, told, down = (row["reason"] for row in failed(options))
    assert "fault 400, asked with [key]" in refused
    assert told == "a text that repeats the endpoint's key"
    assert "fault 500, asked with [key]" in down
    seen = capfd.readouterr()
    places = [seen.out, seen.err, caplog.text]
    places += [file.read_text() for file in options.output.parent.iterdir() if file.is_file()]
    assert not any(SECRET[:12] in place or "sk-not-meant" in place for place in places)


def test_a_teacher_without_a_key_is_not_sent_the_environments(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with MisbehavingServer(key="none") as server:  # any other is refused
        assert run(job(server))["failed"] == 0


def test_without_the_client_the_install_command_is_named(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"no package openai; .* pip install 'compact-ds\[generate\]'"):
        run(job(None, {"base_url": "http://localhost:1"}))
