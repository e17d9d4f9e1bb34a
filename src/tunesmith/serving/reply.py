"""Answers in OpenAI's form: whole, or as the chunks of a stream."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.responses import Response

from tunesmith.serving.lane import Score
from tunesmith.serving.refusal import Refusal

DONE = b"data: [DONE]\n\n"


def event(value: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def usage(prompt: int, written: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


@dataclass(frozen=True)
class Form:
    """What a chat and a plain text have in common: a name, a time, a model."""

    model: str
    chat: bool
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def _head(self, chunk: bool) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if chunk else "chat.completion") if self.chat else "text_completion"
        name = f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}"
        return {"id": name, "object": kind, "created": self.created, "model": self.model, "system_fingerprint": None}

    def begin(self) -> bytes:
        """The chunk that says who speaks; a plain text has none."""
        return self.chunk({"role": "assistant", "content": ""}) if self.chat else b""

    def chunk(
        self, said: str | dict[str, Any], finish: str | None = None, logprobs: dict[str, Any] | None = None
    ) -> bytes:
        """``said``: text, or for a chat any delta."""
        choice: dict[str, Any] = {"index": 0, "logprobs": logprobs, "finish_reason": finish}
        if self.chat:
            choice["delta"] = said if isinstance(said, dict) else {"content": said} if said else {}
        else:
            choice["text"] = said
        return event({**self._head(chunk=True), "choices": [choice]})

    def fault(self, said: str) -> bytes:
        """What breaks off a stream that has begun."""
        return event(Refusal(500, said, code="writing_failed").body)

    def used(self, prompt: int, written: int) -> bytes:
        return event({**self._head(chunk=True), "choices": [], "usage": usage(prompt, written)})

    def whole(
        self, text: str, calls: Sequence[dict[str, Any]], finish: str, logprobs: dict[str, Any] | None,
        counts: tuple[int, int],
    ) -> dict[str, Any]:  # fmt: skip
        choice: dict[str, Any] = {"index": 0, "logprobs": logprobs, "finish_reason": finish}
        if self.chat:
            message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
            if calls:
                message |= {"content": text.strip() or None, "tool_calls": list(calls)}
            choice["message"] = message
        else:
            choice["text"] = text
        return {**self._head(chunk=False), "choices": [choice], "usage": usage(*counts)}

    def response(self, body: dict[str, Any]) -> Response:
        return Response(orjson.dumps(body), media_type="application/json")

    def logprobs(self, scores: Sequence[Score], piece: Callable[[int], bytes]) -> dict[str, Any] | None:
        """``piece`` gives the bytes of a token."""

        def shown(token: int, logprob: float) -> dict[str, Any]:
            written = piece(token)
            return {"token": written.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(written)}

        if self.chat:
            content = [
                {**shown(s.token, s.logprob), "top_logprobs": [shown(*one) for one in s.likeliest]} for s in scores
            ]
            return {"content": content, "refusal": None}
        return {
            "tokens": [piece(s.token).decode("utf-8", "replace") for s in scores],
            "token_logprobs": [s.logprob for s in scores],
            "top_logprobs": [{piece(i).decode("utf-8", "replace"): p for i, p in s.likeliest} for s in scores],
            "text_offset": _offsets([piece(s.token) for s in scores]),
        }


def _offsets(pieces: Sequence[bytes]) -> list[int]:
    found, so_far = list[int](), b""
    for one in pieces:
        found.append(len(so_far.decode("utf-8", "ignore")))
        so_far += one
    return found
