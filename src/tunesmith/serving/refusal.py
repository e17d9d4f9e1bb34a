"""What a request is refused with, in the form of OpenAI's API: every client already knows how to show it."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse


class Refusal(Exception):
    """``str(refusal)`` is the one sentence for a person; ``code`` and ``param`` are for a program."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.headers: dict[str, str] = {}

    @property
    def body(self) -> dict[str, Any]:
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    @property
    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, self.headers)


def too_many(message: str, seconds: int) -> Refusal:
    """A refusal that says when to come again."""
    refusal = Refusal(429, message, code="rate_limit_exceeded")
    refusal.headers["Retry-After"] = str(seconds)
    return refusal


def no_tools() -> Refusal:
    said = "this model was not taught to call tools; leave tools out, or train it on rows that have them"
    return Refusal(400, said, param="tools", code="unsupported_parameter")
