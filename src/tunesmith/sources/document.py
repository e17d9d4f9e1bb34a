"""The type that files of prose become: a `Document`, not yet cut into rows."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.sources.example import Origin


@dataclass(frozen=True)
class Document:
    """A text in Markdown that stays together in the split.

    title: from an index that lists it, else its first heading, else the file's name.
    origin: its file, without a line.
    """

    text: str
    title: str
    origin: Origin
