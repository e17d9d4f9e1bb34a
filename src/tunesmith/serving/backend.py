"""What stands behind the API: an engine of ours, or llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from starlette.types import ASGIApp

from tunesmith.serving.request import Wanted

STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
SECONDS_TO_RETRY = 5


class Backend(Protocol):
    @property
    def names(self) -> Sequence[str]:
        """The models, the one that is meant when none is named first."""
        ...

    @property
    def by_llama(self) -> bool:
        """Whether llama.cpp writes, which has parameters that we do not have."""
        ...

    def running(self) -> AbstractAsyncContextManager[None]:
        """In which it answers."""
        ...

    async def answer(self, body: Mapping[str, Any], wanted: Wanted, *, chat: bool) -> ASGIApp:
        """The answer, to be sent. Raises `Refusal`."""
        ...

    @property
    def counts(self) -> tuple[int, int]:
        """Answers under way, and those that wait."""
        ...

    @property
    def fault(self) -> str:
        """Why nothing can be answered any more; empty while all is well."""
        ...

    def stop(self) -> None:
        """Take nothing new, and bring to an end what is under way."""
        ...
