"""Scripts and styles under names that change with what is in them, so that a browser may keep them for ever."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from pathlib import PurePosixPath

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
"""Not what this machine believes: where a registry says otherwise of .js, browsers would run nothing."""


@cache
def _files() -> tuple[str, dict[str, bytes]]:
    """(their version, content by path): read once, so that a path in a URL never reaches the disk."""
    package = resources.files("tunesmith")
    found = {name: (package / "pages" / name).read_bytes() for name in ("base.css", "tokens.css")}
    waiting = [("", package / "studio" / "static")]
    while waiting:
        path, folder = waiting.pop()
        for entry in folder.iterdir():
            if entry.is_dir():
                waiting.append((f"{path}{entry.name}/", entry))
            else:
                found[path + entry.name] = entry.read_bytes()
    digest = hashlib.sha256(b"".join(name.encode() + found[name] for name in sorted(found)))
    return digest.hexdigest()[:12], found


def static(name: str) -> str:
    """The URL of a file in static/."""
    version, found = _files()
    if name not in found:
        raise KeyError(f"no static file {name}")
    return f"/static/{version}/{name}"


def _serve(request: Request) -> Response:
    version, found = _files()
    name = request.path_params["name"]
    if name not in found:
        raise HTTPException(404)
    kind = KINDS.get(PurePosixPath(name).suffix, "text/plain")
    same = request.path_params["version"] == version
    caching = "public, max-age=31536000, immutable" if same else "no-store"
    return Response(found[name], media_type=kind, headers={"Cache-Control": caching})


routes = [Route("/static/{version}/{name:path}", _serve)]
