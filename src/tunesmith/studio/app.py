"""The studio's web application: the routes of every page, and what every answer has in common."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith.errors import TunesmithError
from tunesmith.serving.guard import LOOPBACK, Guard
from tunesmith.studio import (
    comparing,
    evaluation,
    exporting,
    home,
    live,
    newrun,
    preferences,
    recipe_page,
    rows,
    static_files,
)  # fmt: skip
from tunesmith.studio.context import UPLOADS, Missing, Project
from tunesmith.studio.render import HEADERS, refusal, words
from tunesmith.studio.uploads import MOST_BYTES

PAGES: tuple[Sequence[BaseRoute], ...] = (
    static_files.routes,
    preferences.routes,
    home.routes,
    newrun.routes,
    recipe_page.routes,
    live.routes,
    rows.routes,
    evaluation.routes,
    comparing.routes,
    exporting.routes,
)
"""A page is a module of its own with a list ``routes``."""


def make_app(project: Project) -> Starlette:
    """The application without what `guarded` puts around it."""
    app = Starlette(
        routes=[route for page in PAGES for route in page],
        exception_handlers={TunesmithError: _refuse, HTTPException: _http, Exception: _bug},
    )
    app.state.project = project
    app.add_middleware(_Headers)
    return app


def guarded(app: ASGIApp) -> ASGIApp:
    """The application for pages of this machine alone. A file that is dropped may be large, and nothing else."""
    usual, dropped = Guard(app, hosts=LOOPBACK), Guard(app, hosts=LOOPBACK, most_bytes=MOST_BYTES)

    async def choose(scope: Scope, receive: Receive, send: Send) -> None:
        is_file = scope["type"] == "http" and scope["path"].startswith(f"/{UPLOADS}/")
        await (dropped if is_file else usual)(scope, receive, send)

    return choose


class _Headers:
    """Puts `HEADERS` on every answer that does not say otherwise itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


def _refuse(request: Request, error: Exception) -> Response:
    return refusal(request, str(error), 404 if isinstance(error, Missing) else 400)


def _http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    said = words(request)
    return refusal(request, said("layout.not_there" if status == 404 else "layout.not_so", status=status), status)


def _bug(request: Request, error: Exception) -> Response:
    """starlette raises it again behind this answer, so the terminal shows the traceback."""
    return refusal(request, words(request)("layout.bug"), 500)
