"""Markdown as a list of blocks: headings, paragraphs, list items, whole fences, tables, quotes and HTML."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]|$)")
_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})([^\n]*)")
_ITEM = re.compile(r"[ \t]*(?:[-*+]|\d{1,9}[.)])(?:[ \t]|$)")
_RULE = re.compile(r" {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})$")
_QUOTE = re.compile(r" {0,3}>")
_HTML = re.compile(r" {0,3}<(?:[a-zA-Z/!?])")
_VERBATIM = re.compile(r" {0,3}<(?:(script|pre|style|textarea)\b|(!--))", re.IGNORECASE)
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")

_CODE = re.compile(r"(`+[^`]+`+)")
_LINK = re.compile(r"!?\[([^\[\]]*)\](?:\([^()]*\)|\[[^\[\]]*\])")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_STARS = re.compile(r"\*(?=\S)([^*]*[^*\s])\*")
_UNDERSCORES = re.compile(r"(?<!\w)(_{1,3})(?=\S)([^_]*(?:\w_\w[^_]*)*[^_\s])\1(?!\w)")
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")

FAR = 1000
"""Lines within which a fence that is indented has to end."""
LONGEST_HEADING = 200
"""Characters; a longer underlined paragraph is a paragraph above a rule, and no heading."""


@dataclass(frozen=True)
class Block:
    """``text[start:end]``, with the blank lines behind it. level: 1 to 6 of a heading, named ``name``; else 0."""

    start: int
    end: int
    level: int = 0
    name: str = ""


def parse(text: str) -> list[Block]:
    """Blocks that follow each other without a gap from the text's beginning to its end."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    blocks: list[Block] = []
    at, start = 0, 0
    while at < len(lines):
        to, level = _block(lines, at, bool(blocks))
        size = sum(map(len, lines[at:to]))
        name = heading("".join(lines[at : to - 1 if _is_setext(lines, to, level) else to])) if level else ""
        while to < len(lines) and not lines[to].strip():
            size += len(lines[to])
            to += 1
        blocks.append(Block(start, start + size, level, name))
        at, start = to, start + size
    return blocks


def _is_setext(lines: list[str], to: int, level: int) -> bool:
    return bool(level) and bool(_UNDERLINE.match(lines[to - 1]))


def _block(lines: list[str], at: int, inside: bool) -> tuple[int, int]:
    """Where the block that begins at this line ends, and its level as a heading."""
    line = lines[at]
    if not inside and line.strip() == "---" and (to := _find(lines, at + 1, "---")):
        return to, 0  # front matter
    if mark := _ATX.match(line):
        return at + 1, len(mark[1])
    if fence := _opening(line):
        return _fence_end(lines, at, fence), 0
    if _RULE.match(line):
        return at + 1, 0
    if _is_table(lines, at):
        return _until(lines, at, lambda k: k > at + 1 and _interrupts(lines, k)), 0
    if _QUOTE.match(line):
        return _until(lines, at, lambda k: not _QUOTE.match(lines[k]) and _interrupts(lines, k)), 0
    if verbatim := _VERBATIM.match(line):
        mark = "-->" if verbatim[2] else f"</{verbatim[1].lower()}>"
        return next((k + 1 for k in range(at, len(lines)) if mark in lines[k].lower()), len(lines)), 0
    if _HTML.match(line):
        return _until(lines, at, lambda k: False), 0
    if _ITEM.match(line):
        return _until(lines, at, lambda k: _interrupts(lines, k)), 0
    return _paragraph(lines, at)


def _until(lines: list[str], at: int, stop: Callable[[int], object]) -> int:
    """The first line behind ``at`` that is blank or where ``stop`` holds."""
    to = at + 1
    while to < len(lines) and lines[to].strip() and not stop(to):
        to += 1
    return to


def _find(lines: list[str], at: int, mark: str) -> int:
    return next((k + 1 for k in range(at, min(len(lines), at + 100)) if lines[k].strip() == mark), 0)


def _opening(line: str) -> str:
    """The marks that open a fence, or nothing."""
    fence = _FENCE.match(line)
    if not fence or (fence[1][0] == "`" and "`" in fence[2]):
        return ""
    return fence[1]


def _fence_end(lines: list[str], at: int, fence: str) -> int:
    # Inside indented code it opens nothing; whether it does there is not looked for without end.
    indented = lines[at].startswith("    ")
    for k in range(at + 1, min(len(lines), at + FAR) if indented else len(lines)):
        text = lines[k].strip()
        if len(text) >= len(fence) and set(text) == {fence[0]}:
            return k + 1
    return at + 1 if indented else len(lines)


def _is_table(lines: list[str], at: int) -> bool:
    if "|" not in lines[at] or at + 1 >= len(lines):
        return False
    under = lines[at + 1].strip()
    return "-" in under and "|" in under and set(under) <= set("|:- \t")


def _interrupts(lines: list[str], at: int) -> bool:
    """Whether a new block begins here though no blank line stands before it."""
    line = lines[at]
    return bool(
        _ATX.match(line) or _opening(line) or _RULE.match(line) or _QUOTE.match(line) or _ITEM.match(line)
        or _VERBATIM.match(line) or _is_table(lines, at)
    )  # fmt: skip


def _paragraph(lines: list[str], at: int) -> tuple[int, int]:
    """A paragraph, or the heading that it is when it is underlined."""
    to = at + 1
    while to < len(lines) and lines[to].strip():
        if underline := _UNDERLINE.match(lines[to]):
            if sum(map(len, lines[at:to])) <= LONGEST_HEADING:
                return to + 1, 1 if underline[1][0] == "=" else 2
            return to, 0
        if _interrupts(lines, to):
            break
        to += 1
    return to, 0


def heading(text: str) -> str:
    """What a heading says, without its marks and those inside it."""
    text = " ".join(text[: 4 * LONGEST_HEADING].split())
    if mark := re.match(r"#{1,6}(?: |$)", text):
        text = re.sub(r"(?:^| )#+$", "", text[mark.end() :])
    parts = _CODE.split(text)
    parts[0::2] = map(_plain, parts[0::2])
    parts[1::2] = [part.strip("`").strip() for part in parts[1::2]]
    return " ".join("".join(parts).split())


def _plain(text: str) -> str:
    for _ in range(2):  # an image in a link
        text = _LINK.sub(r"\1", text)
    text = _TAG.sub("", text).replace("**", "").replace("~~", "")
    return _ESCAPED.sub(r"\1", _UNDERSCORES.sub(r"\2", _STARS.sub(r"\1", text)))
