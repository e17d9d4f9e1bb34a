"""Lines that many documents begin or end with: footers, badges, licence notes. Counted first, then taken off."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

EDGE = 40
"""Lines that are not empty, from each end of a document, among which boilerplate is looked for."""
LEAST, SHARE = 3, 0.2
"""A line is boilerplate when at least so many documents, and at least that share of them, have it at that edge."""
LONG = 8
"""Characters of a line that means something by itself; a shorter one, such as ``}``, takes nothing away."""
LIMIT = 1 << 18
"""Different lines counted at one edge. When there are more, rare ones are let go as Misra and Gries (1982) do it,
which makes a count too low by at most EDGE / LIMIT of the documents, 0.02 %."""

_RULE = re.compile(r"(?:[-*_=][ \t]*){3,}")
_FENCE = re.compile(r"(`{3,}(?=[^`]*$)|~{3,})(.*)")


class Edges:
    """Counts the first and last lines of documents, one document at a time."""

    def __init__(self) -> None:
        self._documents = 0
        self._starts: Counter[bytes] = Counter()
        self._ends: Counter[bytes] = Counter()

    def count(self, text: str) -> None:
        """Take a document into account."""
        lines = [bare for line in text.splitlines() if (bare := line.strip())]
        self._documents += 1
        for counts, edge in ((self._starts, lines[:EDGE]), (self._ends, lines[-EDGE:])):
            counts.update({_key(line) for line in edge})
            while len(counts) > LIMIT:
                for key in [key for key, n in counts.items() if n == 1]:
                    del counts[key]
                counts.subtract(counts.keys())

    def frozen(self) -> Boilerplate:
        """What is boilerplate, by the documents counted so far."""
        least = max(LEAST, math.ceil(SHARE * self._documents))
        starts, ends = (frozenset(k for k, n in c.items() if n >= least) for c in (self._starts, self._ends))
        return Boilerplate(starts, ends)


@dataclass(frozen=True)
class Boilerplate:
    """Hashes of the lines that many documents begin and end with."""

    starts: frozenset[bytes]
    ends: frozenset[bytes]

    def strip(self, text: str) -> tuple[str, list[str]]:
        """The text without the boilerplate at its very start and end, and the lines removed, line ends included.

        What is kept and what is removed, put together, is the text exactly. Blank lines and rules between boilerplate
        lines go with them. A heading 1, front matter and code in fences stay, and so does a document that would lose
        everything, or whose boilerplate fills the whole edge: that is a copy of others, not a footer.
        """
        if not (self.starts or self.ends):
            return text, []
        lines = text.splitlines(keepends=True)
        stays = _blocks(lines)
        head = _run(lines, stays, self.starts)
        tail = len(lines) - _run(lines[::-1], stays[::-1], self.ends)
        kept = "".join(lines[head:tail])
        if not kept.strip():
            return text, []
        return kept, lines[:head] + lines[tail:]


def _key(line: str) -> bytes:
    return hashlib.blake2b(line.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _run(lines: Sequence[str], stays: Sequence[bool], common: frozenset[bytes]) -> int:
    """How many lines from the first on are boilerplate; the innermost of them is one that means something, or the
    rule that sets it off."""
    cut = seen = longest = 0
    for i, line in enumerate(lines):
        bare = line.strip()
        if not bare:
            continue
        rule, known = _RULE.fullmatch(bare), _key(bare) in common
        if stays[i] or not (known or rule):
            return cut if longest >= LONG else 0
        seen += 1
        if seen == EDGE:
            return 0
        if rule:
            set_off = known and cut and not "".join(lines[i + 1 : i + 2]).strip()  # else it may underline a heading
            cut = i + 1 if set_off else cut
        elif len(bare) + sum(c > "\x7f" for c in bare) >= LONG:  # Chinese says in four what takes eight letters
            cut, longest = i + 1, max(longest, len(bare))
    return 0


def _blocks(lines: Sequence[str]) -> list[bool]:
    """For each line whether it must stay: a heading 1, or part of front matter or of a fence (open ones included)."""
    stays = [line.startswith("# ") for line in lines]
    if lines and lines[0].strip() == "---":
        end = next((i for i, line in enumerate(lines) if i and line.strip() in ("---", "...")), -1)
        stays[: end + 1] = [True] * (end + 1)
    fence = ""
    for i, line in enumerate(lines):
        match = _FENCE.fullmatch(line.strip())
        stays[i] |= bool(fence or match)
        if match and not fence:
            fence = match[1]
        elif match and match[1].startswith(fence) and not match[2].strip():
            fence = ""
    return stays
