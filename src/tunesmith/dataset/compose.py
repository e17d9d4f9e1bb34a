"""From a `Document` to rows: a question that names a stretch of it, and the stretch as the answer."""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol

from tunesmith.dataset.blocks import Block, parse
from tunesmith.dataset.tokens import encode
from tunesmith.errors import SourceError
from tunesmith.models.chat import ChatFormat
from tunesmith.sources.document import Document
from tunesmith.sources.example import Example, Message, Origin

BETWEEN = " › "
LEAST = 16
"""Tokens that must be left for question and answer together."""

_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_SENTENCE_END = re.compile(r"[。！？；…]++[”’\"'」』）】》]*\s*|(?<![.!?;])[.!?;]++[\"'”’)\]]*\s+")


@dataclass(frozen=True)
class Stretch:
    """``text[start:end]``, which begins in block ``first`` and ends before block ``last``."""

    start: int
    end: int
    first: int
    last: int


def compose(document: Document, ask: str, system: str, max_tokens: int, chat: ChatFormat) -> Iterator[Example]:
    """The rows of one document, each at most ``max_tokens`` long as it is trained on; none when it is blank.

    The answers, one after the other, are the document's text. Raises `SourceError` when the limit leaves no
    room for question and answer, `ModelError` when the chat template refuses them.
    """
    return divide(document, ask, system, max_tokens, ChatMeasure(chat))


class Measure(Protocol):
    """What counts tokens."""

    def count(self, text: str) -> int:
        """Of a text by itself."""
        ...

    def size(self, row: Example) -> int:
        """Of a whole row."""
        ...


class ChatMeasure:
    """Counts as a model does that is trained on the rows."""

    def __init__(self, chat: ChatFormat) -> None:
        self._chat = chat

    def count(self, text: str) -> int:
        return len(self._chat.encode(self._chat.shield(text)))

    def size(self, row: Example) -> int:
        return sum(len(s.ids) for s in encode(row, self._chat, sys.maxsize))


def divide(document: Document, ask: str, system: str, max_tokens: int, measure: Measure) -> Iterator[Example]:
    """`compose`, by whatever counts the tokens."""
    if not document.text.strip():
        return
    form = _Form(document, ask, system, max_tokens, measure)
    blocks = parse(document.text)
    whole = Stretch(0, len(document.text), 0, len(blocks))
    division = _Division(document.text, blocks, form)
    if division.tokens(0, len(blocks)) <= 2 * max_tokens:  # the sum is a little more than the text has
        leading = len(document.text) - len(document.text.lstrip())
        row = form.row(form.title, [], 1 + document.text.count("\n", 0, leading), document.text)
        if form.size(row) <= max_tokens:
            yield row
            return
    form.check_room()
    stretches = [whole] if division.fits(0, len(blocks)) else list(division.sections(0, len(blocks)))
    while True:
        rows = list(_rows(stretches, division, form))
        over = {s: excess for s, row in rows if (excess := form.size(row) - max_tokens) > 0}
        if not over:
            yield from (row for _, row in rows)
            return
        stretches = [p for s, _ in rows for p in (division.finer(s, over[s]) if s in over else [s])]


def _rows(stretches: list[Stretch], division: _Division, form: _Form) -> Iterator[tuple[Stretch, Example]]:
    """The row of each stretch; those with the same question are numbered."""
    text = division.text
    stretches = [s for s in stretches if text[s.start : s.end].strip()]
    paths = [division.path_of(s) for s in stretches]
    labels = [form.label(path) for path in paths]
    total, seen = Counter(labels), Counter[str]()
    line, at = 1, 0
    for stretch, path, label in zip(stretches, paths, labels, strict=True):
        seen[label] += 1
        number = f" ({seen[label]}/{total[label]})" if total[label] > 1 else ""
        answer = text[stretch.start : stretch.end]
        begin = stretch.start + len(answer) - len(answer.lstrip())
        line, at = line + text.count("\n", at, begin), begin
        yield stretch, form.row(label + number, path, line, answer)


class _Form:
    """How the rows of one document are worded and counted."""

    def __init__(self, document: Document, ask: str, system: str, max_tokens: int, measure: Measure) -> None:
        self._document, self._ask, self._system = document, ask, system
        self.size, self.count, self._limit = measure.size, measure.count, max_tokens
        self.title = " ".join(document.title.split())
        self._labels: dict[tuple[str, ...], tuple[str, int]] = {}
        numbered = self.count(" (888/888)")
        self.room = max_tokens - self.size(self.row("a", [], 1, "a")) - numbered
        """Tokens for a title and an answer."""

    def row(self, label: str, path: list[str], line: int, answer: str) -> Example:
        messages = [Message("system", self._system)] if self._system else []
        messages.append(Message("user", self._ask.replace("{title}", label)))
        messages.append(Message("assistant", _trimmed(answer), learn=True))
        file = self._document.origin.file
        return Example(tuple(messages), Origin(file, line, BETWEEN.join(path)), group=file)

    def label(self, path: list[str]) -> str:
        """What {title} becomes: the title and the path, shortened where it would take half of the room."""
        return self._label(tuple(path))[0]

    def label_tokens(self, path: list[str]) -> int:
        return self._label(tuple(path))[1]

    def _label(self, path: tuple[str, ...]) -> tuple[str, int]:
        if path not in self._labels:
            made = ((label, self.count(label)) for label in _shorter([self.title, *path]))
            found = next((m for m in made if m[1] <= self.room // 2), None)
            if found is None:
                raise self.too_small()
            self._labels[path] = found
        return self._labels[path]

    def check_room(self) -> None:
        if self.room < LEAST:
            raise self.too_small()

    def too_small(self) -> SourceError:
        return SourceError(
            f"{self._document.origin}: {self._limit} tokens leave no room for a part of this document behind its "
            "question; raise data.max_tokens"
        )


def _shorter(parts: list[str]) -> Iterator[str]:
    """The heading path, and ever shorter ways to say it."""
    yield BETWEEN.join(parts)
    if len(parts) > 2:
        yield BETWEEN.join([parts[0], "…", parts[-1]])
    for most in (80, 40, 20, 10):
        yield BETWEEN.join(_clip(part, most) for part in dict.fromkeys((parts[0], parts[-1])))
    for most in (20, 10, 5, 2):
        yield _clip(parts[0], most)


def _clip(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _trimmed(text: str) -> str:
    """Without blank lines at its ends; the first line keeps its indentation."""
    text = text.rstrip()
    return text[text.rfind("\n", 0, len(text) - len(text.lstrip())) + 1 :]


class _Division:
    """Where a document is divided, so that each stretch fits with the question that names it."""

    def __init__(self, text: str, blocks: list[Block], form: _Form) -> None:
        self.text, self._blocks, self._form = text, blocks, form
        self._sums = [0, *accumulate(form.count(text[b.start : b.end]) for b in blocks)]
        self._above = _headings_above(blocks)
        self._ends = max((k + 1 for k, b in enumerate(blocks) if not b.level), default=0)
        """Behind the last block that is not a heading."""

    def tokens(self, i: int, j: int) -> int:
        """Of the blocks from i to j, counted one by one."""
        return self._sums[j] - self._sums[i]

    def fits(self, i: int, j: int) -> bool:
        return self.tokens(i, j) <= self._form.room - self._form.label_tokens(self.path(i, j))

    def path_of(self, stretch: Stretch) -> list[str]:
        whole = stretch.end == self._blocks[stretch.last - 1].end
        return self.path(stretch.first, stretch.last, whole=whole)

    def path(self, i: int, j: int, *, whole: bool = True) -> list[str]:
        """The headings that the blocks from i to j stand under, without the title; several sections are named
        one after the other. whole: the last of these blocks is not divided."""
        if whole and (i, j) == (0, len(self._blocks)):
            return []
        above, heads = list(self._above[i]), [b for b in self._blocks[i : min(j, self._ends)] if b.level]
        at = i
        while heads and self._blocks[at] is heads[0] and all(h.level > heads[0].level for h in heads[1:]):
            above.append(heads.pop(0))
            if whole and (j == len(self._blocks) or 0 < self._blocks[j].level <= above[-1].level):
                heads = []  # all of the section: its own heading says it
            at = min(at + 1, j - 1)
        top = min((h.level for h in heads), default=7)
        path = [h.name for h in above if h.level < top]
        names = [h.name for h in heads if h.level == top and not self._is_title(h.name)]
        path = [name for name in path if name]
        if path and self._is_title(path[0]):
            path = path[1:]
        return [*path, _joined(names)] if any(names) else path

    def _is_title(self, name: str) -> bool:
        return _bare(name) == _bare(self._form.title)

    # -- at headings -----------------------------------------------------------------------------

    def sections(self, i: int, j: int) -> Iterator[Stretch]:
        """Divided at the highest headings, small sections together; what is too large for itself, further."""
        cuts = self._cuts(i, j)
        if not cuts:
            yield from self._pieces(i, j)
            return
        bounds, at = [i, *cuts, j], 0
        while at < len(bounds) - 1:
            to = self._reach(bounds, at)
            if to > at:
                yield self._stretch(bounds[at], bounds[to])
            else:
                to = at + 1
                yield from self.sections(bounds[at], bounds[to])
            at = to

    def _cuts(self, i: int, j: int) -> list[int]:
        """The highest headings between i and j. Headings in a row stay together, and with the text behind them."""
        top, cuts = 7, list[int]()
        k = i + 1
        while k < min(j, self._ends):
            run = k
            while run < j and self._blocks[run].level:
                run += 1
            if run > k and not self._blocks[k - 1].level:
                level = min(b.level for b in self._blocks[k:run])
                if level < top:
                    top, cuts = level, []
                if level == top:
                    cuts.append(k)
            k = run + 1
        return cuts

    def _reach(self, bounds: list[int], at: int) -> int:
        """The last bound up to which everything from ``at`` on fits together."""
        most = self._sums[bounds[at]] + self._form.room
        to = bisect_right(bounds, most, key=lambda k: self._sums[k]) - 1
        while to > at and not self.fits(bounds[at], bounds[to]):
            to -= 1
        return to

    def _stretch(self, i: int, j: int) -> Stretch:
        return Stretch(self._blocks[i].start, self._blocks[j - 1].end, i, j)

    # -- at blocks, and inside them --------------------------------------------------------------

    def _pieces(self, i: int, j: int) -> Iterator[Stretch]:
        """Blocks of one section, in stretches of like size, as few as possible."""
        text_at = next((k for k in range(i, j) if not self._blocks[k].level), i)
        room = self._form.room - self._form.label_tokens(self.path(text_at, text_at + 1))
        parts = list[tuple[Stretch, int]]()
        lead = i
        for k in range(i, j):
            if self._blocks[k].level and k + 1 < j:
                continue  # goes with the text behind it
            end = j if k + 1 == self._ends else k + 1  # headings at the document's end go with the last text
            if k >= self._ends > i:
                break
            parts += self._block(lead, k, end, room)
            lead = end
        yield from _together(parts, room)

    def _block(self, lead: int, k: int, end: int, room: int) -> list[tuple[Stretch, int]]:
        """Block k with the headings before it (from ``lead``) and behind it (up to ``end``), divided if it must be."""
        total = self.tokens(lead, end)
        around = total - self.tokens(k, k + 1)
        if total <= room:
            return [(self._stretch(lead, end), total)]
        if around > room // 2:
            return [p for n in range(lead, end) for p in self._inside(self._stretch(n, n + 1), room)]
        parts = self._inside(self._stretch(k, k + 1), room - around)
        (first, first_tokens), (last, last_tokens) = parts[0], parts[-1]
        parts[0] = Stretch(self._blocks[lead].start, first.end, lead, k + 1), first_tokens + self.tokens(lead, k)
        if len(parts) == 1:
            last, last_tokens = parts[0]
        parts[-1] = (
            Stretch(last.start, self._blocks[end - 1].end, last.first, end),
            last_tokens + self.tokens(k + 1, end),
        )
        return parts

    def _inside(self, whole: Stretch, room: int) -> list[tuple[Stretch, int]]:
        """The parts of a stretch by lines; of longer lines, by sentences; of longer sentences, by characters."""
        made = list[tuple[Stretch, int]]()
        steps: list[Callable[[str], list[str]]] = [_by_lines, _by_sentences, lambda t: _by_characters(t, room)]
        waiting, at = [(self.text[whole.start : whole.end], 0)], whole.start
        while waiting:
            text, step = waiting.pop()
            tokens = self._form.count(text)
            if tokens <= room or step == len(steps):
                made.append((Stretch(at, at + len(text), whole.first, whole.last), tokens))
                at += len(text)
            else:
                waiting += [(part, step + 1) for part in reversed(steps[step](text))]
        return made

    def finer(self, stretch: Stretch, excess: int) -> list[Stretch]:
        """A stretch that is too long by some tokens as a row, divided again."""
        tokens = self._form.count(self.text[stretch.start : stretch.end])
        room = tokens - excess - tokens // 8 - 1
        parts = self._inside(stretch, room) if room > 0 else []
        if len(parts) < 2:
            raise self._form.too_small()
        return list(_together(parts, room))


def _bare(title: str) -> str:
    """Without what differs between a heading and how an index names the document: case, spaces, Chinese title marks."""
    return "".join(title.split()).casefold().removeprefix("《").removesuffix("》")


def _headings_above(blocks: list[Block]) -> list[tuple[Block, ...]]:
    """For each block the headings it stands under, the highest first."""
    above, found = tuple[Block, ...](), list[tuple[Block, ...]]()
    for block in blocks:
        if block.level:
            above = tuple(h for h in above if h.level < block.level)
        found.append(above)
        if block.level:
            above = (*above, block)
    return found


def _joined(names: list[str]) -> str:
    """Names of sections that stand together, bounded."""
    names = [name for name in names if name]
    if len(names) <= 3 and sum(map(len, names)) <= 100:
        return "; ".join(names)
    return f"{_clip(names[0], 50)} … {_clip(names[-1], 50)}"


def _together(parts: list[tuple[Stretch, int]], room: int) -> Iterator[Stretch]:
    """Neighbours joined into as few stretches as fit, of like size."""
    sizes = [tokens for _, tokens in parts]
    high = max([room, *sizes])
    fewest = len(_groups(sizes, high))
    low = max([-(-sum(sizes) // fewest), *sizes])
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_groups(sizes, middle)) == fewest else (middle + 1, high)
    at = 0
    for to in _groups(sizes, high):
        first, last = parts[at][0], parts[to - 1][0]
        yield Stretch(first.start, last.end, first.first, last.last)
        at = to


def _groups(sizes: list[int], room: int) -> list[int]:
    """Where each group ends when each takes as many as fit."""
    ends, used = list[int](), 0
    for k, size in enumerate(sizes):
        if k and used + size > room:
            ends.append(k)
            used = 0
        used += size
    return [*ends, len(sizes)]


def _by_lines(text: str) -> list[str]:
    return _LINES.findall(text)


def _by_sentences(text: str) -> list[str]:
    ends = [0, *(m.end() for m in _SENTENCE_END.finditer(text)), len(text)]
    return [text[a:b] for a, b in pairwise(ends) if a < b]


def _by_characters(text: str, room: int) -> list[str]:
    """Slivers, at spaces where there are some: a character may take four tokens, or a few more."""
    most = max(1, room // 16)
    return re.findall(rf"(?s:.{{1,{most}}}(?<=\s)|.{{1,{most}}})", text)
