"""Is a question put to the exported model in the tokens it was taught with?

The template in the file is rendered twice: by llama.cpp's own engine, and here by Jinja, as programs do
that bring their own. Ollama renders its TEMPLATE. All three texts are tokenized by llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.errors import ModelError
from tunesmith.export.diagnose import adds_bos
from tunesmith.export.proof_limits import Broken, Check
from tunesmith.models import chat as chats
from tunesmith.models.chat import ChatFormat
from tunesmith.models.gguf_file import Gguf
from tunesmith.models.gguf_tokenizer import special_ids
from tunesmith.models.llamacpp import ask_llamacpp
from tunesmith.models.verify import TEXTS
from tunesmith.sources.example import Example

if TYPE_CHECKING:
    from tunesmith.export.ollama_template import Derived

SYSTEM = "You are a careful assistant. Answer in one short sentence."
"""Stands in where no held-out row has a system message."""

Turns = list[dict[str, str]]


@dataclass(frozen=True)
class Conversation:
    """Turns that end in a question, their shape in words, and the ids that training makes of them."""

    shape: str
    turns: Turns
    ids: list[int]


@dataclass(frozen=True)
class Asked:
    """The conversations to compare, and how many rows could not take part.

    literal: rows with a special token written out in their text: training takes it as text, llama.cpp
    as the token; tools: rows with tools in them; refused: shapes that the model's template refuses
    """

    conversations: list[Conversation]
    literal: int = 0
    tools: int = 0
    refused: int = 0


@dataclass(frozen=True)
class Difference:
    """The first place where two lists of ids part, as texts of a few tokens from there on."""

    shape: str
    at: int
    trained: str
    found: str

    def __str__(self) -> str:
        return f"{self.shape}, token {self.at}: {self.trained!r} in training, {self.found!r} here"


def conversations(rows: Sequence[Example], chat: ChatFormat, count: int) -> Asked:
    """Each of the first ``count`` rows that can take part, in five shapes: as it stands, and with and
    without a system message, as one turn and as several."""
    literal, tools, plain = 0, 0, list[Turns]()
    for row in rows:
        turns = row.asked
        if not turns or turns[-1]["role"] != "user":
            continue
        if row.extra.get("tools") or any(t["role"] == "tool" for t in turns):
            tools += 1
        elif chat.shield(turns) != turns or chat.shield(row.answer) != row.answer:
            literal += 1
        else:
            plain.append([*turns, {"role": "assistant", "content": row.answer}])
    made, refused = list[Conversation](), 0
    for i, turns in enumerate(plain[:count]):
        for shape, shaped in _shapes(turns, plain[(i + 1) % len(plain)]):
            try:
                made.append(Conversation(shape, shaped, chat.prompt(shaped)))
            except ModelError:  # no system message, say: then training cannot have seen it either
                refused += 1
    return Asked(made, literal, tools, refused)


def _shapes(turns: Turns, after: Turns) -> list[tuple[str, Turns]]:
    """``turns`` and ``after`` end in their answers."""
    own = turns[0] if turns[0]["role"] == "system" else {"role": "system", "content": SYSTEM}
    question, answer = turns[-2:]
    several = [question, answer, after[-2]]
    return [
        ("as the row stands", turns[:-1]),
        ("no system message, one turn", [question]),
        ("a system message, one turn", [own, question]),
        ("no system message, several turns", several),
        ("a system message, several turns", [own, *several]),
    ]


def checks(
    gguf: Gguf, chat: ChatFormat, asked: Asked, by_server: Sequence[list[int] | None], derived: Derived | None
) -> list[Check]:
    """The tokenizer, and the conversations by each way; ``by_server`` is what llama.cpp's chat made of them."""
    rendered = [*TEXTS, *_rendered(_file_template(gguf, chat), asked)]
    if derived is not None:
        from tunesmith.export.ollama_template import render

        rendered += _rendered(lambda turns: render(derived.template, turns), asked)
    ids = _tokenized(gguf.path, rendered)
    count = len(asked.conversations)
    by_text, by_template, by_ollama = ids[: len(TEXTS)], ids[len(TEXTS) :][:count], ids[len(TEXTS) :][count:]
    found = [_tokenizer_check(chat, by_text)]
    ways = [
        ("prompt", by_server, "llama.cpp's own chat puts a question in the same tokens as training."),
        ("template", by_template, "The file's chat template, rendered as programs with their own Jinja do, gives the "
         "same tokens as training."),
        ("ollama", by_ollama, "Ollama's TEMPLATE puts a question in the same tokens as training."),
    ]  # fmt: skip
    return found + [_check(name, chat, asked, made, means) for name, made, means in ways if made]


def _tokenizer_check(chat: ChatFormat, found: Sequence[list[int] | None]) -> Check:
    """BOS does not count: the prompts show it."""
    different = [
        text
        for text, ids in zip(TEXTS, found, strict=True)
        if ids is None or ids[leading(ids, chat.bos) :] != chat.encode(text)
    ]
    said = f"{len(different)} of {len(TEXTS)} hard texts cut into other tokens"
    return Check(
        "tokenizer", {"texts": len(TEXTS), "different": [text[:60] for text in different]}, {"different": []},
        "llama.cpp cuts hard texts (code, Chinese, emoji, spaces) into the same tokens as training.",
        (Broken("different", said, "none may be"),) if different else (),
    )  # fmt: skip


def _check(name: str, chat: ChatFormat, asked: Asked, ids: Sequence[list[int] | None], means: str) -> Check:
    different = differences(chat, asked.conversations, ids)
    measured = {
        "conversations": len(asked.conversations),
        "shapes": sorted({c.shape for c in asked.conversations}),
        "same": len(asked.conversations) - len(different),
        "wrong beginnings": wrong_beginnings(chat, asked.conversations, ids),
        "first difference": str(different[0]) if different else None,
        "left out": {
            "special tokens written out": asked.literal, "tools": asked.tools, "refused by the template": asked.refused,
        },
    }  # fmt: skip
    said = f"{measured['same']} of {len(asked.conversations)} conversations in the same tokens"
    broken = (Broken("same", said, "all must be"),) if different else ()
    return Check(name, measured, {"same": "all", "wrong beginnings": 0}, means, broken)


def _file_template(gguf: Gguf, chat: ChatFormat) -> Callable[[Turns], str]:
    try:
        return FileTemplate(gguf, chat)
    except ModelError as error:
        reason = str(error)

    def refuse(_: Turns) -> str:
        raise ModelError(reason)

    return refuse


class FileTemplate:
    """The chat template in a GGUF, rendered by Jinja with the words that llama.cpp gives it.

    Raises `ModelError` when the file has none, or it is no Jinja.
    """

    def __init__(self, gguf: Gguf, chat: ChatFormat) -> None:
        source = str(gguf.require("tokenizer.chat_template"))
        self._template = chats.compile_template(source, str(gguf.path))
        tokens, ids = gguf.require("tokenizer.ggml.tokens"), special_ids(gguf)
        self._words = {f"{name}_token": tokens[ids[name]] if name in ids else "" for name in ("bos", "eos")}
        # A template that writes BOS in a file that also asks for one: where the model's own tokenizer is
        # made so (Llama 3), programs know it and take one away, as llama.cpp does.
        self._taken = self._words["bos_token"] if chat.adds_bos and adds_bos(gguf) else ""

    def __call__(self, turns: Turns) -> str:
        import jinja2

        try:
            text = self._template.render(messages=turns, tools=None, add_generation_prompt=True, **self._words)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, OverflowError) as error:
            raise ModelError(f"the file's chat template refuses these messages: {error}") from None
        return text.removeprefix(self._taken)


def _rendered(renders: Callable[[Turns], str], asked: Asked) -> list[str | None]:
    """The text of each conversation, None where it is refused."""
    texts: list[str | None] = []
    for conversation in asked.conversations:
        try:
            texts.append(renders(conversation.turns))
        except ModelError:
            texts.append(None)
    return texts


def _tokenized(path: Path, texts: Sequence[str | None]) -> list[list[int] | None]:
    """llama.cpp's ids, BOS before where the file asks for it."""
    found = ask_llamacpp(path, [text for text in texts if text is not None], logits=False)
    return [None if text is None else next(found).ids for text in texts]


def differences(chat: ChatFormat, asked: Sequence[Conversation], found: Sequence[list[int] | None]) -> list[Difference]:
    """The conversations whose ids are not those of training."""
    return [
        _difference(chat, c, ids if ids is not None else [])
        for c, ids in zip(asked, found, strict=True)
        if ids != c.ids
    ]


def _difference(chat: ChatFormat, conversation: Conversation, ids: list[int]) -> Difference:
    pairs = enumerate(zip(conversation.ids, ids, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(ids), len(conversation.ids)))
    trained, found = (chat.decode(part[at : at + 6], special=True) for part in (conversation.ids, ids))
    return Difference(conversation.shape, at, trained, found)


def wrong_beginnings(chat: ChatFormat, asked: Sequence[Conversation], found: Sequence[list[int] | None]) -> int:
    """How many conversations do not begin with as many BOS as in training: one, or none."""
    return sum(
        leading(ids, chat.bos) != leading(c.ids, chat.bos)
        for c, ids in zip(asked, found, strict=True)
        if ids is not None
    )


def leading(ids: Sequence[int], token: int | None) -> int:
    """How often ``token`` stands at the front."""
    return next((i for i, t in enumerate(ids) if t != token), len(ids))
