"""Pages from templates: the frame around each, its language and colours, and the policy that keeps it harmless."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from tunesmith.pages import template
from tunesmith.run import RunFolder
from tunesmith.studio.context import project_of
from tunesmith.studio.static_files import static
from tunesmith.studio.words import LANGUAGES, Words, preferred, words_of

THEMES = ("auto", "light", "dark")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with none at all a browser would send "Origin: null" with our own forms
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def words(request: Request) -> Words:
    """The texts in this person's language: as they chose, else as their browser says."""
    chosen = request.cookies.get("language", "")
    return words_of(chosen if chosen in LANGUAGES else preferred(request.headers.get("accept-language", "")))


def page(
    request: Request, name: str, /, *, title: str, tab: str = "", run: RunFolder | None = None, status: int = 200,
    **values: Any,
) -> HTMLResponse:  # fmt: skip
    """The template studio/``name``, which extends layout.html.

    ``tab`` is the entry of the navigation that this page is; ``run`` the run that it is about, whose pages are then
    in the navigation too. Every template has besides: ``t`` (`Words`), ``static`` and ``url`` (a URL of a run).
    """
    said, theme = words(request), request.cookies.get("theme", "auto")
    project = project_of(request)
    html = template.render(
        f"studio/{name}",
        t=said, language_code=said.language, languages=LANGUAGES, theme=theme if theme in THEMES else "auto",
        next_theme=THEMES[(THEMES.index(theme) + 1) % 3] if theme in THEMES else "light",
        here=quote(request.scope["path"]) + (f"?{request.url.query}" if request.url.query else ""),
        static=static, url=url, title=title, tab=tab, project=project.folder.name,
        run_name=project.name_of(run) if run else "", **values,
    )  # fmt: skip
    return HTMLResponse(html, status)


def fragment(request: Request, name: str, /, **values: Any) -> HTMLResponse:
    """A piece of a page, from the template studio/``name``."""
    said = words(request)
    return HTMLResponse(template.render(f"studio/{name}", t=said, language_code=said.language, url=url, **values))


def url(name: str, run: str = "", /, **query: object) -> str:
    """The address of a page of a run: /data/NAME?part=train. Empty values are left out."""
    pairs = "&".join(f"{key}={quote(str(value))}" for key, value in query.items() if value not in (None, ""))
    return f"/{name}{'/' + quote(run) if run else ''}{'?' + pairs if pairs else ''}"


def refusal(request: Request, sentence: str, status: int) -> Response:
    """An error as a page for a person, or as JSON for a script."""
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"error": sentence}, status)
    return page(request, "refusal.html", title=words(request)("layout.refused"), sentence=sentence, status=status)
