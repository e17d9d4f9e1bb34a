"""A model in an engine of ours behind OpenAI's protocol: base and tuned, written by one scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from tunesmith.engines.writing import Sampler
from tunesmith.errors import ModelError
from tunesmith.serving.answers import Answerer
from tunesmith.serving.backend import SECONDS_TO_RETRY, STREAM_HEADERS
from tunesmith.serving.calls import CallReader
from tunesmith.serving.lane import Ask, Piece, Score
from tunesmith.serving.refusal import Refusal, no_tools, too_many
from tunesmith.serving.reply import DONE, Form
from tunesmith.serving.request import Conversation, Wanted, read_conversation, read_prompt
from tunesmith.serving.scheduler import Broken, Full, Scheduler, Stopping
from tunesmith.serving.tokens import TokenBytes


class Writers:
    """`Backend` on an engine. ``context``: tokens of a prompt and its answer."""

    by_llama = False

    def __init__(self, answerer: Answerer, scheduler: Scheduler, *, context: int) -> None:
        self._model, self._scheduler, self._context = answerer, scheduler, context
        self._bytes = TokenBytes(answerer.chat)
        tuned = answerer.name if answerer.name != "base" else "tuned"
        self._adapters = {tuned: True, "base": False} if answerer.adapter else {answerer.name: False}

    @property
    def names(self) -> Sequence[str]:
        return list(self._adapters)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self._scheduler.start(asyncio.get_running_loop())
        try:
            yield
        except asyncio.CancelledError:  # a second Ctrl-C
            self._scheduler.close(0.0)
            raise
        await asyncio.to_thread(self._scheduler.close)

    @property
    def counts(self) -> tuple[int, int]:
        return self._scheduler.counts

    @property
    def fault(self) -> str:
        return self._scheduler.fault

    def stop(self) -> None:
        self._scheduler.stop()

    async def answer(self, body: Mapping[str, Any], wanted: Wanted, *, chat: bool) -> ASGIApp:
        calls = False
        if chat:
            asked = read_conversation(body, self._model.system)
            calls = bool(asked.tools)
            prompt = await asyncio.to_thread(self._asked, asked)
        else:
            asked, prompt = Conversation([]), await asyncio.to_thread(self._continued, read_prompt(body))
        if len(prompt) >= self._context:
            raise self._too_long(f"{len(prompt):,}", "messages" if chat else "prompt")
        left = self._context - len(prompt)
        ask = Ask(
            prompt, min(wanted.limit or left, left), self._model.chat.stop,
            Sampler(wanted.temperature, wanted.seed, wanted.top_p), self._adapters[wanted.model], wanted.stop,
            wanted.likeliest,
        )  # fmt: skip
        reader = CallReader() if calls else None
        return _Answer(self._scheduler, ask, Form(wanted.model, chat), wanted, self._bytes, reader, asked.one_call)

    def _asked(self, asked: Conversation) -> list[int]:
        if asked.tools and not self._model.calls:
            raise no_tools()
        self._refuse_endless(sum(len(message["content"]) for message in asked.messages), "messages")
        try:
            return self._model.chat.prompt(asked.messages, asked.tools or None)
        except ModelError as error:
            raise Refusal(400, str(error), param="messages", code="invalid_value") from None

    def _continued(self, prompt: str | Sequence[int]) -> list[int]:
        chat = self._model.chat
        if isinstance(prompt, str):
            self._refuse_endless(len(prompt), "prompt")
            return chat.start(chat.encode(prompt))
        if max(prompt) >= self._model.engine.arch.vocabulary:
            raise Refusal(400, "prompt has ids that are no tokens of this model", param="prompt", code="invalid_value")
        return list(prompt)

    def _refuse_endless(self, characters: int, param: str) -> None:
        """Before a book is made into tokens to count them."""
        if characters > self._context * self._model.chat.longest_token:
            raise self._too_long(f"more than {self._context:,}", param)

    def _too_long(self, count: str, param: str) -> Refusal:
        said = f"the prompt has {count} tokens, and this model takes {self._context:,} together with its answer"
        more = ", or give serve a larger --context" if self._context < self._model.engine.arch.context else ""
        return Refusal(400, f"{said}; send less{more}", param=param, code="context_length_exceeded")


class _Answer:
    """An answer on its way to one client. A client that goes frees its place at once."""

    def __init__(
        self, scheduler: Scheduler, ask: Ask, form: Form, wanted: Wanted, piece: TokenBytes,
        calls: CallReader | None, one_call: bool,
    ) -> None:  # fmt: skip
        self._form, self._wanted, self._piece, self._calls, self._one = form, wanted, piece, calls, one_call
        self._prompt, self._written = len(ask.prompt), 0
        self._pieces = asyncio.Queue[Piece | None]()
        self._scheduler = scheduler
        try:
            self._text = scheduler.submit(ask, self._pieces.put_nowait)
        except Full:
            said = f"as many wait here as may; ask again in {SECONDS_TO_RETRY} seconds"
            raise too_many(said, SECONDS_TO_RETRY) from None
        except Stopping:
            raise Refusal(503, "the server is about to stop; start it again", code="stopping") from None
        except Broken as broken:
            raise Refusal(503, str(broken), code="writing_failed") from None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watching = asyncio.create_task(self._watch(receive))
        try:
            first = await self._next()
            if first is not None and first.fault:
                await Refusal(503, first.fault, code="writing_failed").response(scope, receive, send)
            elif first is not None:
                await (self._stream(first, send) if self._wanted.stream else self._whole(first, scope, receive, send))
        finally:
            watching.cancel()
            self._scheduler.leave(self._text)

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._scheduler.leave(self._text)
        self._pieces.put_nowait(None)

    async def _next(self) -> Piece | None:
        """All that has come meanwhile, as one; None when the client has gone."""
        piece = await self._pieces.get()
        while piece is not None and not self._pieces.empty():
            more = self._pieces.get_nowait()
            piece = piece.with_more(more) if more else None
        self._written += piece.tokens if piece else 0
        return piece

    async def _stream(self, piece: Piece | None, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
        await _send(send, self._form.begin())
        while piece is not None:
            await _send(send, self._chunks(piece))
            if piece.finish or piece.fault:
                await send({"type": "http.response.body", "body": b""})
                return
            piece = await self._next()

    def _chunks(self, piece: Piece) -> bytes:
        if piece.fault:
            return self._form.fault(piece.fault) + DONE
        shown = self._calls.add(piece.text) if self._calls else piece.text
        scores = self._scores(piece.scores)
        if not piece.finish:
            return self._form.chunk(shown, logprobs=scores) if shown or scores else b""
        rest, calls = self._ended()
        written = self._form.chunk(shown + rest, logprobs=scores) if shown + rest or scores else b""
        if calls:
            written += self._form.chunk({"tool_calls": [{"index": i, **call} for i, call in enumerate(calls)]})
        written += self._form.chunk("", "tool_calls" if calls else piece.finish)
        if self._wanted.include_usage:
            written += self._form.used(self._prompt, self._written)
        return written + DONE

    async def _whole(self, piece: Piece | None, scope: Scope, receive: Receive, send: Send) -> None:
        text, scores = "", list[Score]()
        while piece is not None:
            if piece.fault:
                await Refusal(503, piece.fault, code="writing_failed").response(scope, receive, send)
                return
            text += self._calls.add(piece.text) if self._calls else piece.text
            scores += piece.scores
            if piece.finish:
                rest, calls = self._ended()
                finish, counts = "tool_calls" if calls else piece.finish, (self._prompt, self._written)
                body = self._form.whole(text + rest, calls, finish, self._scores(scores), counts)
                await self._form.response(body)(scope, receive, send)
                return
            piece = await self._next()

    def _ended(self) -> tuple[str, list[dict[str, Any]]]:
        rest, calls = self._calls.rest() if self._calls else ("", [])
        return rest, calls[:1] if self._one else calls

    def _scores(self, scores: Sequence[Score]) -> dict[str, Any] | None:
        return self._form.logprobs(scores, self._piece) if self._wanted.likeliest is not None else None


async def _send(send: Send, written: bytes) -> None:
    if written:
        await send({"type": "http.response.body", "body": written, "more_body": True})
