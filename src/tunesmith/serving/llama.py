"""A GGUF behind OpenAI's protocol: llama.cpp's server, asked on loopback; what it streams is passed on as it comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from starlette.types import ASGIApp, Receive, Scope, Send

from tunesmith.serving.backend import SECONDS_TO_RETRY, STREAM_HEADERS
from tunesmith.serving.refusal import Refusal, no_tools, too_many
from tunesmith.serving.reply import DONE, Form
from tunesmith.serving.request import LLAMA_HAS, Wanted, read_messages, read_prompt
from tunesmith.serving.scheduler import LONGEST_SECONDS, STOPPING_SECONDS

_PASSED = LLAMA_HAS | {
    "stream", "stream_options", "logprobs", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls",
    "response_format",
}  # fmt: skip
"""What is passed on as it came. Names of llama.cpp's own are not: n_predict would set max_tokens aside."""


class Llama:
    """`Backend` on a server of llama.cpp at ``address``, which answers ``at_once`` requests; more wait."""

    by_llama = True

    def __init__(
        self, name: str, address: str, *, system: str, at_once: int, waiting: int, calls: bool = False
    ) -> None:
        """``calls``: whether its template has tools; llama.cpp would take them, and leave them out."""
        self.names: Sequence[str] = [name]
        self._address, self._system, self._at_once, self._waiting = address, system, at_once, waiting
        self._asked, self._calls = 0, calls
        self.fault = ""
        self._stopping, self._to_stop = asyncio.Event(), False

    @property
    def counts(self) -> tuple[int, int]:
        return min(self._asked, self._at_once), max(0, self._asked - self._at_once)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        # A connection for each request: llama.cpp closes one that is kept after a hundred, or 5 s, unannounced, and a
        # request sent at that moment would be lost.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        timeout = httpx2.Timeout(LONGEST_SECONDS, connect=5.0)
        async with httpx2.AsyncClient(
            base_url=self._address, limits=limits, timeout=timeout, trust_env=False
        ) as self._client:
            yield

    def stop(self) -> None:
        self._to_stop = True
        asyncio.get_running_loop().call_later(STOPPING_SECONDS, self._stopping.set)

    async def answer(self, body: Mapping[str, Any], wanted: Wanted, *, chat: bool) -> ASGIApp:
        if self._to_stop:
            raise Refusal(503, "the server is about to stop; start it again", code="stopping")
        if self._asked >= self._at_once + self._waiting:
            raise too_many(f"as many wait here as may; ask again in {SECONDS_TO_RETRY} seconds", SECONDS_TO_RETRY)
        if body.get("tools") and not self._calls:
            raise no_tools()
        passed = {name: value for name, value in body.items() if name in _PASSED and value is not None}
        passed |= {"model": wanted.model, "temperature": wanted.temperature, "top_p": wanted.top_p,
                   "seed": wanted.seed % (2**32 - 1), "stop": wanted.stop,
                   "top_k": body.get("top_k") or 0, "min_p": body.get("min_p") or 0}  # fmt: skip
        if wanted.limit is not None:
            passed["max_tokens"] = wanted.limit
        if chat:
            passed["messages"] = read_messages(body, self._system)
        else:
            passed["prompt"] = read_prompt(body)
        return _Passed(self, "/v1/chat/completions" if chat else "/v1/completions", passed, Form(wanted.model, chat))

    @asynccontextmanager
    async def asked(self, path: str, body: dict[str, Any]) -> AsyncIterator[httpx2.Response]:
        """llama.cpp's answer while it comes. Raises `Refusal`."""
        self._asked += 1
        try:
            async with self._client.stream("POST", path, json=body) as answer:
                if answer.status_code != 200:
                    raise _refusal(answer.status_code, await answer.aread())
                self.fault = ""
                yield answer
        except httpx2.HTTPError as error:
            said = f"llama.cpp does not answer ({type(error).__name__}); start serve again"
            if isinstance(error, httpx2.ConnectError):  # its process has ended
                self.fault = said
            raise Refusal(502, said, code="llama_failed") from None
        finally:
            self._asked -= 1

    async def next_of(self, pieces: AsyncIterator[bytes], until: float) -> bytes | None:
        """What comes next; None at the end. Raises `TimeoutError` when it may take no longer."""
        reading = asyncio.ensure_future(anext(pieces, None))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            left = until - asyncio.get_running_loop().time()
            await asyncio.wait({reading, stopping}, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                raise TimeoutError
            return reading.result()
        finally:
            stopping.cancel()
            if not reading.done():
                reading.cancel()
                await asyncio.wait({reading})


class _Passed:
    """One answer of llama.cpp's on its way. A client that goes closes the request, which ends it there too."""

    def __init__(self, llama: Llama, path: str, body: dict[str, Any], form: Form) -> None:
        self._llama, self._path, self._body, self._form = llama, path, body, form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        passing = asyncio.create_task(self._pass(scope, receive, send))
        watching = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({passing, watching}, return_when=asyncio.FIRST_COMPLETED)
            if passing.done():
                passing.result()
        finally:
            watching.cancel()
            passing.cancel()
            await asyncio.wait({passing, watching})

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        until = asyncio.get_running_loop().time() + LONGEST_SECONDS
        try:
            async with self._llama.asked(self._path, self._body) as answer:
                if self._body.get("stream"):
                    await self._stream(answer, until, send)
                    return
                pieces, body = answer.aiter_bytes(), b""
                while (piece := await self._llama.next_of(pieces, until)) is not None:
                    body += piece
                await self._form.response(json.loads(body))(scope, receive, send)
        except TimeoutError:
            await Refusal(503, "the answer was broken off; ask for a shorter one", code="broken_off").response(
                scope, receive, send
            )
        except Refusal as refusal:
            await refusal.response(scope, receive, send)

    async def _stream(self, answer: httpx2.Response, until: float, send: Send) -> None:
        """Whole events only, so that the stream can be ended properly at any time."""
        await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
        pieces, held = answer.aiter_bytes(), b""
        try:
            while (piece := await self._llama.next_of(pieces, until)) is not None:
                whole, end, held = (held + piece).rpartition(b"\n\n")
                if end:
                    await send({"type": "http.response.body", "body": whole + end, "more_body": True})
        except TimeoutError:
            held = self._form.chunk("", "length") + DONE
        except httpx2.HTTPError as error:
            held = self._form.fault(f"llama.cpp broke off ({type(error).__name__})") + DONE
        await send({"type": "http.response.body", "body": held})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _refusal(status: int, body: bytes) -> Refusal:
    """llama.cpp's complaint, by OpenAI's names."""
    try:
        fault = json.loads(body)["error"]
        said, kind = str(fault["message"]), str(fault.get("type"))
    except (ValueError, KeyError, TypeError):
        said, kind = body.decode("utf-8", "replace")[:200], ""
    if "exceed_context" in kind:
        return Refusal(
            400,
            f"the prompt is too long: {said}; send less, or give serve a larger --context",
            param="messages",
            code="context_length_exceeded",
        )
    known = status if 400 <= status < 500 else 502
    return Refusal(known, f"llama.cpp refuses this: {said}", code=kind or None)
