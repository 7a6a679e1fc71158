"""What a teachers' file may not say, each refusal in a line that names the key and repeats no secret."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from generate_job import SECRET, Job, write_job
from misbehaving_server import MisbehavingServer

from compact_ds.data.generate import plan, run
from compact_ds.errors import UserError


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Writes a job into the test's folder."""
    return partial(write_job, tmp_path)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"modl": "x"}, "teachers.0.modl: found an unknown key; expected a known one; did you mean 'model'?"),
        ({"api_key": SECRET}, "teachers.0.api_key: found an unknown key; .* did you mean 'api_key_env'?"),
        ({"api_key_env": SECRET}, "teachers.0.api_key_env: found no such name; expected the name of an environment"),
        ({"api_key_env": "NOT_SET"}, "api_key_env: found no environment variable NOT_SET; .* export NOT_SET="),
        ({"base_url": f"http://me:{SECRET}@host/v1"}, "teachers.0.base_url: found a user, password or query"),
        ({"base_url": SECRET}, "teachers.0.base_url: found no such address; expected http://"),
        (
            {"base_url": None, "model": "nowhere"},
            "teachers.0.model: found nowhere; expected a folder, since there is no",
        ),
        ({"prompt": "Think!"}, "teachers.0.prompt: found Think!; expected {question} in it"),
        ({"temperature": -1}, "teachers.0.temperature: found -1; expected input should be greater than or equal to 0"),
        ({"samples": 2, "temperature": 0}, "teachers.0.samples: found 2; expected 1 at temperature 0"),
        ({"extra_body": {"day": float("nan")}}, "teachers.0.extra_body: found .* expected what JSON"),
        ({"name": "a\nb"}, "teachers.0.name: found 'a.nb'; expected a printable name"),
    ],
)
def test_settings_that_cannot_be_used(
    job: Job, teacher: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    with MisbehavingServer() as server:
        options = job(server, teacher)
        with pytest.raises(UserError, match=message) as refused:
            run(options)
        assert not server.requests
    assert SECRET not in str(refused.value)
    assert not options.output.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("teachers: []", "teachers: found list; expected list should have at least 1 item"),
        ("teacher: []", "teacher: found an unknown key; expected a known one; did you mean 'teachers'"),
        ("teachers: [\n", "teachers.yaml:2: found"),
        ("- a", "found list; expected the key `teachers`; write it"),
        ("teachers: [{model: m}]", "teachers.0.name: found nothing; expected a value"),
        (
            "teachers: [&a {name: x, model: m, base_url: 'http://h'}, *a]",
            "teachers.1.name: found x; expected a name of",
        ),
    ],
)
def test_teachers_files_that_cannot_be_used(job: Job, content: str, message: str) -> None:
    options = job(None, {"base_url": "http://localhost"})
    options.teachers.write_text(content)
    with pytest.raises(UserError, match=message):
        plan(options)
