"""The teachers' file of `data generate`: every setting of a teacher, and which calls a question makes of it.

Owns names, types and defaults, what a file may not say, and which settings shape a text. Keys are never in it: it names the
environment variables that hold them, and no message repeats a value that could be one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from compact_ds.config import plain_data
from compact_ds.data.generate_journal import Key
from compact_ds.errors import ConfigError, UserError, nearest
from compact_ds.sections import Section

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_SHAPING = ("model", "prompt", "system", "temperature", "top_p", "max_tokens", "seed", "extra_body")


class TeacherConfig(Section):
    """One teacher: an endpoint that speaks OpenAI's chat completions, or a folder that transformers loads."""

    name: str
    """Name of the teacher in the output."""
    model: str
    """The model's name at the endpoint; without `base_url` the folder of a causal LM, run on this machine."""
    base_url: str | None = None
    """Address of the endpoint, for example https://api.openai.com/v1. Empty: `model` is a folder."""
    api_key_env: str | None = None
    """Environment variable that holds the endpoint's key. Empty: the endpoint takes none."""
    prompt: str = "{question}\n\nThink step by step, a step a line. End with the line: The answer is ANSWER"
    """What is asked; `{question}` stands for the question, other braces for themselves."""
    system: str | None = None
    """System message."""
    temperature: float | None = Field(None, ge=0)
    """Empty: the endpoint's own, 1 for a folder. 0 is greedy."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Empty: the endpoint's own, 1 for a folder."""
    max_tokens: int = Field(1024, ge=1)
    """Longest text."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls that limit."""
    samples: int = Field(1, ge=1)
    """Texts a question. More of them later keep those that are there."""
    seed: int | None = None
    """Endpoints are sent a number made of it, the question and the sample; empty sends none. A folder takes empty as 0."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the request, for what only some endpoints know, such as `{top_k: 20}`."""
    concurrency: int = Field(8, ge=1)
    """Most calls at a time."""
    requests_per_minute: float | None = Field(None, gt=0)
    """Most requests a minute, evenly spaced, repeated ones included. Empty: no limit."""
    timeout_seconds: float = Field(120.0, gt=0)
    """After so long without a whole answer a request is made anew."""
    max_retries: int = Field(6, ge=0)
    """Further requests for a call that the endpoint did not serve."""
    retry_seconds: float = Field(0.5, gt=0)
    """Wait before the first of them; it doubles with each, up to a minute. An endpoint's own `retry-after` is honoured."""
    price_per_million_input_tokens: float = Field(0.0, ge=0)
    """For the totals, in any currency."""
    price_per_million_output_tokens: float = Field(0.0, ge=0)
    """For the totals, in the same currency."""
    batch_size: int = Field(8, ge=1)
    """Texts that a folder writes at a time."""


class TeachersConfig(Section):
    """The whole file."""

    teachers: list[TeacherConfig] = Field(min_length=1)
    """In this order their rationales stand in the output."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and the gold answer, which no teacher sees."""

    id: str
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Call:
    """One text to be written: the prompt in full, and the seed of its sampling (None: none is set)."""

    key: Key
    prompt: str
    seed: int | None


@dataclass(frozen=True, slots=True)
class Teacher:
    """A teacher's settings, and where they stand, for messages (`teachers.yaml: teachers.0`)."""

    settings: TeacherConfig
    where: str

    @property
    def name(self) -> str:
        """Its name in the output."""
        return self.settings.name

    @property
    def is_local(self) -> bool:
        """Whether it is a folder that runs on this machine."""
        return self.settings.base_url is None

    def calls(self, questions: Iterable[Question]) -> Iterator[Call]:
        """The calls that the questions make of this teacher, sample by sample."""
        for question in questions:
            for sample in range(self.settings.samples):
                yield self.call(question, sample)

    def call(self, question: Question, sample: int) -> Call:
        """One of them. Its key changes with the question's wording and every setting that shapes the text.

        Address, limits and prices do not: an endpoint may move while a file is made.
        """
        settings = self.settings
        shape = {name: getattr(settings, name) for name in _SHAPING} | {"local": self.is_local}
        digest = _digest([shape, question.question])
        seed = settings.seed if settings.seed is not None or not self.is_local else 0
        drawn = None if seed is None else int(_digest([seed, question.id, sample])[:8], 16) >> 1
        # Not str.format: braces of the question and of the prompt are text.
        prompt = settings.prompt.replace("{question}", question.question)
        return Call(Key(question.id, self.name, sample, digest[:16]), prompt, drawn)

    def secret(self) -> str | None:
        """The endpoint's key, from the environment. Raises UserError when it is not there or no header can carry it."""
        variable = self.settings.api_key_env
        if variable is None:
            return None
        where, remedy = f"{self.where}.api_key_env", f"export {variable}=..."
        value = os.environ.get(variable, "").strip()
        if not value:
            raise UserError(where, f"no environment variable {variable}", "one that holds the endpoint's key", remedy)
        if not value.isascii() or not value.isprintable():
            raise UserError(where, f"characters in {variable} that no header carries", "the bare key", remedy)
        return value


def load_teachers(file: Path) -> list[Teacher]:
    """The teachers of a YAML file. Raises ConfigError naming the first wrong key."""
    try:
        raw = plain_data(file)
    except OSError as error:
        raise ConfigError(str(file), error.strerror or "no file", "a teachers' file", "check the path") from None
    if not isinstance(raw, dict):
        raise ConfigError(
            str(file), type(raw).__name__, "the key `teachers`", "write it, and a list of teachers under it"
        )
    try:
        config = TeachersConfig.model_validate(raw)
    except ValidationError as error:
        raise _wrong(error, str(file)) from None
    teachers = [Teacher(settings, f"{file}: teachers.{i}") for i, settings in enumerate(config.teachers)]
    names: set[str] = set()
    for teacher in teachers:
        _check(teacher)
        if teacher.name in names:
            raise ConfigError(f"{teacher.where}.name", teacher.name, "a name of its own", "rename one of the two")
        names.add(teacher.name)
    return teachers


def _wrong(error: ValidationError, file: str) -> ConfigError:
    # A misspelt key first: what is missing for it is but a consequence.
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    location = first["loc"]
    where = f"{file}: {'.'.join(map(str, location))}"
    if first["type"] == "extra_forbidden":
        known = TeachersConfig.model_fields if len(location) == 1 else TeacherConfig.model_fields
        # Its value is not shown: it may be a key that does not belong there.
        return ConfigError(where, "an unknown key", "a known one", nearest(str(location[-1]), known))
    if first["type"] == "missing":
        return ConfigError(where, "nothing", "a value", "give it in the file")
    shown = first["input"] if isinstance(first["input"], (str, int, float)) else type(first["input"]).__name__
    return ConfigError(where, shown, first["msg"].lower(), "change the value")


def _check(teacher: Teacher) -> None:
    """What pydantic's types do not say. Raises ConfigError."""
    settings = teacher.settings

    def refuse(key: str, found: object, expected: str, remedy: str) -> None:
        raise ConfigError(f"{teacher.where}.{key}", found, expected, remedy)

    for key in ("model", "prompt", "system", "extra_body"):
        if not _fits_a_request(getattr(settings, key)):
            refuse(key, ascii(getattr(settings, key)), "what JSON in UTF-8 can say", "change it")
    if not settings.name.strip() or not settings.name.isprintable():
        refuse("name", ascii(settings.name), "a printable name", "change it")
    if "{question}" not in settings.prompt:
        refuse("prompt", settings.prompt, "{question} in it, where the question goes", "add it")
    if settings.temperature == 0 and settings.samples > 1:
        refuse("samples", settings.samples, "1 at temperature 0, where all samples are the same", "raise temperature")
    variable = settings.api_key_env
    if variable is not None and not _VARIABLE.fullmatch(variable):
        refuse(
            "api_key_env", "no such name", "the name of an environment variable, in capitals", "name it, not the key"
        )
    if teacher.is_local:
        if not Path(settings.model).expanduser().is_dir():
            remedy = "give base_url for the model of an endpoint"
            refuse("model", settings.model, "a folder, since there is no base_url", remedy)
    else:
        _check_address(settings.base_url or "", refuse)


def _check_address(address: str, refuse: Any) -> None:
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    # The address is not shown either: it may carry a password.
    if not usable:
        refuse("base_url", "no such address", "http:// or https:// and a host", "for example http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        refuse("base_url", "a user, password or query in it", "the bare address", "put the key into api_key_env")


def _fits_a_request(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError):  # a date, NaN, half a surrogate pair
        return False
    return True


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
