"""A page as a browser would find it, for the tests that make one."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

VOID = {"meta", "br", "input", "rect", "path"}

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>",
    "--></style><!--]]>",
    "{{ 7 * 7 }}{% for x in y %}",
    "a\u202egnp.exe\u2066\u200f\u061c\u200b\ufeff",
    "\x00\x1b[31m\x7f\x85\r\n",
    "\ud800 half",
    "&lt;b&gt;",
]
"""Texts that a page must show, and not obey."""


class Page(HTMLParser):
    """The elements with their attributes, and the text; every element is closed."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text, self.headings, self._open = [], "", [], []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] in ("style", "script"):
            return
        self.text += data
        if self._open and self._open[-1] == "h2":
            self.headings.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def assert_inert(harmed, plain):
    """A page with a hostile text has the elements of one with a plain text, runs nothing and leads nowhere."""
    assert {tag for tag, _ in harmed.elements} == {tag for tag, _ in plain.elements}
    assert len(harmed.all("script")) == 1
    for _, attrs in harmed.elements:
        assert not [name for name in attrs if name.startswith("on") or name in ("src", "style", "srcdoc", "action")]
        assert attrs.get("href", "#").startswith("#")
    assert not set(harmed.text) & set("\0\x1b\r\x7f\x85\ud800\u202e\u2066\u200f\u061c\u200b\ufeff")


def assert_closed(page):
    """The policy of a page allows exactly its own style and script, and nothing is loaded."""
    policy = next(m["content"] for m in Page(page).all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "url(" not in page
    assert "@import" not in page
