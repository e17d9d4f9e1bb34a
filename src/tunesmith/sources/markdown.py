"""What a text in Markdown says of itself, its headings and front matter; and how it is put in order."""

from __future__ import annotations

import re


def first_heading(text: str) -> str | None:
    """The first ATX or Setext heading of a Markdown text that is not inside a code fence."""
    fence, before = "", ""
    lines = text.split("\n")
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if mark := re.match(r" {0,3}(`{3,}|~{3,})", line):
            if not fence:
                fence = mark[1]
            elif mark[1].startswith(fence) and not line.strip(" `~"):
                fence = ""
        elif not fence:
            found = _atx(line) or _setext(before, line, below)
            if found:
                return found
        before = line
    return None


def _atx(line: str) -> str | None:
    mark = re.match(r" {0,3}#{1,6}[ \t]+(.*)", line)
    return _plain(re.sub(r"[ \t]#+[ \t]*$", "", mark[1])) if mark else None


def _setext(before: str, line: str, below: str) -> str | None:
    """Only a line that stands alone: a rule below a paragraph is meant as a rule."""
    alone = not before.strip(" =-~*#`")
    if alone and re.fullmatch(r" {0,3}(=+|-{2,})[ \t]*", below) and re.match(r" {0,3}\w|[《「“\"(\[]", line):
        return _plain(line)
    return None


def _plain(heading: str) -> str | None:
    """A heading's words, without links, emphasis and tags."""
    heading = re.sub(r"!?\[([^\[\]]*)\]\([^()]*\)", r"\1", heading[:1000])
    heading = re.sub(r"<[^<>]*>|\*\*|__|`", "", heading)
    return one_line(heading)


def one_line(text: str | None) -> str | None:
    return " ".join(text.split()) or None if text else None


def tidy(text: str) -> str:
    """One kind of newline; no NUL, no mark, and nothing that UTF-8 cannot say."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n").replace("\0", "")
    text = text.removeprefix("\ufeff").encode("utf-8", "replace").decode()
    return text.strip("\n").rstrip() if text.strip() else ""


_MATTER = re.compile(r"---[ \t]*\n(.*?)(?<=\n)(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)


def front_matter(text: str) -> tuple[str | None, str]:
    """The title in YAML front matter, and the text without it. Text between two rules is no front matter."""
    found = _MATTER.match(text)
    if not found or len(found[1]) > 1 << 16:
        return None, text
    lines = found[1].rstrip("\n").split("\n")
    if not all(re.match(r"\s|$|#|- |[^\s:]+\s*:(\s|$)", line) for line in lines):
        return None, text
    title = None
    for line in lines:
        if (given := re.match(r"title\s*:\s+(.*)", line, re.IGNORECASE)) and given[1].strip() not in ("", ">", "|"):
            value = given[1].strip()
            quoted = re.fullmatch(r"(['\"])(.*)\1", value)
            title = title or one_line(quoted[2].replace(quoted[1] * 2, quoted[1]) if quoted else value)
    return title, tidy(text[found.end() :])
