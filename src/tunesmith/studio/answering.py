"""The model that answers on the page "compare": `tunesmith serve` as a child, there while somebody asks.

One run at a time has one: two models may not fit into memory. It ends after ten idle minutes, and with the studio.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import psutil

from tunesmith import files
from tunesmith.errors import RunError
from tunesmith.machine import living_process, record_of
from tunesmith.stages.child import SAID
from tunesmith.studio import jobs
from tunesmith.studio.reading import read_json

KEY = "TUNESMITH_SERVE_KEY"
"""The environment variable in which `tunesmith serve` expects its key."""
RECORD = "answering.json"
IDLE_SECONDS = 600.0
POLL_SECONDS = 0.2
MOST_TOKENS = 512
"""Of an answer."""


@dataclass
class Child:
    """A server for one run, and how it is asked."""

    run: Path
    process: subprocess.Popen[bytes]
    url: str
    key: str
    tuned: str = ""
    """What the server calls the tuned model; the other one is "base"."""


class Answering:
    """``scratch``: where the child's log is kept, and which process it is."""

    def __init__(self, scratch: Path, idle: float = IDLE_SECONDS) -> None:
        self._scratch, self._idle = scratch, idle
        self._child: Child | None = None
        self._users, self._starting = 0, asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def models(self, run: Path) -> AsyncIterator[Child]:
        """The server of this run, started if need be; it is not taken away while it is used. Raises `RunError`."""
        self._users += 1
        try:
            async with self._starting:
                if self._child is None or self._child.run != run or self._child.process.poll() is not None:
                    await asyncio.to_thread(self.stop)
                    self._child = await self._start(run)
            yield self._child
        finally:
            self._users -= 1
            self._wait_idle()

    def is_up(self, run: Path) -> bool:
        """Whether an answer can begin at once."""
        return self._child is not None and self._child.run == run and self._child.process.poll() is None

    def stop(self) -> None:
        """End the child, if there is one, or one that is still being started."""
        child, self._child = self._child, None
        if child is not None:
            _end(child.process)
        end_left_behind(self._scratch)

    async def _start(self, run: Path) -> Child:
        port, key = _free_port(), secrets.token_urlsafe(24)
        command = [*jobs.PROGRAM, "serve", str(run), "--port", str(port)]
        self._scratch.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            # Ctrl-C in the studio's terminal must not reach it twice: in a group of its own it hears only us.
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0,
                                       env={**os.environ, KEY: key})  # fmt: skip
        self._note(process.pid)
        child = Child(run, process, f"http://127.0.0.1:{port}", key)
        try:
            while not child.tuned:
                if process.poll() is not None:
                    raise RunError(self._why(run))
                await asyncio.sleep(POLL_SECONDS)
                child.tuned = await _tuned_model(child)
        except BaseException:
            with anyio.CancelScope(shield=True):  # also when the person has gone meanwhile
                await asyncio.to_thread(_end, process)
            raise
        return child

    @property
    def _log(self) -> Path:
        return self._scratch / "answering.log"

    def _note(self, pid: int) -> None:
        files.write_json(self._scratch / RECORD, record_of(pid))

    def _why(self, run: Path) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        said = next((line.removeprefix(SAID) for line in reversed(lines) if line.startswith(SAID)), "")
        return said or f"the model of {run.name} could not be started; {self._log} has what it said"

    def _wait_idle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._idle, self._begin_end)

    def _begin_end(self) -> None:
        self._ending = asyncio.create_task(self._end_idle())

    async def _end_idle(self) -> None:
        async with self._starting:  # whoever asks now waits, and starts another
            if not self._users:
                await asyncio.to_thread(self.stop)


def end_left_behind(scratch: Path) -> None:
    """End the child of an earlier studio that was killed: it would hold its memory for ever."""
    record = scratch / RECORD
    left = living_process(read_json(record, {}))
    if left is not None:
        with suppress(psutil.Error):
            left.kill()
    record.unlink(missing_ok=True)


async def ask(child: Child, model: str, question: str) -> AsyncIterator[str]:
    """The pieces of an answer as they come. Raises `RunError` with the server's own sentence when it refuses."""
    import httpx2

    body = {"model": model, "messages": [{"role": "user", "content": question}], "stream": True, "temperature": 0,
            "max_tokens": MOST_TOKENS}  # fmt: skip
    try:
        async with _client(child) as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                raise RunError(_refusal(await response.aread()))
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    said = json.loads(line.removeprefix("data: "))
                    if "error" in said:
                        raise RunError(said["error"]["message"])
                    for choice in said["choices"]:
                        if piece := choice["delta"].get("content"):
                            yield piece
    except httpx2.HTTPError:
        raise RunError("the model has stopped answering; ask again") from None


def _client(child: Child) -> Any:
    import httpx2

    # No proxy of the environment: this goes nowhere but to our own child.
    return httpx2.AsyncClient(
        base_url=child.url, headers={"Authorization": f"Bearer {child.key}"}, timeout=None, trust_env=False
    )


async def _tuned_model(child: Child) -> str:
    """What the server calls the tuned model; empty until it answers."""
    import httpx2

    try:
        async with _client(child) as client:
            response = await client.get("/v1/models", timeout=2.0)
            return next(m["id"] for m in response.raise_for_status().json()["data"] if m["id"] != "base")
    except (httpx2.HTTPError, ValueError, StopIteration, KeyError):
        return ""


def _refusal(body: bytes) -> str:
    try:
        return json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return "the model did not answer; ask again"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=3)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
