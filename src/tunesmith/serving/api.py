"""OpenAI's protocol over a backend: the addresses, and what goes wrong in the form that its clients know."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tunesmith.serving.backend import Backend
from tunesmith.serving.guard import Guard
from tunesmith.serving.refusal import Refusal
from tunesmith.serving.request import read_json, read_wanted

HEALTH = "/health"


def make_app(backend: Backend, *, hosts: Collection[str], key: str = "", origins: Collection[str] = ()) -> ASGIApp:
    """``origins``: pages that may ask from a browser."""
    app: Any = _app(backend)
    if origins:
        app = CORSMiddleware(app, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"])
    return Guard(app, hosts=hosts, key=key, open_paths=[HEALTH], origins=origins)


def _app(backend: Backend) -> Starlette:
    created = int(time.time())

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with backend.running():
            yield

    def described(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": created, "owned_by": "tunesmith"}

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [described(name) for name in backend.names]})

    async def model(request: Request) -> Response:
        return JSONResponse(described(_known(backend, request.path_params["name"])))

    async def health(_: Request) -> Response:
        if backend.fault:
            return Refusal(503, backend.fault, code="writing_failed").response
        writing, waiting = backend.counts
        return JSONResponse({"status": "ok", "writing": writing, "waiting": waiting})

    async def answer(request: Request, chat: bool) -> Any:
        body = read_json(await request.body())
        wanted = read_wanted(body, by_llama=backend.by_llama)
        wanted = replace(wanted, model=_known(backend, wanted.model or backend.names[0]))
        return await backend.answer(body, wanted, chat=chat)

    async def chats(request: Request) -> Any:
        return await answer(request, chat=True)

    async def texts(request: Request) -> Any:
        return await answer(request, chat=False)

    return Starlette(
        routes=[
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/v1/chat/completions", chats, methods=["POST"]),
            Route("/v1/completions", texts, methods=["POST"]),
            Route(HEALTH, health),
        ],
        lifespan=lifespan,
        exception_handlers={Refusal: _refused, HTTPException: _missed, Exception: _broken},
    )


def _known(backend: Backend, name: str) -> str:
    if name in backend.names:
        return name
    said = f"there is no model {name!r} here; there is {' and '.join(backend.names)}"
    raise Refusal(404, said, param="model", code="model_not_found")


async def _refused(_: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return refusal.response


async def _missed(request: Request, missed: Exception) -> Response:
    assert isinstance(missed, HTTPException)
    said = f"{request.method} {request.url.path} is not answered here; see /v1/models and /v1/chat/completions"
    return Refusal(missed.status_code, said, code="not_found").response


async def _broken(_: Request, error: Exception) -> Response:
    return Refusal(500, f"this is a bug in tunesmith ({type(error).__name__}: {error})", code="bug").response
