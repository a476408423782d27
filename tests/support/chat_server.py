"""A chat-completions endpoint on 127.0.0.1 that sees colours and has accidents on demand.

    with ChatServer() as server:
        server.accident(429, {"Retry-After": "1"}, error("slow down", "rate_limit_exceeded"))
        judge = EndpointJudge(server.settings(tmp_path / "cache"))

Asked about an image of one colour it names that colour if it is a choice, else it cannot tell; asked what a text means
it names the choice that the text contains. `server.requests` is what was asked, in order; `server.paid` what was
answered well.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

from hermesflow.config.judges import Endpoint, Pace, Prices
from hermesflow.evaluation.judges.protocol import Item, png_bytes

MODEL = "gpt-4o-2024-08-06"
TOKENS = (200, 10)
"""Reported with every answer: sent, written."""
COLORS = {(255, 0, 0): "red", (0, 0, 255): "blue"}


@dataclass(frozen=True)
class Asked:
    path: str
    authorization: str | None
    body: dict
    at: float
    """Seconds that only grow."""

    @property
    def user(self) -> str:
        return self.body["messages"][-1]["content"][0]["text"]


@dataclass(frozen=True)
class Accident:
    status: int
    headers: dict[str, str]
    body: bytes
    missing: int
    """Bytes that are promised, but the connection ends before them."""


class ChatServer:
    """An endpoint in a thread of this process."""

    def __init__(self, *, key: str | None = None) -> None:
        self.key = key
        self.requests: list[Asked] = []
        self.paid: list[str] = []
        self.under_way = self.most_under_way = 0
        self.message: Callable[[dict], dict] = lambda body: {"role": "assistant", "content": see(body), "refusal": None}
        self.finish_reason = "stop"
        self.usage: object = {"prompt_tokens": TOKENS[0], "completion_tokens": TOKENS[1], "total_tokens": sum(TOKENS)}
        self.pause = 0.0
        self.stall_at: int | None = None
        """Number of the request that gets no answer until the end, counted from 1."""
        self.stalled = threading.Event()
        self._accidents: deque[Accident] = deque()
        self._release = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> ChatServer:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()

    def accident(
        self, status: int, headers: dict[str, str] | None = None, body: bytes = b"", *, times: int = 1, missing: int = 0
    ) -> None:
        """Answer the next requests so, before any other."""
        self._accidents += [Accident(status, headers or {}, body, missing)] * times

    def release(self) -> None:
        """End the connection that got no answer."""
        self._release.set()

    def settings(self, cache: Path, *, pace: dict | None = None, **own) -> Endpoint:
        """A quick judge of this server."""
        quick = {"requests_per_minute": 1e5, "concurrency": 1, "timeout": 5.0, "first_wait": 0.01, **(pace or {})}
        prices = Prices(input=2.5, output=10.0, image_tokens=255)
        plain = {"kind": "endpoint", "base_url": self.base_url, "model": "gpt-4o", "key_variable": None, **own}
        return Endpoint(**plain, cache=str(cache), pace=Pace(**quick), prices=prices)


def picture(color: tuple[int, int, int]) -> bytes:
    """PNG of a square of one colour."""
    return png_bytes(np.full((28, 28, 3), color, dtype=np.uint8))


def numbered(count: int) -> list[Item]:
    """Different questions about one red square."""
    red = picture((255, 0, 0))
    return [Item(str(n), red, f"what color is object {n} ?", ("red", "blue"), "red") for n in range(count)]


def first_choice(body: dict) -> dict:
    """The message of a judge that takes the first choice, whatever it sees or reads."""
    lines = body["messages"][-1]["content"][0]["text"].split("\n")
    choice = next(line.removeprefix("- ") for line in lines if line.startswith("- "))
    return {"role": "assistant", "content": json.dumps({"choice": choice}), "refusal": None}


def error(message: str, code: str | None = None) -> bytes:
    """The body of an error, as the protocol has it."""
    return json.dumps({"error": {"message": message, "type": "error", "param": None, "code": code}}).encode()


def see(body: dict) -> str:
    """The right answer to a request, as strict JSON."""
    text, *images = body["messages"][-1]["content"]
    lines = text["text"].split("\n")
    choices = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    if images:
        encoded = images[0]["image_url"]["url"].removeprefix("data:image/png;base64,")
        shown = COLORS[Image.open(io.BytesIO(base64.b64decode(encoded))).getpixel((0, 0))]
        named = shown if shown in choices else "cannot tell"
    else:
        named = next((choice for choice in choices if choice in lines[-1]), "cannot tell")
    return json.dumps({"choice": named})


def completion(message: dict, *, finish_reason: str = "stop", usage: object = None) -> dict:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1722470400,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}],
        "usage": usage,
        "system_fingerprint": "fp_1",
    }


def _handler(server: ChatServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = Asked(self.path, self.headers.get("Authorization"), body, time.monotonic())
            with server._lock:
                server.requests.append(asked)
                number = len(server.requests)
                server.under_way += 1
                server.most_under_way = max(server.most_under_way, server.under_way)
                accident = server._accidents.popleft() if server._accidents else None
            try:
                self._answer(asked, number, accident)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                with server._lock:
                    server.under_way -= 1

        def _answer(self, asked: Asked, number: int, accident: Accident | None) -> None:
            if number == server.stall_at:
                server.stalled.set()
                server._release.wait()
                self.close_connection = True
            elif accident:
                self._send(accident.status, accident.headers, accident.body, accident.missing)
                self.close_connection = accident.missing > 0
            elif server.key and asked.authorization != f"Bearer {server.key}":
                given = (asked.authorization or "").removeprefix("Bearer ")
                self._send(401, {}, error(f"Incorrect API key provided: {given}.", "invalid_api_key"))
            elif asked.path != "/v1/chat/completions":
                self._send(404, {}, error("Invalid URL"))
            else:
                time.sleep(server.pause)
                answer = completion(server.message(asked.body), finish_reason=server.finish_reason, usage=server.usage)
                server.paid.append(asked.user)
                self._send(200, {}, json.dumps(answer).encode())

        def _send(self, status: int, headers: dict[str, str], body: bytes, missing: int = 0) -> None:
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                **headers,
                "Content-Length": str(len(body) + missing),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    return Handler
