"""A stand-in for Ollama that keeps to its HTTP API to the letter, and can be told to fail.

    with FakeOllama(folder) as ollama:
        ollama.answer = lambda model, request: "42"
        create("my-model", gguf, derived, host=ollama.host)
        ollama.models["my-model:latest"].template

Blobs lie in ``folder/blobs`` under their digests. As in Ollama, an error before the first byte of an
answer has its status, and one after it is a line ``{"error": …}``.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tunesmith.export import go_template

_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_FIELDS = {
    "model", "name", "stream", "from", "files", "adapters", "template", "license", "system", "parameters", "messages",
    "quantize", "renderer", "parser", "requires", "info",
}  # fmt: skip
_PARAMETERS = {
    "num_keep", "seed", "num_predict", "top_k", "top_p", "min_p", "repeat_last_n", "temperature", "repeat_penalty",
    "presence_penalty", "frequency_penalty", "stop", "num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap",
    "num_thread",
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """What `create` made."""

    name: str
    gguf: Path
    digest: str
    template: str
    system: str
    parameters: dict[str, Any]

    def prompt(self, messages: list[dict[str, Any]]) -> str:
        """What Ollama would send to the model: SYSTEM goes first where the messages do not begin with their own."""
        own = [{"role": "system", "content": self.system}] if self.system else []
        return go_template.render(self.template, messages if messages[0]["role"] == "system" else own + messages)


@dataclass
class FakeOllama:
    folder: Path
    version: str = "0.35.1"
    answer: Callable[[Model, dict[str, Any]], str] = lambda model, request: "Hello."
    die_after: int | None = None
    """Bytes of a blob after which the connection breaks."""
    die_in_create: bool = False
    full: bool = False
    """The disk has no space for a blob."""
    refuse_create: str = ""
    """An error that the answer to `create` ends with."""
    models: dict[str, Model] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    """ "METHOD /path status", in order."""

    def __enter__(self) -> FakeOllama:
        self.blobs = self.folder / "blobs"
        self.blobs.mkdir(parents=True, exist_ok=True)
        handler = type("Handler", (_Handler,), {"ollama": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def blob(self, digest: str) -> Path:
        return self.blobs / digest.replace(":", "-")

    # -- create ----------------------------------------------------------------------------------

    def wrong_request(self, request: dict[str, Any]) -> str:
        """What is answered with status 400 before anything is done; "" when the request is right."""
        if unknown := request.keys() - _FIELDS:
            return f"the fake does not know {sorted(unknown)}"
        files = request.get("files") or {}
        for path, digest in files.items():
            if path.startswith("/") or ".." in path.split("/") or re.search(r"[\\:]", path) or path in ("", "."):
                return f"file path must be relative: {path}"
            if not _DIGEST.fullmatch(digest):
                return f"invalid digest for {path}: invalid digest format"
        if request.get("adapters"):
            return "LoRA adapters are no longer supported"
        if "typical_p" in (request.get("parameters") or {}):
            return "typical_p is deprecated and cannot be set as a model parameter; pass it as a request option instead"
        if not valid_name(request.get("model") or request.get("name") or ""):
            return "invalid model name"
        if request.get("quantize"):
            return "create-time quantization is only supported for safetensors imports"
        return ""

    def create(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The lines of the answer; one with "error" is the last."""
        files = request.get("files")
        if not files:
            yield {"error": "neither 'from' or 'files' was specified", "status": 400}
            return
        yield {"status": "parsing GGUF"}
        [digest] = files.values()
        if not self.blob(digest).is_file():
            yield {"error": f"open {self.blob(digest)}: no such file or directory"}
            return
        with self.blob(digest).open("rb") as file:
            if file.read(4) != b"GGUF":
                yield {"error": "supplied file was not in GGUF format", "status": 400}
                return
        yield {"status": f"using existing layer {digest}"}
        try:
            go_template.parse(request.get("template", ""))
        except ValueError as error:
            yield {"error": f"template error: {error}", "status": 400}
            return
        parameters = request.get("parameters") or {}
        if unknown := parameters.keys() - _PARAMETERS:
            yield {"error": f"unknown parameter '{min(unknown)}'"}
            return
        if self.refuse_create:
            yield {"error": self.refuse_create}
            return
        yield {"status": "writing manifest"}
        if self.die_in_create:
            raise ConnectionAbortedError
        name = full_name(request.get("model") or request["name"])
        text, system = request.get("template", ""), request.get("system", "")
        self.models[name] = Model(name, self.blob(digest), digest, text, system, parameters)
        yield {"status": "success"}


def full_name(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def valid_name(name: str) -> bool:
    place, _, last = name.rpartition("/")
    model, _, tag = last.partition(":")
    parts = [model, *([tag] if ":" in last else []), *(place.split("/") if place else [])]
    return len(parts) <= 4 and all(_PART.fullmatch(part) for part in parts)


class _Handler(BaseHTTPRequestHandler):
    ollama: FakeOllama
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/api/version":
            self.json(200, {"version": self.ollama.version})
        elif self.path == "/api/tags":
            found = [{"name": m.name, "model": m.name, "digest": m.digest[7:]} for m in self.ollama.models.values()]
            self.json(200, {"models": found})
        else:
            self.json(404, {"error": "not found"})

    def do_HEAD(self) -> None:
        there = self.ollama.blob(self.path.rpartition("/")[2]).is_file()
        self.log(200 if there else 404)
        self.send_response(200 if there else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        if self.path.startswith("/api/blobs/"):
            self.take_blob(self.path.rpartition("/")[2])
            return
        try:
            request = json.loads(b"".join(self.body()))
        except ValueError as error:
            self.json(400, {"error": str(error)})
            return
        if self.path == "/api/create":
            wrong = self.ollama.wrong_request(request)
            if wrong:
                self.json(400, {"error": wrong})
            else:
                self.lines(self.ollama.create(request), stream=request.get("stream", True))
        elif self.path == "/api/chat":
            self.chat(request)
        else:
            self.json(404, {"error": "404 page not found"})

    def take_blob(self, digest: str) -> None:
        ollama = self.ollama
        if not _DIGEST.fullmatch(digest):
            self.json(400, {"error": "invalid digest format"})
            return
        if ollama.blob(digest).is_file():
            self.json(200, None)
            return
        if ollama.full:
            self.close_connection = True
            self.json(500, {"error": f"write {ollama.blob(digest)}: no space left on device"})
            return
        found, taken = hashlib.sha256(), 0
        with tempfile.NamedTemporaryFile(dir=ollama.folder, prefix="sha256-", delete=False) as file:
            for chunk in self.body():
                taken += file.write(chunk)
                found.update(chunk)
                if ollama.die_after is not None and taken >= ollama.die_after:
                    Path(file.name).unlink()  # as Ollama does: a blob is there whole or not at all
                    self.hang_up()
                    return
        actual = f"sha256:{found.hexdigest()}"
        Path(file.name).rename(ollama.blob(actual))
        if actual != digest:
            self.json(400, {"error": f'digest mismatch, expected "{digest}", got "{actual}"'})
        else:
            self.json(201, None)

    def chat(self, request: dict[str, Any]) -> None:
        model = self.ollama.models.get(full_name(request.get("model", "")))
        if model is None:
            self.json(404, {"error": f"model '{request.get('model')}' not found"})
            return
        message = {"role": "assistant", "content": self.ollama.answer(model, request)}
        line = {"model": model.name, "created_at": "2026-11-22T00:00:00Z", "message": message}
        self.lines(iter([{**line, "done": True, "done_reason": "stop"}]), stream=request.get("stream", True))

    # -- HTTP ------------------------------------------------------------------------------------

    def body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length", 0))
        while left > 0 and (chunk := self.rfile.read(min(left, 1 << 16))):
            left -= len(chunk)
            yield chunk

    def log(self, status: int) -> None:
        self.ollama.requests.append(f"{self.command} {self.path} {status}")

    def json(self, status: int, value: Any) -> None:
        self.log(status)
        data = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def lines(self, values: Iterator[dict[str, Any]], *, stream: bool) -> None:
        """NDJSON, or with ``stream`` false the last value alone, an error with its status."""
        if not stream:
            *_, last = values
            status = last.pop("status") if "error" in last and "status" in last else 500 if "error" in last else 200
            self.json(int(status), last)
            return
        self.log(200)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for value in values:
                data = json.dumps(value).encode() + b"\n"
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        except ConnectionAbortedError:
            self.hang_up()
            return
        self.wfile.write(b"0\r\n\r\n")

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
