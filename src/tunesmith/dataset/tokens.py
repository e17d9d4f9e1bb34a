"""From an `Example` to token ids and a learn mask: exactly the answers and their end token.

A template may write a turn differently once other turns follow (Qwen3 drops earlier reasoning), so
a conversation is rendered for each answer as the model will see it when asked for that answer. As
long as one rendering is the beginning of the next they are one sequence; where that breaks, a new
sequence begins, and no answer is learned twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tunesmith.models.chat import ChatFormat
from tunesmith.sources.example import Example, Message

PIECE = 1 << 20
"""Characters that are tokenized at once where tokens are only counted: a tokenizer takes 150 bytes for each. Rows
that have no more are tokenized whole."""


@dataclass(frozen=True)
class Sequence:
    """Token ids of one row as the model sees it, and which of them are learned.

    lost: tokens beyond the limit that were cut from the end; an answer cut there has no end token,
    so the model is not taught to stop in the middle. Of text far behind the limit they are counted
    in pieces, without the template, which is a few more or less.
    """

    ids: list[int]
    learn: list[bool]
    example: Example
    lost: int = 0

    @property
    def learned(self) -> int:
        return sum(self.learn)


def encode(example: Example, chat: ChatFormat, max_tokens: int) -> Iterator[Sequence]:
    """The sequences of one row, each at most ``max_tokens`` long.

    A sequence with nothing left to learn is yielded too (``learned == 0``), for the report.
    Raises `ModelError` when the template refuses the conversation.
    """
    short, rest = _shortened(example, chat, max_tokens)
    sequences = list(_sequences(short, chat, max_tokens))
    if rest and len(sequences[-1].ids) <= max_tokens:  # what was left out would have been seen after all
        sequences, rest = list(_sequences(example, chat, max_tokens)), []
    behind = sum(
        len(chat.encode(chat.shield(text[i : i + PIECE]))) for text in rest for i in range(0, len(text), PIECE)
    )
    for sequence in sequences:
        lost = max(0, len(sequence.ids) - max_tokens) + (behind if sequence is sequences[-1] else 0)
        ids, learn = sequence.ids[:max_tokens], sequence.learn[:max_tokens]
        yield replace(sequence, ids=ids, learn=learn, example=example, lost=lost)


def _sequences(example: Example, chat: ChatFormat, max_tokens: int) -> Iterator[Sequence]:
    is_text = example.messages[0].role == "text"
    return _raw(example, chat) if is_text else _conversation(example, chat, max_tokens)


def _shortened(example: Example, chat: ChatFormat, max_tokens: int) -> tuple[Example, list[str]]:
    """The row without text that must lie behind the limit, and that text: a row may be many megabytes long, and
    none of its tokens stands for more characters than the longest. It still ends with an answer."""
    messages = example.messages
    if sum(len(m.content) for m in messages) <= PIECE:
        return example, []
    most, seen, kept, rest = max(PIECE, chat.longest_token * (max_tokens + 1)), 0, list[Message](), list[str]()
    for message in messages:
        if seen > most and any(m.learn for m in kept[-1:]):
            rest.append(message.content)
            continue
        kept.append(message._replace(content=message.content[:most]))
        rest.append(message.content[most:])
        seen += len(message.content)
    rest = [text for text in rest if text]
    return (replace(example, messages=tuple(kept)), rest) if rest else (example, [])


def _raw(example: Example, chat: ChatFormat) -> Iterator[Sequence]:
    """Text without a chat: all of it is learned, and its end. A beginning and an end written out in the
    row are not doubled; other special tokens in it are text."""
    text = example.messages[0].content
    begin, end = (chat.special.get(token, "") if token is not None else "" for token in (chat.bos, chat.eos))
    text = text.removeprefix(begin)
    if end and text.rstrip().endswith(end):
        text = text.rstrip().removesuffix(end)
    ids = chat.start(chat.encode(chat.shield(text)))
    if chat.eos is not None:
        ids = [*ids, chat.eos]
    yield Sequence(ids, [i > 0 for i in range(len(ids))], example)  # nothing comes before the first


def _conversation(example: Example, chat: ChatFormat, max_tokens: int) -> Iterator[Sequence]:
    written = [{"role": m.role, "content": m.content, "learn": m.learn} for m in example.messages]
    turns, tools = chat.turns(written, example.extra.get("tools"))
    messages = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    ids: list[int] = []
    learn: list[bool] = []
    answers = [i for i, turn in enumerate(turns) if turn.get("learn")]
    full = False
    for i in answers:
        if len(ids) > max_tokens and not full:
            full = True  # nothing behind is kept: all of it in one step, unless the template begins anew in between
            prompt, answer = _turn(chat, messages[: answers[-1] + 1], tools)
            if prompt[: len(ids)] == ids:
                ids, learn = prompt + answer, learn + [False] * (len(prompt) + len(answer) - len(learn))
                break
        prompt, answer = _turn(chat, messages[: i + 1], tools)
        if prompt[: len(ids)] != ids:
            yield Sequence(ids, learn, example)
            ids, learn = [], []
        ids, learn = prompt + answer, learn + [False] * (len(prompt) - len(learn)) + [True] * len(answer)
    yield Sequence(ids, learn, example)


def _turn(chat: ChatFormat, messages: list[dict[str, str]], tools: list[Any]) -> tuple[list[int], list[int]]:
    """Token ids of the prompt as at inference, and of the last message, an answer, with its end token."""
    asked, full = chat.render(messages[:-1], tools, ask=True), chat.render(messages, tools)
    content = messages[-1]["content"].strip()
    if not full.startswith(asked):
        # The template opens an answer in a way that a finished one does not have (an empty
        # thought, say): the answer is learned behind the opening that the model will be given.
        differ = (i for i, (a, b) in enumerate(zip(asked, full, strict=False)) if a != b)
        shared = next(differ, min(len(asked), len(full)))
        at = _place(full, content, shared)
        full = asked + (full[at:] if at >= 0 else content)
    prompt = chat.encode(asked)
    at = _place(full, content, len(asked))
    end = at + len(content) if at >= 0 else len(full)
    return chat.start(prompt), _answer(chat, prompt, asked, full, end)


def _place(text: str, content: str, start: int) -> int:
    """Where the content stands behind ``start``, or -1. Looked for at the front first: an answer such
    as "end" also occurs in the end token."""
    lead = start + len(text[start:]) - len(text[start:].lstrip())
    return lead if text.startswith(content, lead) else text.rfind(content, start)


def _answer(chat: ChatFormat, prompt: list[int], asked: str, full: str, end: int) -> list[int]:
    """The answer up to its end token, which is the first special one behind the content. What a
    template writes behind that (a newline) is not learned; a template that writes no end token
    gets the tokenizer's, or the model would never stop."""
    behind = sum(token in chat.special for token in chat.encode(full[end:]))
    if not behind:
        answer = _continuation(chat, prompt, asked, full[:end])
        return answer if chat.eos is None else [*answer, chat.eos]
    answer = _continuation(chat, prompt, asked, full)
    special = [i for i, token in enumerate(answer) if token in chat.special]
    return answer[: special[-behind] + 1]


def _continuation(chat: ChatFormat, prompt: list[int], asked: str, full: str) -> list[int]:
    """Token ids of what follows the prompt. At inference the prompt is tokenized alone, so a token
    must not reach across its end; where the whole text has such a token, the rest is tokenized alone."""
    whole = chat.encode(full)
    if whole[: len(prompt)] == prompt:
        return whole[len(prompt) :]
    mark = chat.encode("\n")  # keeps SentencePiece from putting a space in front
    rest = chat.encode("\n" + full[len(asked) :])
    return rest[len(mark) :] if rest[: len(mark)] == mark else chat.encode(full[len(asked) :])


def seen(chat: ChatFormat, ids: np.ndarray, learn: np.ndarray) -> list[tuple[str, bool, bool]]:
    """(text, learned, special) of every token of a sequence, for people to look at; several tokens that make one
    character are one."""
    tokens, at = [], 0
    for text, count in chat.pieces(ids.tolist()):
        tokens.append((text, bool(learn[at]), int(ids[at]) in chat.special))
        at += count
    return tokens
