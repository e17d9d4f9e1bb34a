"""A blog's index: a Markdown file of which each line links an article that lies beside it.

##### 201801/20180101_01.md   [《A title》](201801/20180101_01.md)
- [A title that [holds] brackets](<articles/with spaces.md> "and a caption")
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import unquote

from tunesmith.errors import SourceError
from tunesmith.sources.document import Unread
from tunesmith.sources.documents import read_bytes
from tunesmith.sources.example import Origin
from tunesmith.sources.quarantine import SHOWN, Quarantined
from tunesmith.sources.text import Unreadable, decode

LONGEST = 100_000
"""Characters of a line in which links are looked for."""


class Link(NamedTuple):
    title: str
    target: str


def read_blog_index(path: Path, name: str, marker: str | None, filter: str | None) -> Iterator[Unread | Quarantined]:
    """One Unread, or one Quarantined, for every link to a file below the index's folder, in the index's order.

    Only lines behind the one that contains ``marker`` count, and of them only those that hold the word
    ``filter``, whatever its case. Raises `SourceError` when the index cannot be read, has no such line, or
    lists nothing.
    """
    try:
        lines = re.split(r"\r\n|\r|\n", decode(read_bytes(path)))
    except Unreadable as reason:
        raise SourceError(f"{path} is no index: {reason}") from None
    listed: dict[Path, Quarantined] = {}
    start = _start(lines, marker, path)
    for number, line in enumerate(lines[start:], start + 1):
        if filter is None or filter.casefold() in line.casefold():
            for link in links_of(line):
                if target := _target(link.target, path):
                    entry = Quarantined(Origin(name, number), "", line.strip()[:SHOWN])
                    yield _read(link, target, entry, path, listed)
    if not listed:
        where = f" behind {marker!r}" if marker else ""
        which = f" whose line holds {filter!r}" if filter else ""
        raise SourceError(f"{path} lists no article{where}{which}; check marker and filter")


def articles(path: Path, marker: str | None, filter: str | None) -> Iterator[Path]:
    """The files that the index leads to, as far as they are there."""
    try:
        lines = re.split(r"\r\n|\r|\n", decode(read_bytes(path)))
    except Unreadable:
        return
    found = set[Path]()
    for line in lines[_start(lines, marker, path) :]:
        if filter is None or filter.casefold() in line.casefold():
            found |= {t for link in links_of(line) if (t := _target(link.target, path)) and _kind(t) == "file"}
    yield from sorted(found)


def links_of(line: str) -> Iterator[Link]:
    """The links of a line of Markdown, images left out. Titles may hold brackets, escaped or not, in pairs or not."""
    line = _IMAGE.sub("", line[:LONGEST])
    line = re.sub(r"^[\s>#*+-]*\[[ xX]\]\s", "", line)  # the box of a task
    begin = 0
    for middle in re.finditer(r"(?<!\\)\]\(", line):
        opening = _opening(line, begin, middle.start())
        found = _TARGET.match(line, middle.end())
        if found and opening is not None and middle.start() >= begin:
            title = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", line[opening + 1 : middle.start()])
            target = next(group for group in found.groups() if group is not None)
            yield Link(" ".join(title.split()), target.strip())
            begin = found.end()


_IMAGE = re.compile(r"!\[[^\[\]]*\]\([^()]*\)")
_TARGET = re.compile(
    r"""\s*(?:<([^<>]*)>|((?:[^()<]|\([^()]*\))*?))(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)"""  # as Markdown has it
    r"|([^)]*)\)"  # or whatever else stands there
)
_BRACKET = re.compile(r"(?<!\\)[\[\]]")


def _start(lines: list[str], marker: str | None, path: Path) -> int:
    """How many lines to leave out."""
    if not marker:
        return 0
    for number, line in enumerate(lines, 1):
        if marker in line:
            return number
    headings = [line.strip() for line in lines if re.match(r" {0,3}#{1,6}\s", line)]
    near = difflib.get_close_matches(marker, headings, 1, cutoff=0)
    hint = f"; the nearest heading is {near[0]!r}" if near else ""
    raise SourceError(f"{path} has no line with the marker {marker!r}{hint}")


def _opening(line: str, begin: int, end: int) -> int | None:
    """Where the [ stands that the ] at ``end`` closes; the first one when they do not come in pairs."""
    places = [place.start() for place in _BRACKET.finditer(line, begin, end)]
    first = next((place for place in places if line[place] == "["), None)
    depth = 1
    for place in reversed(places):
        depth += 1 if line[place] == "]" else -1
        if depth == 0:
            closed = any(line[other] == "]" for other in places if first is not None and first < other < place)
            return place if closed else first
    return first


def _target(target: str, index: Path) -> Path | None:
    """The file that a link means, there or not; None for the web, and for places in the index itself."""
    if re.match(r"(?!file:)[a-z][a-z0-9+.-]+:|//", target, re.IGNORECASE):
        return None
    bare = target.split("#")[0].split("?")[0]
    if not bare:
        return None
    folder = index.parent
    wanted = [folder / way.replace("\0", "") for way in (unquote(bare), bare, target)]
    return next((path for path in wanted if _kind(path) == "file"), wanted[0])


def _kind(path: Path) -> Literal["file", "folder", ""]:
    try:
        return "file" if path.is_file() else "folder" if path.is_dir() else ""
    except OSError:  # such as a name that is too long
        return ""


def _read(
    link: Link, target: Path, line: Quarantined, index: Path, listed: dict[Path, Quarantined]
) -> Unread | Quarantined:
    """``line`` is the index's line, to be quarantined with a reason when the article cannot be read."""

    def because(reason: str) -> Quarantined:
        return Quarantined(line.origin, reason, line.text)

    folder = index.parent.resolve()
    whole = Path(os.path.realpath(target))  # Path.resolve() fails on links that go round in circles
    first = listed.setdefault(whole, line)
    if not whole.is_relative_to(folder):
        return because(f"{link.target} lies outside the index's folder; move the article into it")
    if first is not line:
        return because(f"listed again; it is already there from line {first.origin.line}")
    name = (Path(line.origin.file).parent / whole.relative_to(folder)).as_posix()
    kind = _kind(whole)
    if kind != "file":
        what = "is a folder; link the article in it" if kind else "is missing; get it, or take out its line"
        return because(f"the article {what}")  # which one says the line
    return Unread(whole, name, link.title, line)
