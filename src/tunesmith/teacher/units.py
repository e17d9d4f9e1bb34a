"""What is done piece by piece, and what comes of it.

A unit asks one thing after the other, and says what came of it and which units follow. It decides by the replies alone:
done a second time with the same replies, out of the journal, it gives the same. So nothing that is done needs keeping.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from tunesmith.sources.example import Origin
from tunesmith.teacher.client import Ask
from tunesmith.teacher.lines import Line

What = Literal["question", "follow-up", "passage", "topic", "source"]


@dataclass(frozen=True)
class Taught:
    """A fact with its answer. wordings are learned, held are measured with; follow_up: (question, answer)."""

    wordings: tuple[str, ...]
    answer: str
    origin: Origin
    group: str
    held: tuple[str, ...] = ()
    follow_up: tuple[str, str] | None = None


@dataclass(frozen=True)
class Lost:
    """What became no row: why, and the reply."""

    what: What
    text: str
    fault: str
    reply: str
    origin: Origin


@dataclass(frozen=True)
class Found:
    """A question that people ask about a topic, not answered yet."""

    line: Line


Item = Taught | Lost | Found


@dataclass
class Done:
    """What came of a unit."""

    items: list[Item] = field(default_factory=list)
    further: list[Unit] = field(default_factory=list)


class Unit(Protocol):
    @property
    def origin(self) -> Origin: ...
    @property
    def what(self) -> What: ...
    @property
    def questions(self) -> int:
        """How many questions wait in it, as far as is known."""
        ...

    def work(self, ask: Ask) -> Done:
        """Ask what is to be asked. Raises what ``ask`` raises, but for `Refused`."""
        ...
