"""One teacher over HTTP, in OpenAI's protocol: what comes and goes by itself is waited for, the rest is a sentence."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any

import orjson

from tunesmith.errors import TeacherError
from tunesmith.settings import TeacherSettings
from tunesmith.teacher.context import Context, find_context
from tunesmith.teacher.refusals import explain, may_be_schema, said_by
from tunesmith.teacher.request import Reply, Request, tokens_of

JSON = {"Content-Type": "application/json"}
TRIES = 8
"""How often one request is sent before it is given up: with the pauses between, two minutes of a server's silence."""
PROBES = 3
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
LOOK = 10.0
"""Seconds that a look at what a server says of itself may take."""
LONGEST_WAIT = 600.0
"""Seconds that a server may ask to wait; a quota that returns tomorrow is told to the person instead."""
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
"""Statuses that may be another one in a moment."""
NOTHING = 0
"""Stands for a status where no answer came at all."""
IN_A_ROW = 5
"""So many requests refused, and none taken between them: then it is not the requests."""


class Stopped(Exception):
    """A person asked to stop while a request waited for its turn."""


class Refused(Exception):
    """The server takes every other request, but not this one; ``str()`` says why."""


def key_of(name: str, who: str = "teacher") -> str | None:
    """The key that the environment holds for ``who`` (see `Client`).

    Raises `TeacherError` when the variable that is named holds none.
    """
    for variable in (name,) if name else (f"TUNESMITH_{who.upper()}_KEY", "OPENAI_API_KEY"):
        if value := os.environ.get(variable, "").strip():
            return value
    if name:
        raise TeacherError(f"the environment has no {name}, where {who}.key says that the {who}'s key is; set it")
    return None


class Client:
    """One connection pool, used by as many threads as there are requests at once.

    stop: set when nothing new should be sent; who: what the server is here, "teacher" or "judge", and so how the
    settings begin that its errors name.
    """

    def __init__(self, url: str, settings: TeacherSettings, stop: threading.Event | None = None,
                 key: str | None = None, who: str = "teacher") -> None:  # fmt: skip
        import httpx2

        self.url, self.settings, self.who = url.rstrip("/"), settings, who
        self.stop = stop or threading.Event()
        self.answered = 0
        self.schemas = True
        """Until the server refuses one."""
        self._refusals, self._not_before, self._lock = 0, 0.0, threading.Lock()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx2.Limits(max_connections=settings.parallel, max_keepalive_connections=settings.parallel)
        timeout = httpx2.Timeout(settings.timeout, connect=min(10.0, settings.timeout))
        try:
            self._http = httpx2.Client(headers=headers, timeout=timeout, limits=limits)
        except (ValueError, UnicodeError):
            raise TeacherError(f"the {who}'s key holds characters that no key has; set it again") from None

    @cached_property
    def _address(self) -> Any:
        """Taken apart once: a fifth of what a request costs here went into that, and into JSON."""
        import httpx2

        return httpx2.URL(f"{self.url}/chat/completions")

    def close(self) -> None:
        self._http.close()

    # -- one request -----------------------------------------------------------------------------

    def ask(self, request: Request) -> Reply:
        """The reply, however often it takes. Raises `Refused`, `Stopped`, and `TeacherError` when it is not this one
        request but the server that gives none."""
        began, answered, what = time.monotonic(), self.answered, ""
        for attempt in range(TRIES):
            self._wait_for_turn()
            schema = request.schema is not None and self.schemas
            status, body, wait = self._send(request, schema)
            if status == 200:
                return self._taken(request, body)
            if status in PASSING or status == NOTHING:
                what = body if status == NOTHING else f"status {status}: {said_by(body)}"
                if attempt + 1 < TRIES:
                    self._wait(attempt, wait)
            elif schema and may_be_schema(status, body):
                self.schemas = False  # asked without one from now on
            else:
                self._refuse(status, body)
        seconds = time.monotonic() - began
        why = f"{self.url}: no reply to a request in {TRIES} tries and {seconds:.0f} s ({what})"
        if self.answered == answered and not self._lives(request.model):
            raise TeacherError(f"{why}; what was answered is kept: the same command goes on from there")
        raise Refused(why)

    def _taken(self, request: Request, body: Any) -> Reply:
        reply = _reply(request, body)
        if reply is None:
            raise TeacherError(self._not_alike(body))
        self.answered, self._refusals = self.answered + 1, 0
        return reply

    def _refuse(self, status: int, body: Any) -> None:
        """What no waiting mends: the account, or else this request, unless others are refused as well."""
        why = explain(self.url, status, body, self.settings, self.who)
        self._refusals += 1
        if status in (401, 402, 403, 404) or self._refusals >= IN_A_ROW:
            raise TeacherError(why)
        raise Refused(why)

    def _lives(self, model: str) -> bool:
        return self._send(_ping(model))[0] == 200

    def _send(self, request: Request, schema: bool = False) -> tuple[int, Any, float | None]:
        """(status, body, seconds to wait); the status `NOTHING` and a reason when nothing came back."""
        import httpx2

        body = request.body()
        if not schema:
            body.pop("response_format", None)
        try:
            answer = self._http.post(self._address, content=orjson.dumps(body), headers=JSON)
        except httpx2.TimeoutException:
            return NOTHING, f"none in {self.settings.timeout:g} s", None
        except httpx2.TransportError as error:
            return NOTHING, (str(error).splitlines() or [type(error).__name__])[0], None
        except (httpx2.InvalidURL, UnicodeError) as error:
            raise TeacherError(f"{self.who}.url {self.url!r} is no address ({error})") from None
        try:
            value = orjson.loads(answer.content)
        except ValueError:
            value = answer.text[:500]
        return answer.status_code, value, retry_after(answer.headers.get("Retry-After"))

    def _not_alike(self, body: Any) -> str:
        return f"{self.url} does not answer as OpenAI's API does, but with {said_by(body)!r}; look at {self.who}.url"

    # -- waiting ---------------------------------------------------------------------------------

    def _wait(self, attempt: int, wait: float | None) -> None:
        """Longer each time, and by chance, so that threads do not come back all at once; or as the server asks."""
        if wait is not None:
            if wait > LONGEST_WAIT:
                raise TeacherError(
                    f"{self.url} asks to wait {wait / 60:.0f} minutes, most likely for a quota; run the same command "
                    "then: what was answered is kept"
                )
            with self._lock:  # for all threads: it is the account that is slowed down
                self._not_before = max(self._not_before, time.monotonic() + wait)
            return
        self._pause(min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE) * random.uniform(0.5, 1.0))

    def _wait_for_turn(self) -> None:
        while (left := self._not_before - time.monotonic()) > 0:
            self._pause(left)
        if self.stop.is_set():
            raise Stopped

    def _pause(self, seconds: float) -> None:
        if self.stop.wait(seconds):
            raise Stopped

    # -- before any work -------------------------------------------------------------------------

    def look(self, address: str, posted: Any = None) -> Any:
        """The JSON at another address of the server, got, or answered to what is posted there; None without any."""
        import httpx2

        try:
            answer = self._http.request("GET" if posted is None else "POST", address, json=posted, timeout=LOOK)
            return answer.json() if answer.status_code == 200 else None
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError):
            return None

    def context(self, model: str) -> Context | None:
        """How long a prompt and its reply may be together, if the server says so."""
        return find_context(self.look, self.url, model)

    def models(self) -> list[str]:
        """What the server says it has; empty when it does not say."""
        data = self.look(f"{self.url}/models")
        entries = data.get("data") if isinstance(data, dict) else None
        names = [entry.get("id") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
        return [name for name in names if isinstance(name, str)]

    def _models(self) -> str:
        there = self.models()
        return f"; it has {', '.join(there[:8])}{' …' if len(there) > 8 else ''}" if there else ""

    def only_model(self) -> str:
        """The name of the one model that is there. Raises `TeacherError` when there are several, or none is told."""
        there = self.models()
        if len(there) == 1:
            return there[0]
        if there:
            raise TeacherError(f"{self.url} has several models: {', '.join(there[:8])}; name one as {self.who}.model")
        self.probe("")  # says what is wrong with the address
        raise TeacherError(f"{self.url} does not say which models it has; name one as {self.who}.model")

    def probe(self, model: str) -> None:
        """A request of a few tokens: whatever is wrong with address, key or model is said before any work.

        Raises `TeacherError`.
        """
        for attempt in range(PROBES):
            self._wait_for_turn()
            status, body, wait = self._send(_ping(model))
            if status == 200:
                self._taken(_ping(model), body)
                return
            if status in PASSING or status == NOTHING:
                if attempt + 1 < PROBES:
                    self._wait(attempt, wait)
                elif status == NOTHING:
                    who = self.who
                    raise TeacherError(f"no {who} answers at {self.url} ({body}); start it, or mend {who}.url")
                else:
                    raise TeacherError(f"{self.url} answers with status {status}: {said_by(body)}; try again later")
            else:
                more = self._models() if status in (400, 404) else ""
                raise TeacherError(explain(self.url, status, body, self.settings, self.who) + more)


def _ping(model: str) -> Request:
    """A request that costs next to nothing."""
    return Request((("user", "Say: ok"),), model, 0.0, 16)


Ask = Callable[[Request], Reply]


def _reply(request: Request, body: Any) -> Reply | None:
    """The reply in a body as OpenAI's API gives it, or None."""
    try:
        choice = body["choices"][0]
        text = choice["message"]["content"] or ""
        cut = choice.get("finish_reason") in ("length", "max_tokens")
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    if not isinstance(text, str):
        return None
    text = text.encode("utf-8", "replace").decode()
    usage = body.get("usage") if isinstance(body.get("usage"), dict) else {}
    counted = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    told, texts = [n if isinstance(n, int) and n >= 0 else None for n in counted], (request.text, text)
    return Reply(text, cut, *(tokens_of(t) if n is None else n for n, t in zip(told, texts, strict=True)))


def retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date. None when there is none to be read."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - time.time())
