"""The types that files of prose become: `Unread`, then a `Document`, not yet cut into rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunesmith.sources.example import Origin
from tunesmith.sources.quarantine import Quarantined


@dataclass(frozen=True)
class Document:
    """A text in Markdown that stays together in the split.

    title: from an index that lists it, else its first heading, else the file's name.
    origin: its file, without a line.
    """

    text: str
    title: str
    origin: Origin


@dataclass(frozen=True)
class Unread:
    """A file of prose that is still to be read, by `documents.read_later` in whatever process.

    listed: the line of the index that leads to it, quarantined in its place when the file cannot be opened.
    """

    path: Path
    name: str
    title: str = ""
    listed: Quarantined | None = None

    @property
    def size(self) -> int:
        """Bytes, as far as they say how long it takes: converting takes longer than reading."""
        try:
            return 8 * self.path.stat().st_size
        except OSError:
            return 0
