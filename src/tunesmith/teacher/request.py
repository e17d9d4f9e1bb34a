"""What is asked of a teacher, and what it replies."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from tunesmith.files import value_hash

Schema = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """One request, the same whenever it is asked: its ``key`` is the hash of all that decides the reply."""

    messages: tuple[tuple[str, str], ...]
    """(role, text) of each turn."""
    model: str
    temperature: float
    max_tokens: int
    schema: Schema | None = field(default=None, hash=False)
    """The JSON that the reply should be; None: plain text."""

    @cached_property
    def key(self) -> str:
        """32 hex digits."""
        return value_hash([self.messages, self.model, self.temperature, self.max_tokens, self.schema])[:32]

    def body(self) -> dict[str, Any]:
        """The request as OpenAI's protocol has it."""
        made: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": role, "content": text} for role, text in self.messages],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        if self.schema is not None:
            wrapped = {"name": "reply", "strict": True, "schema": self.schema}
            made["response_format"] = {"type": "json_schema", "json_schema": wrapped}
        return made

    def again(self, reply: str, why: str) -> Request:
        """The same, asked differently: with what came back and what is wrong with it."""
        return replace(self, messages=(*self.messages, ("assistant", reply), ("user", why)))

    @property
    def text(self) -> str:
        """All of it, to be counted."""
        return "\n".join(text for _, text in self.messages)


@dataclass(frozen=True)
class Reply:
    """What the teacher wrote. cut: the limit ended it; tokens_in, tokens_out: as the server counts, else estimated."""

    text: str
    cut: bool
    tokens_in: int
    tokens_out: int


def tokens_of(text: str) -> int:
    """About how many tokens a text has, whoever counts: one for a character of Chinese, Japanese or Korean, one for
    four others. Between the tokenizers of models it differs by half."""
    far = sum("\u2e80" <= c <= "\u9fff" or "\uac00" <= c <= "\ud7a3" or "\uf900" <= c <= "\ufaff" for c in text)
    return far + -(-(len(text) - far) // 4)
