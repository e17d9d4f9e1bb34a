"""A finished GGUF into Ollama, through its HTTP API: the file as a blob, then the model that uses it.

Blobs go by the hash of their content: one that Ollama has is not sent again, so a run that broke off
goes on where it was. Checked against the server's source of August 2026; the ways of `create` are those
since 0.5.5.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tunesmith.errors import EngineError, ModelError, StorageError, TunesmithError
from tunesmith.export.ollama_template import Derived

LEAST_VERSION = (0, 5, 5)
"""Since then `create` takes files by their hashes."""
_CHUNK = 1 << 20
_PART = r"[A-Za-z0-9_][A-Za-z0-9_{}-]{{0,{}}}"
_NAME = re.compile(
    f"(?:(?:{_PART.format('.:', 349)}/)?{_PART.format('', 79)}/)?{_PART.format('.', 79)}(?::{_PART.format('.', 79)})?"
)

OnProgress = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and of how much: bytes, or 0 of 0 where Ollama only says what."""


def create(
    name: str,
    gguf: Path,
    derived: Derived,
    *,
    system: str | None = None,
    stops: Sequence[str] = (),
    parameters: dict[str, Any] | None = None,
    host: str | None = None,
    on_progress: OnProgress = lambda doing, done, total: None,
) -> None:
    """Make the model ``name`` of the file ``gguf``; one that has this name is replaced.

    Raises `EngineError` when Ollama is not running, is too old, refuses or breaks off, `StorageError` when
    its disk is full, and `ModelError` for a name that Ollama does not allow.
    """
    check_ready(name, host)
    base = address(host)
    digest = _digest(gguf, on_progress)
    _upload(base, gguf, digest, on_progress)
    request: dict[str, Any] = {"model": name, "files": {"model.gguf": digest}}
    request |= {"template": derived.template} if derived.template else {}
    request |= {"system": system} if system else {}
    settings = dict(parameters or {}) | ({"stop": list(stops)} if stops else {})
    request |= {"parameters": settings} if settings else {}
    making = "the model was made"
    with _errors(base, making), _client(base) as client, client.stream("POST", "/api/create", json=request) as answer:
        _accept(answer, base)
        for line in answer.iter_lines():
            status = _status(line, base)
            if status == "success":
                return
            if status:
                on_progress(status, 0, 0)
    raise EngineError(_broken(base, making))


def ask(
    name: str, messages: Sequence[dict[str, Any]], options: dict[str, Any] | None = None, *, host: str | None = None
) -> str:
    """The model's answer, whole. ``options`` are Ollama's: temperature, seed, num_predict, num_ctx …

    Raises `EngineError` as `create` does, and when there is no such model.
    """
    base = address(host)
    request = {"model": name, "messages": list(messages), "stream": False, "options": options or {}}
    with _errors(base, "the model answered"), _client(base) as client:
        answer = client.post("/api/chat", json=request)
        _accept(answer, base)
        return str(answer.json()["message"]["content"])


def version(host: str | None = None) -> str:
    """Which Ollama runs there. Raises `EngineError` when none does."""
    base = address(host)
    with _errors(base, "it was asked for its version"), _client(base) as client:
        answer = client.get("/api/version")
        _accept(answer, base)
        return str(answer.json()["version"])


def check_ready(name: str, host: str | None = None) -> None:
    """Raises what `create` would, of the name and of the Ollama there, before anything is sent."""
    check_name(name)
    _require(version(host), address(host))


def check_name(name: str) -> None:
    """Raises `ModelError` for a name that Ollama would refuse: [HOST/][NAMESPACE/]NAME[:TAG]."""
    if not _NAME.fullmatch(name):
        raise ModelError(
            f"{name!r} cannot be a model's name in Ollama; use letters, digits, - _ and . (my-model, or my-model:v2)"
        )


def address(host: str | None = None) -> str:
    """Where Ollama listens, as a URL: ``host``, else ``OLLAMA_HOST``, else 127.0.0.1:11434.

    Read as Ollama's own client reads it: a host, a port, both, or a URL (then the port is the scheme's);
    an address that means "every one here" is called as this machine's own.
    """
    given = (os.environ.get("OLLAMA_HOST", "") if host is None else host).strip().strip("\"'").strip()
    scheme, separator, rest = given.partition("://")
    if not separator:
        scheme, rest = "http", given
    default = {"http": "80", "https": "443"}.get(scheme, "11434") if separator else "11434"
    place, _, path = rest.partition("/")
    name, port = _place(place, default)
    path = f"/{path.rstrip('/')}" if path.rstrip("/") else ""
    return f"{scheme}://{name}:{port}{path}"


def _place(place: str, default_port: str) -> tuple[str, str]:
    """Host and port, an IPv6 address in its brackets."""
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*):([^:]*)", place)
    name, port = (match[1], match[2]) if match else (place, default_port)
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        port = default_port
    try:
        number = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name or "127.0.0.1", port
    if number.is_unspecified:
        number = ipaddress.ip_address("127.0.0.1" if number.version == 4 else "::1")
    return (f"[{number}]" if number.version == 6 else str(number)), port


# -- the steps -------------------------------------------------------------------------------------


def _require(found: str, base: str) -> None:
    numbers = re.match(r"v?(\d+)\.(\d+)\.(\d+)", found)
    if numbers is None:
        return
    running = tuple(map(int, numbers.groups()))
    if (0, 0, 0) < running < LEAST_VERSION:  # 0.0.0 is what Ollama calls itself when built by hand
        least = ".".join(map(str, LEAST_VERSION))
        raise EngineError(
            f"Ollama at {base} is version {found}, and {least} is the least that takes a model this way; update Ollama"
        )


def _digest(gguf: Path, on_progress: OnProgress) -> str:
    return f"sha256:{_hash(_chunks(gguf, 'reading the file', on_progress))}"


def _hash(chunks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(path: Path, doing: str, on_progress: OnProgress) -> Iterator[bytes]:
    total, done = path.stat().st_size, 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
            done += len(chunk)
            on_progress(doing, done, total)


def _upload(base: str, gguf: Path, digest: str, on_progress: OnProgress) -> None:
    with _errors(base, "the file was sent"), _client(base) as client:
        if client.head(f"/api/blobs/{digest}").status_code == 200:
            return
        chunks = _chunks(gguf, "sending the file to Ollama", on_progress)
        size = {"Content-Length": str(gguf.stat().st_size)}
        _accept(client.post(f"/api/blobs/{digest}", content=chunks, headers=size), base)


def _client(base: str) -> Any:
    import httpx2

    # A proxy is for other machines; and reading a file of tens of GB into Ollama's store takes its time.
    near = urlsplit(base).hostname in ("127.0.0.1", "localhost", "::1")
    return httpx2.Client(base_url=base, trust_env=not near, timeout=httpx2.Timeout(None, connect=10))


# -- what goes wrong -------------------------------------------------------------------------------


@contextmanager
def _errors(base: str, doing: str) -> Iterator[None]:
    """The HTTP client's errors, as one sentence each."""
    import httpx2

    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout):
        raise EngineError(
            f"Ollama is not running at {base}; start it (`ollama serve`, or the Ollama app) and run the same "
            "command again, or say where it runs with OLLAMA_HOST"
        ) from None
    except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
        raise EngineError(f"OLLAMA_HOST does not say where Ollama runs ({error}); write it as host:port") from None
    except httpx2.HTTPError:
        raise EngineError(_broken(base, doing)) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise EngineError(f"what answers at {base} is not Ollama; say where Ollama runs with OLLAMA_HOST") from None


def _broken(base: str, doing: str) -> str:
    return (
        f"Ollama at {base} broke off while {doing}; see that it runs, then run the same command again: "
        "what it has whole is not sent again"
    )


def _accept(answer: Any, base: str) -> None:
    """Raises the error that a refused request stands for, in Ollama's own words."""
    if answer.is_success:
        return
    answer.read()
    try:
        words = str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        words = f"status {answer.status_code}"
    raise _refusal(words, base)


def _status(line: str, base: str) -> str:
    """What one line of the answer to `create` says. Raises as `_accept` does."""
    if not line.strip():
        return ""
    said = json.loads(line)
    if "error" in said:
        raise _refusal(str(said["error"]), base)
    return str(said.get("status", ""))


def _refusal(words: str, base: str) -> TunesmithError:
    if re.search(r"no space left|disk quota|not enough space|disk is full", words, re.IGNORECASE):
        return StorageError(
            f"the disk of the Ollama at {base} is full ({words}); free some space there (`ollama list`, "
            "`ollama rm NAME`) and run the same command again"
        )
    return EngineError(f"Ollama at {base} refuses: {words}")
