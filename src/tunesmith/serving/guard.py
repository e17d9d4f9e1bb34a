"""Who may ask: the checks in front of everything that is served, API or pages.

A server on loopback is within reach of every page that the person's browser opens. What keeps those out is the name
that they called us by (Host: a page may point its own name at 127.0.0.1), where they come from (Origin, and what the
browser says of it), and, beyond this machine, a key.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith.serving.refusal import Refusal

LOOPBACK = ("localhost", "127.0.0.1", "::1")
ANY_HOST = "*"
"""In the place of names: with a key, for an address that other machines know by names of their own."""
SILENT_SECONDS = 30.0
"""So long a client may owe us the next piece of a body."""


class Guard:
    """Wraps an app. ``hosts``: names allowed in Host, without port; ``origins``: other origins that may ask, as
    http://localhost:3000; ``open_paths`` need no key."""

    def __init__(
        self, app: ASGIApp, *, hosts: Collection[str], key: str = "", most_bytes: int = 10_000_000,
        open_paths: Collection[str] = (), origins: Collection[str] = (),
    ) -> None:  # fmt: skip
        self._app, self._key, self._most = app, key.encode(), most_bytes
        self._hosts, self._open, self._origins = frozenset(hosts), frozenset(open_paths), frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no websockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        answer = _Answer(send)
        try:
            headers = Headers(scope=scope)
            self._check_host(headers)
            self._check_origin(headers)
            self._check_key(headers, scope)
            await self._app(scope, self._limited(headers, receive, answer), answer)
        except Refusal as refusal:
            if answer.begun:
                raise
            answer.instead(refusal)
        if answer.refusal is not None and not answer.begun:
            await answer.refusal.response(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if ANY_HOST not in self._hosts and _name(f"//{host}") not in self._hosts:
            said = f"this server does not answer to the name {host!r}; use the address that it was started with"
            raise Refusal(403, said, code="host_not_allowed")

    def _check_origin(self, headers: Headers) -> None:
        """Pages of other sites are kept out; programs send none of this. A link may be followed from anywhere."""
        origin = headers.get("origin")
        if origin is None:
            foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site")
            if foreign and headers.get("sec-fetch-mode") != "navigate":
                raise Refusal(403, "pages of other sites may not ask this server", code="origin_not_allowed")
        elif origin not in self._origins and origin.partition("://")[2] != headers.get("host", ""):
            said = f"pages of {origin} may not ask this server; allow them with --origin"
            raise Refusal(403, said, code="origin_not_allowed")

    def _check_key(self, headers: Headers, scope: Scope) -> None:
        asks_first = scope["method"] == "OPTIONS"  # a browser asks, without the key, whether it may send one
        if not self._key or asks_first or scope["path"] in self._open:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode("latin-1"), self._key)  # the bytes that came
        if scheme.lower() != "bearer" or not right:
            said = "the key is missing or wrong; send it as Authorization: Bearer KEY"
            refusal = Refusal(401, said, code="invalid_api_key")
            refusal.headers["WWW-Authenticate"] = "Bearer"
            raise refusal

    def _limited(self, headers: Headers, receive: Receive, answer: _Answer) -> Receive:
        """``receive`` that refuses a body which is too large, or never comes."""
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._most:
            raise self._too_large()
        taken, owed = 0, True

        async def limited() -> Message:
            nonlocal taken, owed
            if not owed:  # what is left to be heard is that the client has gone
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), SILENT_SECONDS)
            except TimeoutError:
                raise answer.instead(Refusal(408, "the rest of the request did not come; send it again")) from None
            taken += len(message.get("body", b""))
            owed = message.get("more_body", False)
            if taken > self._most:
                raise answer.instead(self._too_large())
            return message

        return limited

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the request has more than {self._most:,} bytes; send a smaller one", code="too_large")


class _Answer:
    """``send`` that knows whether an answer has begun: then it is too late to refuse. Before that, what the app makes
    of a refusal that passes through it (an answer of its own, or an error of the server's) is not sent."""

    def __init__(self, send: Send) -> None:
        self._send, self.begun = send, False
        self.refusal: Refusal | None = None

    def instead(self, refusal: Refusal) -> Refusal:
        self.refusal = refusal
        return refusal

    async def __call__(self, message: Message) -> None:
        if self.refusal is not None and not self.begun:
            return
        self.begun = True
        await self._send(message)


def _name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # brackets that do not close
        return ""
