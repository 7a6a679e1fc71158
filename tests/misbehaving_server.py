"""A chat-completions endpoint over real HTTP that fails on demand, answers by rule and counts what it was asked."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

RETRY_AFTER = 0.4


class Asked(NamedTuple):
    """What a request asks for, by which the reply is made."""

    model: str
    prompt: str
    seed: int | None


Faults = Callable[[Asked, int], str | None]
"""Request and how often it has come, from 1, to the name of a fault, or None."""


def text_of(asked: Asked) -> str:
    """The text that the server writes."""
    digest = hashlib.sha256(repr(asked).encode()).hexdigest()
    return f"Let me see, é {digest[:8]}.\nI count {int(digest[8:12], 16)}.\nThe answer is {int(digest[:4], 16)}"


def share_of(share: float, kinds: tuple[str, ...]) -> Faults:
    """Faults by chance, the same for the same request and count."""

    def fault(asked: Asked, time_: int) -> str | None:
        number = int(hashlib.sha256(repr((asked, time_, "fault")).encode()).hexdigest()[:8], 16)
        return kinds[number % len(kinds)] if number / 2**32 < share else None

    return fault


class MisbehavingServer(ThreadingHTTPServer):
    """A context manager that serves in threads. `models` are known; without a `key` any is taken."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(
        self, faults: Faults = lambda asked, time_: None, *, models: tuple[str, ...] = ("m",), key: str | None = None,
        seconds: float = 0.0, slow_seconds: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults, self.models, self.key, self.seconds, self.slow_seconds = faults, models, key, seconds, slow_seconds
        self.lock = threading.Lock()
        self.requests: Counter[Asked] = Counter()
        self.answers: Counter[Asked] = Counter()
        self.times: dict[Asked, list[float]] = defaultdict(list)
        self.bodies: list[dict[str, Any]] = []
        self.at_once: Counter[str] = Counter()
        self.most_at_once: Counter[str] = Counter()

    @property
    def url(self) -> str:
        """What goes into `base_url`."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> MisbehavingServer:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed or gave up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: MisbehavingServer

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked = Asked(body["model"], body["messages"][-1]["content"], body.get("seed"))
        server = self.server
        with server.lock:
            server.bodies.append(body)
            server.times[asked].append(time.monotonic())
            server.requests[asked] += 1
            time_ = server.requests[asked]
            server.at_once[asked.model] += 1
            server.most_at_once[asked.model] = max(server.most_at_once[asked.model], server.at_once[asked.model])
        try:
            time.sleep(server.seconds)
            self._reply(asked, time_)
        finally:
            with server.lock:
                server.at_once[asked.model] -= 1

    def _reply(self, asked: Asked, time_: int) -> None:
        server = self.server
        if server.key is not None and self.headers["authorization"] != f"Bearer {server.key}":
            given = self.headers["authorization"]
            return self._error(401, f"Incorrect API key provided: {given}. {given}", "invalid_api_key")
        if self.path != "/v1/chat/completions" or asked.model not in server.models:
            return self._error(404, f"no model {asked.model}", "model_not_found")
        fault = server.faults(asked, time_)
        if fault is None or fault == "slow":
            time.sleep(server.slow_seconds if fault else 0)
            with server.lock:
                server.answers[asked] += 1
            return self._send(200, _completion(text_of(asked)))
        if fault == "dropped":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return None
        if fault.isdecimal():
            key = server.key or "no key"
            return self._error(int(fault), f"fault {fault}, asked with {key}", "fault", retries=fault == "429")
        whole = _completion({"surrogate": "half \ud800", "empty": " ", "key": f"it is {server.key}"}.get(fault, "text"))
        if fault == "truncated":
            return self._send(200, whole[: len(whole) // 2])
        if fault == "cut":
            self.close_connection = True
            return self._send(200, whole[: len(whole) // 2], length=len(whole))
        if fault == "filter":
            return self._send(200, whole.replace(b'"stop"', b'"content_filter"'))
        if fault == "nonsense":
            return self._send(200, b'{"choices": [{"message": {"content": ["no", "text"]}}], "usage": "none"}')
        return self._send(200, whole)

    def _error(self, status: int, message: str, code: str, retries: bool = False) -> None:
        headers = {"Retry-After": str(RETRY_AFTER)} if retries else {}
        self._send(status, json.dumps({"error": {"message": message, "code": code}}).encode(), headers=headers)

    def _send(
        self, status: int, body: bytes, *, length: int | None = None, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        fields = {"Content-Type": "application/json", "Content-Length": str(length or len(body))} | (headers or {})
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _completion(text: str) -> bytes:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
    return json.dumps({"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
