"""What happens to each row by itself, in any process: read, given a system message, redacted, weighed."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import orjson

from tunesmith.dataset.compose import compose
from tunesmith.dataset.personal import find, redact
from tunesmith.dataset.similar import normal
from tunesmith.dataset.split import group_of, share_of
from tunesmith.dataset.tokens import encode
from tunesmith.errors import ModelError, SourceError
from tunesmith.models.chat import ChatFormat
from tunesmith.settings import DataSettings
from tunesmith.sources.document import Document
from tunesmith.sources.example import Example, Message
from tunesmith.sources.quarantine import Quarantined
from tunesmith.sources.rows import Block, read_block

KEYS = np.dtype([
    ("content", "u8"),  # the whole row: equal for rows that repeat each other exactly
    ("question", "u8"),  # all before the last answer
    ("answer", "u8"),
    ("asked", "u8"),  # the question without regard to case, spaces and punctuation; its own for rows of a table
    ("group", "u8"),  # what the split must not tear apart: see `split.group_of`
    ("own", "?"),  # the group is a document or a table, not the question itself
    ("share", "f8"),  # where the group falls in [0, 1): decides the part
    ("bad", "?"),  # marked as an answer not to give
    ("preference", "?"),  # says which of two answers is better
])  # fmt: skip
"""What is decided from, for each row: small enough for millions of rows in memory."""


@dataclass(frozen=True)
class Work:
    """One piece of a source, small enough to be sent to another process."""

    pieces: Block | list[Example] | list[Document]
    data: DataSettings
    model: Path
    """The model's folder: a document is divided by its tokens."""


@dataclass
class Digest:
    """The rows of one piece, as lines of JSON, with their keys; what could not be used; what was noticed."""

    lines: list[bytes] = field(default_factory=list)
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, KEYS))
    quarantined: list[Quarantined] = field(default_factory=list)
    inputs: int = 0
    noted: Counter[str] = field(default_factory=Counter)
    personal: Counter[str] = field(default_factory=Counter)
    personal_at: dict[str, str] = field(default_factory=dict)
    """Kind -> the first place."""


def digest(work: Work) -> Digest:
    """Every row of one piece."""
    made, keys = Digest(), []
    for item in _items(work, made):
        if isinstance(item, Quarantined):
            made.quarantined.append(item)
            continue
        example = _cleaned(_with_system(item, work.data.system), work.data, made)
        made.noted.update(example.notes)
        made.lines.append(row_line(example))
        keys.append(_keys(example, work.data.seed))
    made.keys = np.array(keys, KEYS)
    return made


def _items(work: Work, made: Digest) -> Iterable[Example | Quarantined]:
    if isinstance(work.pieces, Block):
        for item in read_block(work.pieces):
            made.inputs += 1
            yield item
        return
    made.inputs += len(work.pieces)
    for piece in work.pieces:
        if isinstance(piece, Example):
            yield piece
            continue
        try:
            rows = list(compose(piece, work.data.ask, work.data.system, work.data.max_tokens, chat_format(work.model)))
        except (SourceError, ModelError) as error:
            rows = [Quarantined(piece.origin, str(error), piece.text)]
        yield from rows or [Quarantined(piece.origin, "nothing is left of it but repeated lines", piece.text)]


@lru_cache(1)
def chat_format(folder: Path) -> ChatFormat:
    """The model's template and tokenizer, once in a process."""
    return ChatFormat(folder)


def _with_system(example: Example, system: str) -> Example:
    if not system or example.messages[0].role in ("system", "text"):
        return example
    return replace(example, messages=(Message("system", system), *example.messages))


def _cleaned(example: Example, data: DataSettings, made: Digest) -> Example:
    """Personal data is counted, and replaced where the settings ask for it."""
    found = find("\n".join(m.content for m in example.messages))
    for kind, n in Counter(f.kind for f in found).items():
        made.personal[kind] += n
        made.personal_at.setdefault(kind, str(example.origin))
    if not found or not data.clean.redact:
        return example
    redacted = [replace(m, content=redact(m.content, data.clean.redact)[0]) for m in example.messages]
    return replace(example, messages=tuple(redacted))


def row_line(example: Example) -> bytes:
    """The row as it stands in ``dataset/*.jsonl``, without the newline."""
    try:
        return orjson.dumps(example.to_json())
    except TypeError:  # half a character, or a number of more than 64 bits
        return json.dumps(example.to_json(), ensure_ascii=False).encode("utf-8", "backslashreplace")


def _keys(example: Example, seed: int) -> tuple[object, ...]:
    question = "\n".join(m.content.strip() for m in example.prompt)
    group = group_of(example)
    # A question about a table is another one about another table; a document's is asked by its title.
    asked = _hash(group if not example.group else f"{group}\0{question}" if example.extra else normal(question))
    return (
        int(example.id, 16), _hash(question), _hash(example.answer), asked, _hash(group), bool(example.group),
        share_of(group, seed), example.extra.get("label") is False,
        isinstance(example.extra.get("label"), bool) or "rejected" in example.extra,
    )  # fmt: skip


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Encoding:
    """Rows to turn into token ids."""

    lines: list[bytes]
    max_tokens: int
    model: Path


@dataclass(frozen=True)
class Encoded:
    """One row's sequences, packed as `store.pack` does; or why there are none."""

    sequences: list[np.ndarray]
    cut: list[tuple[int, int]]
    """(tokens, lost of them) of each sequence that was longer than the limit."""
    refused: str = ""


def tokenize(work: Encoding) -> list[Encoded]:
    """Each row as the model will see it."""
    from tunesmith.dataset.store import pack

    made = []
    for line in work.lines:
        example = Example.from_json(json.loads(line))
        try:
            sequences = list(encode(example, chat_format(work.model), work.max_tokens))
        except ModelError as error:
            made.append(Encoded([], [], str(error)))
            continue
        taught = [s for s in sequences if s.learned]
        if not taught:
            longest = max(len(s.ids) + s.lost for s in sequences)
            made.append(Encoded([], [], f"no room for the answer: {longest} tokens, the limit is {work.max_tokens}"))
            continue
        cut = [(len(s.ids) + s.lost, s.lost) for s in sequences if s.lost]
        made.append(Encoded([pack(s) for s in taught], cut))
    return made
