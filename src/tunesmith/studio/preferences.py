"""Language and colours, kept in cookies: chosen by a form, so that they work without a script."""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Route

from tunesmith.studio.render import THEMES
from tunesmith.studio.words import LANGUAGES

YEAR = 365 * 24 * 3600


async def form_values(request: Request) -> dict[str, str]:
    """A form as a browser sends it; of several values with one name the last."""
    sent = (await request.body()).decode("utf-8", "replace")
    return {key: values[-1] for key, values in parse_qs(sent, keep_blank_values=True).items()}


async def _choose(request: Request) -> RedirectResponse:
    values = await form_values(request)
    back = values.get("back", "/")
    inside = back.startswith("/") and not back.startswith(("//", "/\\"))
    response = RedirectResponse(back if inside else "/", 303)
    for name, allowed in (("language", LANGUAGES), ("theme", THEMES)):
        if values.get(name) in allowed:
            response.set_cookie(name, values[name], max_age=YEAR, samesite="strict", httponly=True)
    return response


routes = [Route("/preferences", _choose, methods=["POST"])]
