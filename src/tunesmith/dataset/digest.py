"""What happens to each row by itself, in any process: read, given a system message, redacted, weighed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

import numpy as np
import orjson

from tunesmith.dataset import personal
from tunesmith.dataset.compose import compose
from tunesmith.dataset.similar import normal
from tunesmith.dataset.split import group_of, share_of
from tunesmith.dataset.tokens import encode
from tunesmith.errors import ModelError, SourceError
from tunesmith.models.chat import ChatFormat
from tunesmith.settings import DataSettings
from tunesmith.sources.document import Document, Unread
from tunesmith.sources.documents import read_later
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

    pieces: Block | Sequence[Example | Document | Unread | Quarantined]
    data: DataSettings
    model: Path
    """The model's folder: a document is divided by its tokens."""


@dataclass
class Digest:
    """The rows of one piece, as lines of JSON, with their keys; what could not be used; what was noticed.

    documents: files of prose that were read, to be divided when all of their source were seen; no inputs yet.
    """

    lines: list[bytes] = field(default_factory=list)
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, KEYS))
    quarantined: list[Quarantined] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)
    inputs: int = 0
    noted: Counter[str] = field(default_factory=Counter)
    personal: Counter[str] = field(default_factory=Counter)
    personal_at: dict[str, str] = field(default_factory=dict)
    """Kind -> the first place."""


def digest(work: Work) -> Digest:
    """Every row of one piece."""
    made, examples = Digest(), list[Example]()
    for item in _items(work, made):
        if isinstance(item, Quarantined):
            made.quarantined.append(item)
        else:
            examples.append(_with_system(item, work.data.system))
    examples = _cleaned(examples, work.data, made)
    for example in examples:
        if example.notes:
            made.noted.update(example.notes)
    made.lines = [row_line(example) for example in examples]
    made.keys = _keys(examples, work.data.seed)
    return made


def _items(work: Work, made: Digest) -> Iterable[Example | Quarantined]:
    if isinstance(work.pieces, Block):
        for item in read_block(work.pieces):
            made.inputs += 1
            yield item
        return
    for piece in work.pieces:
        item = read_later(piece) if isinstance(piece, Unread) else piece
        if isinstance(item, Document) and item is not piece:
            made.documents.append(item)
            continue
        made.inputs += 1
        yield from _composed(item, work) if isinstance(item, Document) else [item]


def _composed(document: Document, work: Work) -> list[Example | Quarantined]:
    """The rows of a document."""
    try:
        rows = list(compose(document, work.data.ask, work.data.system, work.data.max_tokens, chat_format(work.model)))
    except (SourceError, ModelError) as error:
        return [Quarantined(document.origin, str(error), document.text)]
    return [*rows] or [Quarantined(document.origin, "nothing is left of it but repeated lines", document.text)]


@lru_cache(1)
def chat_format(folder: Path) -> ChatFormat:
    """The model's template and tokenizer, once in a process."""
    return ChatFormat(folder)


def _with_system(example: Example, system: str) -> Example:
    if not system or example.messages[0].role in ("system", "text"):
        return example
    return replace(example, messages=(Message("system", system), *example.messages))


def _cleaned(examples: list[Example], data: DataSettings, made: Digest) -> list[Example]:
    """Personal data is counted, and replaced where the settings ask for it."""
    texts = ["\n".join([m.content for m in e.messages] + _rejected(e)) for e in examples]
    for row, found in personal.find_in(texts):
        for one in found:
            made.personal[one.kind] += 1
            made.personal_at.setdefault(one.kind, str(examples[row].origin))
        if data.clean.redact:
            examples[row] = _redacted(examples[row], data.clean.redact)
    return examples


def _redacted(example: Example, kinds: Collection[personal.Kind]) -> Example:
    turns = [replace(m, content=personal.redact(m.content, kinds)[0]) for m in example.messages]
    extra = example.extra
    for worse in _rejected(example):
        extra = extra | {"rejected": personal.redact(worse, kinds)[0]}
    return replace(example, messages=tuple(turns), extra=extra)


def _rejected(example: Example) -> list[str]:
    """The worse answer of a pair, which is kept in preferences.jsonl."""
    return [example.extra["rejected"]] if "rejected" in example.extra else []


def row_line(example: Example) -> bytes:
    """The row as it stands in ``dataset/*.jsonl``, without the newline."""
    row = example.to_json()
    try:
        return orjson.dumps(row)
    except TypeError:  # half a character, or a number of more than 64 bits
        return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _keys(examples: list[Example], seed: int) -> np.ndarray:
    """KEYS [rows]. All hashes of a kind are made into numbers at once, which takes a third of the time."""
    keys = np.empty(len(examples), KEYS)
    hashes = {name: list[bytes]() for name in ("question", "answer", "asked", "group")}
    shares = []
    for example in examples:
        question = "\n".join([m.content.strip() for m in example.prompt])
        group = group_of(example)
        hashes["question"].append(_hash(question))
        hashes["answer"].append(_hash(example.answer))
        hashes["group"].append(_hash(group))
        # A question about a table is another one about another table; a document's is asked by its title.
        if example.group:
            hashes["asked"].append(_hash(f"{group}\0{question}" if example.extra else normal(question)))
        else:
            hashes["asked"].append(hashes["group"][-1])
        shares.append(share_of(group, seed))
    for name, digests in hashes.items():
        keys[name] = np.frombuffer(b"".join(digests), "<u8")
    keys["content"] = [int(e.id, 16) for e in examples]
    keys["share"] = shares
    keys["own"] = [bool(e.group) for e in examples]
    keys["bad"] = [e.extra.get("label") is False for e in examples]
    keys["preference"] = [isinstance(e.extra.get("label"), bool) or "rejected" in e.extra for e in examples]
    return keys


def _hash(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


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
