"""A strict server of OpenAI's protocol that answers by rule, and fails by plan."""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

MODEL = "teacher-1"
Fault = str
"""429, 500, timeout, cut, prose or drop."""


def document(first: int, count: int = 4) -> str:
    """A text of facts that are all different."""
    facts = " ".join(f"The height of tower {name_of(i)} is {1000 + 7 * i} metres." for i in range(first, first + count))
    return f"# Towers {first}\n\n{facts}\n"


def name_of(number: int) -> str:
    """Words that share no pieces, so that no two questions are nearly the same."""
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return "".join(chr(ord("a") + int(c, 16)) for c in digest[:12]).capitalize()


def written(prompt: str, schema: Any = None) -> str:
    """What the teacher writes: right, by rule."""
    if "Reply with JSON only" in prompt and "PASSAGE:" in prompt and "QUESTION:" not in prompt:
        wordings = int(found[1]) if (found := re.search(r"in (\d+) different wordings", prompt)) else 1
        towers = re.findall(r"height of tower (\w+) is", prompt.partition("PASSAGE:")[2])
        forms = ("How high is the tower {}?", "What height does {} reach?", "Tell me how tall {} stands, in metres.",
                 "{}: which height has that building?")  # fmt: skip
        return json.dumps({"questions": [{"wordings": [f.format(t) for f in forms[:wordings]]} for t in towers]})
    if '{"good":' in prompt:
        return json.dumps({"good": "Bad" not in prompt})
    if "frequently ask about" in prompt:
        start = found[1] if (found := re.search(r'begins with "(.*?)"', prompt)) else "How do I"
        topic = re.search(r"ask about: (\w+)", prompt)
        names = [name_of(i) for i in range(int(re.search(r"Write (\d+)", prompt)[1]))]  # type: ignore[index]
        return json.dumps({"questions": [f"{start} use {name} of {topic and topic[1]}?" for name in names]})
    if "most likely ask next" in prompt:
        return json.dumps({"question": f"And which person built {_last_name(prompt)} back then?"})
    if "same question in other words" in prompt:
        return json.dumps({"question": f"In what manner would somebody go about {_last_name(prompt)}?"})
    if "PASSAGE" in prompt:
        tower = _last_name(prompt)
        fact = re.search(rf"The height of tower {tower} is \d+ metres\.", prompt)
        return fact[0] if fact else "NOT ANSWERED"
    return f"You do it with the lever {name_of(len(prompt))}{_last_name(prompt)}, which you turn gently."


def _last_name(prompt: str) -> str:
    question = re.split(r"QUESTION: |Now they ask: |Question: ", prompt)[-1]
    names = re.findall(r"[A-Z][a-p]{11}", question)
    return names[0] if names else hashlib.sha256(question.encode()).hexdigest()[:12].translate(
        str.maketrans("0123456789", "qrstuvwxyz"))  # fmt: skip


class FakeTeacher:
    """seen: the bodies of requests for a reply, in order; answered: of those that were given one."""

    def __init__(
        self,
        *,
        write: Callable[[str, Any], str] = written,
        plan: Callable[[str, int], Fault | None] | None = None,
        seconds: float = 0.0,
        key: str | None = None,
        schemas: bool = True,
    ) -> None:
        self.write, self.plan, self.seconds, self.key, self.schemas = write, plan, seconds, key, schemas
        self.models: list[dict[str, Any]] = [{"id": MODEL}]
        self.pages: dict[str, Any] = {}
        """What stands at other addresses than those of OpenAI's protocol."""
        self.retry_after = "0"
        self.usage = True
        self.seen: list[dict[str, Any]] = []
        self.answered: list[str] = []
        self.times: Counter[str] = Counter()
        self.too_early = 0
        self._may_come: dict[str, float] = {}
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, format: str, *args: Any) -> None: ...

            def do_GET(self) -> None:
                outer.get(self)

            def do_POST(self) -> None:
                outer.post(self)

        class Server(ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 128

            def handle_error(self, request: Any, client_address: Any) -> None: ...

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def get(self, handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/v1/models":
            return send(handler, 200, {"object": "list", "data": self.models})
        return self._other(handler)

    def _other(self, handler: BaseHTTPRequestHandler) -> None:
        page = self.pages.get(handler.path.partition("?")[0])
        send(handler, 404 if page is None else 200, page or {"error": {"message": "File Not Found"}})

    def post(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        if handler.path != "/v1/chat/completions":
            return self._other(handler)
        if self.key and handler.headers.get("Authorization") != f"Bearer {self.key}":
            said = handler.headers.get("Authorization", "none").removeprefix("Bearer ")
            return send(handler, 401, {"error": {"message": f"Incorrect API key provided: {said}"}})
        asked = json.loads(body)
        if fault := _malformed(asked):
            return send(handler, 400, {"error": {"message": fault}})
        if asked["model"] not in [m["id"] for m in self.models]:
            return send(handler, 404, {"error": {"message": f"model '{asked['model']}' not found"}})
        if "response_format" in asked and not self.schemas:
            return send(handler, 400, {"error": {"message": "response_format is not supported"}})
        self._reply(handler, asked)

    def _reply(self, handler: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
        key = json.dumps([asked["messages"], asked["model"]])
        with self._lock:
            if asked["messages"][0]["content"] != "Say: ok":
                self.seen.append(asked)
            self.times[key] += 1
            fault = self.plan(key, self.times[key]) if self.plan else None
            if time.monotonic() < self._may_come.get(key, 0):
                self.too_early += 1
            if fault == "429" and self.retry_after.replace(".", "").isdigit():
                self._may_come[key] = time.monotonic() + float(self.retry_after)
        time.sleep(self.seconds)
        if fault == "429":
            return send(handler, 429, {"error": {"message": "slow down"}}, {"Retry-After": self.retry_after})
        if fault == "500":
            return send(handler, 500, {"error": {"message": "oops"}})
        if fault == "drop":
            handler.close_connection = True
            return handler.connection.close()
        if fault == "timeout":
            time.sleep(1.0)
        text = self.write(asked["messages"][0]["content"], asked.get("response_format"))
        if fault == "prose":
            text = "Certainly! Here is what you want to have."
        finish = "stop"
        if fault == "cut":
            text, finish = text[: len(text) // 2], "length"
        reply: dict[str, Any] = {
            "id": "x", "object": "chat.completion", "model": asked["model"],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        }  # fmt: skip
        if self.usage:
            reply["usage"] = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        with self._lock:
            self.answered.append(key)
        send(handler, 200, reply)


def _malformed(asked: Any) -> str:
    """What OpenAI's API would refuse."""
    known = {"model", "messages", "temperature", "max_tokens", "response_format"}
    if unknown := set(asked) - known:
        return f"unknown parameters {unknown}"
    if not isinstance(asked.get("model"), str) or not 0 <= asked["temperature"] <= 2 or asked["max_tokens"] < 1:
        return "model, temperature or max_tokens is wrong"
    roles = [m["role"] for m in asked["messages"]]
    if roles[0] != "user" or roles[-1] != "user" or any(a == b for a, b in pairwise(roles)):
        return f"turns do not alternate: {roles}"
    if any(set(m) != {"role", "content"} or not m["content"] for m in asked["messages"]):
        return "a message is empty"
    form = asked.get("response_format")
    if form and (form["type"] != "json_schema" or form["json_schema"]["schema"]["type"] != "object"):
        return "response_format is wrong"
    return ""


def send(handler: BaseHTTPRequestHandler, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    """One write: a head that is sent before its body would wait for the client's system to acknowledge it, 40 ms."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Content-Type": "application/json", "Content-Length": len(data), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    handler.wfile.write(f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{head}\r\n".encode() + data)


@contextmanager
def serving(**options: Any) -> Iterator[FakeTeacher]:
    """A server that runs as long as the context."""
    fake = FakeTeacher(**options)
    fake.start()
    try:
        yield fake
    finally:
        fake.stop()


def seeded(seed: int, shares: dict[Fault, float]) -> Callable[[str, int], Fault | None]:
    """Faults for these shares of the requests, the same for the same requests in the same order of tries."""

    def plan(key: str, times: int) -> Fault | None:
        chance = random.Random(f"{seed}{key}{times}").random()
        for fault, share in shares.items():
            chance -= share
            if chance < 0:
                return fault
        return None

    return plan
