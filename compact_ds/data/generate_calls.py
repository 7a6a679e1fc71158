"""Asks one teacher at an endpoint, many calls at a time, and makes the best of an endpoint that fails.

Owns concurrency, the rate, what is asked again and after how long, and what a reply must be to count. What comes back is
untrusted: its text is looked at as text only. The endpoint's key is blotted out of every reason that leaves this module.
"""

from __future__ import annotations

import asyncio
import email.utils
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from compact_ds.data.generate_journal import Entry, Key
from compact_ds.data.generate_settings import Call, Teacher, TeacherConfig
from compact_ds.errors import UserError

_LONGEST_BACKOFF = 60.0
_LONGEST_WAIT = 600.0
"""An endpoint that asks for more patience than so many seconds has failed the call."""

_IN_A_ROW = 25
"""After so many failed calls without one answer between them the teacher is given up."""

_SHORTEST_SECRET = 8
"""Shorter keys are placeholders such as `EMPTY`, which a text may well say."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A call without a text, why, and after how many requests. `answered`: the endpoint works, its text could not be used."""

    key: Key
    reason: str
    attempts: int
    answered: bool = False


class _Unserved(Exception):
    """A request without a usable text. `waits`: seconds that the endpoint asks for; `answered` as in `Failure`."""

    def __init__(self, reason: str, *, again: bool, waits: float = 0.0, answered: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.again, self.waits, self.answered = reason, again, waits, answered


class _GivenUp(Exception):
    """Too many failures in a row."""


class Pace:
    """Spaces the requests of a teacher evenly, and holds them all while its endpoint asks for patience."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = self._held = 0.0

    async def turn(self) -> None:
        """Return when the next request may start."""
        while True:
            now = time.monotonic()
            mine = max(now, self._next, self._held)
            self._next = mine + self._gap
            if mine > now:
                await asyncio.sleep(mine - now)
            if self._held <= mine:
                return

    def hold(self, seconds: float) -> None:
        """Let no request start within so many seconds."""
        self._held = max(self._held, time.monotonic() + seconds)


class Endpoint:
    """A teacher's endpoint: `ask_all` calls, one `Entry` or `Failure` each; `retries` counts repeated requests."""

    def __init__(self, teacher: Teacher) -> None:
        """Raises UserError when the `openai` package or the key's environment variable is missing."""
        try:
            from openai import AsyncOpenAI
        except ModuleNotFoundError:
            remedy = "pip install 'compact-ds[generate]'"
            raise UserError(f"{teacher.where}.base_url", "no package openai", "the client", remedy) from None
        self._teacher, self._secret = teacher, teacher.secret()
        self._pace = Pace(teacher.settings.requests_per_minute)
        # Given in any case: left to itself the client would send OPENAI_API_KEY to whatever address.
        self._client: Callable[[], Any] = lambda: AsyncOpenAI(
            api_key=self._secret or "none", base_url=teacher.settings.base_url, max_retries=0,
            timeout=teacher.settings.timeout_seconds,
        )  # fmt: skip
        self.retries = 0

    async def ask_all(self, calls: Sequence[Call], done: Callable[[Entry | Failure], None]) -> str | None:
        """Make the calls and hand each result to `done` at once. None, or why the teacher was given up half-way.

        Raises UserError at once for what no repetition mends: a wrong model, address or key.
        """
        left, in_a_row = iter(calls), 0

        async def work(client: Any) -> None:
            nonlocal in_a_row
            for call in left:
                result = await self._ask(client, call)
                done(result)
                if isinstance(result, Entry) or result.answered:
                    in_a_row = 0
                    continue
                in_a_row += 1
                if in_a_row >= _IN_A_ROW:
                    raise _GivenUp(f"{in_a_row} calls in a row failed, the last with: {result.reason}")

        async with self._client() as client:
            count = min(self._teacher.settings.concurrency, len(calls))
            workers = [asyncio.create_task(work(client)) for _ in range(count)]
            try:
                await asyncio.gather(*workers)
            except _GivenUp as reason:
                return str(reason)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        return None

    async def _ask(self, client: Any, call: Call) -> Entry | Failure:
        settings = self._teacher.settings
        attempt = 1
        while True:
            await self._pace.turn()
            start = time.monotonic()
            try:
                reply = await self._request(client, call)
                return _entry(call.key, reply, self._secret, time.monotonic() - start)
            except _Unserved as trouble:
                if not trouble.again or trouble.waits > _LONGEST_WAIT or attempt > settings.max_retries:
                    return Failure(call.key, trouble.reason, attempt, trouble.answered)
                if trouble.waits:
                    self._pace.hold(trouble.waits)
                else:
                    await asyncio.sleep(_backoff(settings.retry_seconds, attempt))
            attempt += 1
            self.retries += 1

    async def _request(self, client: Any, call: Call) -> Any:
        import openai

        settings = self._teacher.settings
        try:
            # The client's limit is per read; a reply that trickles in would outlast it.
            return await asyncio.wait_for(
                client.chat.completions.create(**_body(settings, call)), settings.timeout_seconds
            )
        except openai.APIStatusError as error:
            raise self._refused(error) from None
        except (asyncio.TimeoutError, openai.APITimeoutError):
            raise _Unserved(f"no answer within {settings.timeout_seconds:g} s", again=True) from None
        except openai.APIConnectionError as error:
            reason = self._blotted(str(error.__cause__ or error))
            raise _Unserved(f"the connection broke ({reason})", again=True) from None
        except ValueError:  # truncated JSON, as the client hands it through; UnicodeDecodeError is one too
            raise _Unserved("a reply that is no whole JSON", again=True) from None
        except openai.OpenAIError as error:
            raise _Unserved(self._blotted(str(error)), again=True) from None

    def _refused(self, error: Any) -> Exception:
        """What a status of 400 or more comes to."""
        settings, where = self._teacher.settings, self._teacher.where
        status, said = error.status_code, self._blotted(str(error.message))
        if status in (401, 403):
            key = f"the key in {settings.api_key_env}" if settings.api_key_env else "no key"
            remedy = "correct the variable" if settings.api_key_env else "name the variable that holds a key"
            return UserError(f"{where}.api_key_env", f"{key} ({said})", f"one for {settings.base_url}", remedy)
        if status == 404 or error.code == "model_not_found":
            expected = f"a model that {settings.base_url} serves"
            return UserError(
                f"{where}.model", f"{settings.model} ({said})", expected, "correct model, or base_url (most end in /v1)"
            )
        if error.code == "insufficient_quota":
            return UserError(f"{where}.api_key_env", said, "an account with credit", "top it up and run again")
        again = status in (408, 409, 429) or status >= 500
        return _Unserved(said, again=again, waits=_retry_after(error.response.headers))

    def _blotted(self, text: str) -> str:
        """A reason without the key, short, on one line, and fit for a file. Cut last: half a key is no less a secret."""
        if self._secret:
            text = text.replace(self._secret, "[key]")
        return " ".join(text.encode("utf-8", "replace").decode().split())[:200]


def _body(settings: TeacherConfig, call: Call) -> dict[str, Any]:
    messages = [{"role": "system", "content": settings.system}] if settings.system else []
    messages.append({"role": "user", "content": call.prompt})
    body: dict[str, Any] = {"model": settings.model, "messages": messages}
    body[settings.max_tokens_field] = settings.max_tokens
    optional = {"temperature": settings.temperature, "top_p": settings.top_p, "seed": call.seed}
    body |= {name: value for name, value in optional.items() if value is not None}
    return body | ({"extra_body": settings.extra_body} if settings.extra_body else {})


def _entry(key: Key, reply: Any, secret: str | None, seconds: float) -> Entry:
    """The finished call of a reply. Raises _Unserved for one without a text that may stand in a file."""
    # The client checks no types: a reply is whatever JSON the endpoint sent.
    choices = getattr(reply, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    text = getattr(getattr(choice, "message", None), "content", None)
    finish = getattr(choice, "finish_reason", None)
    if finish == "content_filter":
        raise _Unserved("the endpoint's content filter", again=False, answered=True)
    if choice is None or not (text is None or isinstance(text, str)):
        raise _Unserved("a reply without a text", again=True)
    if text is None or not text.strip():
        reason = "an empty text at the limit (raise max_tokens)" if finish == "length" else "an empty text"
        raise _Unserved(reason, again=finish != "length", answered=True)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise _Unserved("half a surrogate pair in the text", again=True, answered=True)
    if secret and len(secret) >= _SHORTEST_SECRET and secret in text:
        raise _Unserved("a text that repeats the endpoint's key", again=False, answered=True)
    usage = getattr(reply, "usage", None)
    asked, written = (_count(getattr(usage, name, None)) for name in ("prompt_tokens", "completion_tokens"))
    return Entry(key, text, asked, written, seconds, finish == "length")


def _count(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0


def _backoff(first: float, attempt: int) -> float:
    """Seconds before the request after `attempt`: doubling, less a random part, so that calls do not return as one."""
    return float(min(_LONGEST_BACKOFF, first * 2 ** (attempt - 1))) * random.uniform(0.5, 1.0)


def _retry_after(headers: Any) -> float:
    """Seconds that a reply asks to wait: `retry-after-ms`, or `retry-after` as a number or an HTTP date; else 0."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after", "")
        try:
            return max(0.0, float(value))
        except ValueError:
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
