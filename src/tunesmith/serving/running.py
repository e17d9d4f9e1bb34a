"""Running an app on an address: the port is taken first, and Ctrl-C ends streams properly."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn
from starlette.types import ASGIApp

from tunesmith.errors import ServingError

STOP_SECONDS = 8
"""What is under way may take so long to end after Ctrl-C."""


def _nothing() -> None:
    pass


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket on that address; port 0 takes a free one. Raises `ServingError`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):  # the latter for what can be no name at all
        raise ServingError(f"{host} is no address; give another with --host") from None
    with socket.socket(family, kind, protocol) as taken:
        if os.name == "posix":  # or a port could not be used again for a minute
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(address)
            taken.listen(2048)
        except OSError as error:
            raise ServingError(_why(error, host, port)) from None
        yield taken


def _why(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use; give another with --port"
    if error.errno == errno.EACCES:
        return f"port {port} of {host} is not open to you; give one above 1023 with --port"
    return f"{host} is no address of this machine ({error.strerror}); give another with --host"


def serve_app(
    app: ASGIApp, host: str, port: int, *, on_ready: Callable[[str], None], on_stop: Callable[[], None] = _nothing
) -> None:
    """Answer until Ctrl-C. ``on_ready`` gets the URL once requests are taken; ``on_stop`` is called when the first
    Ctrl-C (or SIGTERM) comes, and should make long streams end: they have `STOP_SECONDS`, a second Ctrl-C gives them
    none. Raises `ServingError` before anything is loaded when the port is in use."""
    with listening(host, port) as taken:
        serve_on(taken, app, on_ready=on_ready, on_stop=on_stop)


def serve_on(
    taken: socket.socket, app: ASGIApp, *, on_ready: Callable[[str], None], on_stop: Callable[[], None] = _nothing
) -> None:
    """As `serve_app`, on a port that was taken before: for what takes long to load."""
    config = uvicorn.Config(
        app, lifespan="on", ws="none", log_config=None, log_level="critical", access_log=False, server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS, timeout_keep_alive=60,
    )  # fmt: skip
    with suppress(KeyboardInterrupt):  # Ctrl-C is how a server ends
        _Server(config, on_ready, on_stop).run(sockets=[taken])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[str], None], on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready, self._on_stop = on_ready, on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            self._on_ready(url_of(sockets[0]))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_stop()
        await super().shutdown(sockets)


def url_of(taken: socket.socket) -> str:
    host, port = taken.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
