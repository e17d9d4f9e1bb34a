"""The type that rows become: an `Example`, a conversation of which some turns are learned."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "text"]


@dataclass(frozen=True)
class Message:
    """One turn. The role ``text`` stands alone: raw text without a chat template."""

    role: Role
    content: str
    learn: bool = False


@dataclass(frozen=True)
class Origin:
    """Where something came from: a file, and a line counted from 1 (or the row's index in a JSON array)."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Example:
    """A conversation to learn from.

    ``extra`` holds the row's further keys, untouched: tasks read them (a SQL task its table, say).
    ``group`` names what must not be torn apart by the split; by default the prompt itself, so that
    one question with several answers stays on one side.
    """

    messages: tuple[Message, ...]
    origin: Origin
    extra: dict[str, Any] = field(default_factory=dict, compare=False)
    group: str = ""

    @cached_property
    def id(self) -> str:
        """sha256 of the content, 16 hex digits: the same text has the same id wherever it came from."""
        return _digest([[m.role, m.content, m.learn] for m in self.messages])

    @cached_property
    def split_key(self) -> str:
        """What the split hashes: the group, else everything before the first answer."""
        if self.group:
            return self.group
        prompt: list[list[str]] = []
        for message in self.messages:
            if message.role == "assistant":
                break
            prompt.append([message.role, message.content])
        return _digest(prompt)

    @property
    def answer(self) -> str:
        """The last answer: what a task compares with."""
        return next((m.content for m in reversed(self.messages) if m.role == "assistant"), "")

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the last answer: what a model is asked."""
        last = max((i for i, m in enumerate(self.messages) if m.role == "assistant"), default=len(self.messages))
        return self.messages[:last]

    def to_json(self) -> dict[str, Any]:
        """The row as it stands in ``dataset/*.jsonl``."""
        row: dict[str, Any] = {
            "id": self.id,
            "messages": [{"role": m.role, "content": m.content, "learn": m.learn} for m in self.messages],
            "origin": {"file": self.origin.file, "line": self.origin.line},
        }
        if self.group:
            row["group"] = self.group
        if self.extra:
            row["extra"] = self.extra
        return row

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Example:
        """The inverse of `to_json`."""
        return cls(
            messages=tuple(Message(m["role"], m["content"], m["learn"]) for m in row["messages"]),
            origin=Origin(row["origin"]["file"], row["origin"]["line"]),
            extra=row.get("extra", {}),
            group=row.get("group", ""),
        )


def _digest(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
