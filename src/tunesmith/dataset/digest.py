"""What happens to each row by itself, in any process: read, given a system message, redacted, weighed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path

import numpy as np

from tunesmith.dataset import personal
from tunesmith.dataset.compose import compose
from tunesmith.dataset.similar import normal
from tunesmith.dataset.split import groups_of, shares_of
from tunesmith.dataset.tokens import encode
from tunesmith.errors import ModelError, SourceError
from tunesmith.models.chat import ChatFormat
from tunesmith.settings import DataSettings
from tunesmith.sources.document import Document, Unread
from tunesmith.sources.documents import read_later
from tunesmith.sources.example import Example, Message, Written
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


BATCH = 128
"""Rows that are done together, each step for all of them: so few that the processor keeps them at hand."""


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

    text: the lines, one behind the other without newlines; sizes: int64 [rows], bytes of each.
    documents: files of prose that were read, to be divided when all of their source were seen; no inputs yet.
    """

    text: bytes = b""
    sizes: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, KEYS))
    quarantined: list[Quarantined] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)
    inputs: int = 0
    noted: Counter[str] = field(default_factory=Counter)
    noted_at: dict[str, str] = field(default_factory=dict)
    """Note -> the first place."""
    personal: Counter[str] = field(default_factory=Counter)
    personal_at: dict[str, str] = field(default_factory=dict)
    """Kind -> the first place."""


def digest(work: Work) -> Digest:
    """Every row of one piece."""
    made = Digest()
    lines, keys, items = list[bytes](), [made.keys], iter(_items(work, made))
    while batch := list(islice(items, BATCH)):
        written, examples = _digested(batch, work.data, made)
        lines += [row.line for row in written]
        keys.append(_keys(examples, written, work.data.seed))
    made.text, made.sizes = b"".join(lines), np.fromiter(map(len, lines), np.int64, len(lines))
    made.keys = np.concatenate(keys)
    return made


def _digested(
    batch: list[Example | Quarantined], data: DataSettings, made: Digest
) -> tuple[list[Written], list[Example]]:
    examples = list[Example]()
    for item in batch:
        if isinstance(item, Quarantined):
            made.quarantined.append(item)
            continue
        examples.append(_with_system(item, data.system) if data.system else item)
        if item.notes:
            made.noted.update(item.notes)
            for note in item.notes:
                made.noted_at.setdefault(note, str(item.origin))
    written = [example.written() for example in examples]
    _clean(examples, written, data, made)
    return written, examples


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
    if example.messages[0].role in ("system", "text"):
        return example
    return replace(example, messages=(Message("system", system), *example.messages))


def _clean(examples: list[Example], written: list[Written], data: DataSettings, made: Digest) -> None:
    """Personal data is counted, and replaced where the settings ask for it."""
    texts = [[m.content for m in e.messages] + _rejected(e) for e in examples]
    in_json = [
        row.texts + [json.dumps(text).encode() for text in _rejected(e)]
        for e, row in zip(examples, written, strict=True)
    ]
    for row, found in personal.find_in(texts, list(chain.from_iterable(in_json))):
        for one in found:
            made.personal[one.kind] += 1
            made.personal_at.setdefault(one.kind, str(examples[row].origin))
        if data.clean.redact:
            examples[row] = _redacted(examples[row], data.clean.redact)
            written[row] = examples[row].written()


def _redacted(example: Example, kinds: Collection[personal.Kind]) -> Example:
    turns = [m._replace(content=personal.redact(m.content, kinds)[0]) for m in example.messages]
    extra = example.extra
    for worse in _rejected(example):
        extra = extra | {"rejected": personal.redact(worse, kinds)[0]}
    return replace(example, messages=tuple(turns), extra=extra)


def _rejected(example: Example) -> list[str]:
    """The worse answer of a pair, which is kept in preferences.jsonl."""
    return [example.extra["rejected"]] if "rejected" in example.extra else []


def _keys(examples: list[Example], written: list[Written], seed: int) -> np.ndarray:
    """KEYS [rows]. All hashes of a kind are made into numbers at once, which takes a third of the time."""
    keys = np.empty(len(examples), KEYS)
    questions = ["\n".join([m.content.strip() for m in e.prompt]) for e in examples]
    keys["content"] = np.frombuffer(bytes.fromhex("".join([row.id for row in written])), ">u8")
    keys["question"] = _hashes([question.encode("utf-8", "surrogatepass") for question in questions])
    keys["answer"] = _hashes([_answer(e, row) for e, row in zip(examples, written, strict=True)])
    keys["share"], keys["group"] = shares_of(groups_of(examples), seed)
    keys["asked"], keys["own"] = keys["group"], [e.group != "" for e in examples]
    # A question about a table is another one about another table; a document's is asked by its title.
    own = [(e, question) for e, question in zip(examples, questions, strict=True) if e.group]
    asked = [f"{e.group}\0{question}" if e.extra else normal(question) for e, question in own]
    keys["asked"][keys["own"]] = shares_of(asked, seed)[1]
    labels = [e.extra.get("label") for e in examples]
    keys["bad"] = [label is False for label in labels]
    keys["preference"] = [
        isinstance(label, bool) or "rejected" in e.extra for e, label in zip(examples, labels, strict=True)
    ]
    return keys


def _answer(example: Example, row: Written) -> bytes:
    """The last answer, in JSON."""
    for message, text in zip(reversed(example.messages), reversed(row.texts), strict=True):
        if message.role == "assistant":
            return text
    return b'""'


def _hashes(texts: Iterable[bytes]) -> np.ndarray:
    """uint64 [texts]"""
    return np.frombuffer(b"".join([sha256(text).digest()[:8] for text in texts]), "<u8")


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
            reason = f"no room for the answer: {longest:,} tokens, and the limit is {work.max_tokens:,}"
            made.append(Encoded([], [], f"{reason}; raise data.max_tokens, or shorten what comes before the answer"))
            continue
        cut = [(len(s.ids) + s.lost, s.lost) for s in sequences if s.lost]
        made.append(Encoded([pack(s) for s in taught], cut))
    return made
