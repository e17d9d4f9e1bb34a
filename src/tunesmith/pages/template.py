"""A page that loads nothing and runs nobody's text."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from tunesmith.pages import words
from tunesmith.pages.text import brief, harmless, language

if TYPE_CHECKING:
    from jinja2 import Environment


def render(name: str, /, **values: Any) -> str:
    """The template of that path in this package ("cli/page.html"), filled in.

    Every text among the values is escaped and made `harmless`. A template imports ``pages/macros.html``, whose head
    allows exactly its own style and script to the browser, and includes ``pages/base.css``.
    """
    return _environment().get_template(name).render(**values)


@cache
def _environment() -> Environment:
    import jinja2

    package = resources.files("tunesmith")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda path: package.joinpath(path).read_text("utf-8")),
        autoescape=True, finalize=harmless, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "number": lambda n: f"{n:,}", "many": words.how_many, "percent": words.percent,
        "language": language, "brief": brief, "sha256": _sha256,
    }  # fmt: skip
    return environment


def _sha256(text: str) -> str:
    """As a Content-Security-Policy names an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
