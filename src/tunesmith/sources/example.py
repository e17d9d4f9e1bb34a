"""The type that rows become: an `Example`, a conversation of which some turns are learned."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import orjson

Role = Literal["system", "user", "assistant", "tool", "text"]


class Message(NamedTuple):
    """One turn. The role ``text`` stands alone: raw text without a chat template. A call of a tool is an
    assistant's turn, its result a turn of the role ``tool``."""

    role: Role
    content: str
    learn: bool = False


class Origin(NamedTuple):
    """Where something came from, as precisely as the file can say.

    file: as the recipe names it; line: counted from 1 (for tables the row, the header is not one);
    part: what lies inside the file, such as a sheet, a database's table or a heading.
    """

    file: str
    line: int | None = None
    part: str = ""

    def __str__(self) -> str:
        """``notes.xlsx [Sales]:12``"""
        return self.file + (f" [{self.part}]" if self.part else "") + (f":{self.line}" if self.line else "")

    def to_json(self) -> dict[str, Any]:
        if self.line and not self.part:
            return {"file": self.file, "line": self.line}
        return {k: v for k, v in (("file", self.file), ("line", self.line), ("part", self.part)) if v}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Origin:
        """The inverse of `to_json`."""
        return cls(raw["file"], raw.get("line"), raw.get("part", ""))


class Written(NamedTuple):
    """A row in JSON.

    id: see `Example.id`; line: as it stands in ``dataset/*.jsonl``, without the newline; texts: of its turns.
    """

    id: str
    line: bytes
    texts: list[bytes]


@dataclass(frozen=True)
class Example:
    """A conversation to learn from.

    ``extra`` holds the row's further keys, untouched: tasks read them (a SQL task its table, say). Three have
    a meaning here: ``tools`` (a list of OpenAI's tool descriptions), which the template gets; ``rejected`` (the
    worse answer of a preference pair) and ``label`` (False: a bad answer), for training on preferences.
    ``notes`` say what was changed in reading, one of a few fixed sentences each.
    ``group`` names what must not be torn apart by the split (a document, a table); empty: the question.
    """

    messages: tuple[Message, ...]
    origin: Origin
    extra: dict[str, Any] = field(default_factory=dict, compare=False)
    group: str = ""
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def id(self) -> str:
        """sha256 of the content, 16 hex digits: the same text has the same id wherever it came from
        (of a document or table: in the same one)."""
        return self.written().id

    def written(self) -> Written:
        """The row in JSON. A text is encoded once, for the id and the line: that takes longer than all else."""
        told = {key: self.extra[key] for key in _TOLD if key in self.extra} if self.extra else {}
        try:
            texts = [orjson.dumps(m.content) for m in self.messages]
            about = orjson.dumps(self._about())
            more = orjson.dumps([self.group, told])[1:] if told or self.group else b""
        except TypeError:  # half a character, or a number of more than 64 bits
            return self._written_slowly(told)
        hashed, turns, comma = [b"[[" if more else b"["], [b'","messages":['], b""
        for message, text in zip(self.messages, texts, strict=True):
            bare, named, behind, behind_named = _TURN[message.role, message.learn]
            hashed += comma, bare, text, behind
            turns += comma, named, text, behind_named
            comma = b","
        hashed += b"]," if more else b"]", more
        digest = hashlib.sha256(b"".join(hashed)).hexdigest()[:16]
        return Written(digest, b"".join([b'{"id":"', digest.encode(), *turns, b"],", about[1:]]), texts)

    def _written_slowly(self, told: dict[str, Any]) -> Written:
        turns: list[Any] = [[m.role, m.content, m.learn] for m in self.messages]
        value = [turns, self.group, told] if told or self.group else turns
        digest = _digest(value)
        line = json.dumps(self._to_json(digest), ensure_ascii=False).encode("utf-8", "backslashreplace")
        return Written(digest, line, [json.dumps(m.content).encode() for m in self.messages])

    @property
    def answer(self) -> str:
        """The last answer: what a task compares with."""
        return next((m.content for m in reversed(self.messages) if m.role == "assistant"), "")

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the last answer: what a model is asked."""
        if self.messages[-1].role == "assistant":
            return self.messages[:-1]
        last = max((i for i, m in enumerate(self.messages) if m.role == "assistant"), default=len(self.messages))
        return self.messages[:last]

    @property
    def size(self) -> int:
        """Characters of its turns."""
        return sum(len(m.content) for m in self.messages)

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The `prompt` as a chat template takes it."""
        return [{"role": m.role, "content": m.content} for m in self.prompt]

    def to_json(self) -> dict[str, Any]:
        """The row as it stands in ``dataset/*.jsonl``."""
        return self._to_json(self.id)

    def _to_json(self, id: str) -> dict[str, Any]:
        return {"id": id, "messages": [m._asdict() for m in self.messages], **self._about()}

    def _about(self) -> dict[str, Any]:
        """What stands in the row behind its turns."""
        row: dict[str, Any] = {"origin": self.origin.to_json()}
        if self.group:
            row["group"] = self.group
        if self.extra:
            row["extra"] = self.extra
        if self.notes:
            row["notes"] = self.notes
        return row

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Example:
        """The inverse of `to_json`."""
        return cls(
            messages=tuple(Message(m["role"], m["content"], m["learn"]) for m in row["messages"]),
            origin=Origin.from_json(row["origin"]),
            extra=row.get("extra", {}),
            group=row.get("group", ""),
            notes=tuple(row.get("notes", ())),
        )


_TOLD = ("tools", "rejected", "label")
"""The keys of ``extra`` that are part of the content."""
# What stands around the text of a turn: in what is hashed, and in the row.
_TURN = {
    (role, learn): (
        f'["{role}",'.encode(),
        f'{{"role":"{role}","content":'.encode(),
        f",{said}]".encode(),
        f',"learn":{said}}}'.encode(),
    )
    for role in get_args(Role)
    for learn, said in ((True, "true"), (False, "false"))
}


def _digest(value: Any) -> str:
    try:
        data = orjson.dumps(value)
    except TypeError:  # half a character
        data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()[:16]
