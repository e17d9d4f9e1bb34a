"""How anything is asked of a teacher: the prompt, the form of the reply, and once more where it cannot be used."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from tunesmith.settings import TeacherSettings
from tunesmith.teacher.client import Ask, Refused
from tunesmith.teacher.prompts import Language, Name, Prompts
from tunesmith.teacher.quality import ASKED_AGAIN, QUARANTINED, WHY, Fault
from tunesmith.teacher.request import Reply, Request, Schema

Value = TypeVar("Value")
SHOWN = 600
"""Characters of a reply that cannot be used which the teacher is shown again."""


class Unusable(Exception):
    """A reply that became nothing, however often it was asked for."""

    def __init__(self, fault: Fault, reply: str) -> None:
        self.fault, self.reply = fault, reply


@dataclass(frozen=True)
class Teaching:
    """What all units share."""

    settings: TeacherSettings
    prompts: Prompts
    model: str

    def request(self, name: Name, language: Language, schema: Schema | None, **values: Any) -> Request:
        judged = name == "judge"
        return Request(
            (("user", self.prompts(name, language, **values)),),
            self.settings.judge if judged else self.model,
            0.0 if judged else self.settings.temperature,
            self.settings.max_tokens,
            schema,
        )

    def settle(
        self, ask: Ask, request: Request, language: Language, read: Callable[[Reply], tuple[Value, Fault | None]]
    ) -> Value:
        """What ``read`` makes of the first reply in which it finds no fault that asking again may mend."""
        for left in range(self.settings.retries, -1, -1):
            try:
                reply = ask(request)
            except Refused as why:
                raise Unusable("refused by the server", str(why)) from None
            value, fault = read(reply)
            if reply.cut and (fault is None or fault in QUARANTINED):
                fault = "cut off"  # whatever else that led to
            if fault is None:
                return value
            if fault not in ASKED_AGAIN or not left:
                raise Unusable(fault, reply.text)
            request = request.again(reply.text[:SHOWN], self.prompts("again", language, why=WHY[language][fault]))
        raise AssertionError

    def is_held(self, *what: object) -> bool:
        """Whether something is asked once more in other words, decided by itself alone."""
        digest = hashlib.sha256("\0".join(map(str, what)).encode("utf-8", "replace")).digest()
        return int.from_bytes(digest[:8], "big") < self.settings.held_out * 2**64


# -- the forms of replies ----------------------------------------------------------------------------


def questions_form(most: int) -> Schema:
    """A list of questions. It ends at ``most`` even where a small teacher would go on for ever."""
    return _list_of(_TEXT, "questions", most)


def groups_form(most: int, wordings: int) -> Schema:
    """A list of questions in so many wordings each."""
    return _list_of(_list_of(_TEXT, "wordings", wordings), "questions", most)


def _list_of(items: Schema, name: str, most: int) -> Schema:
    return _object({name: {"type": "array", "items": items, "maxItems": most}})


def _object(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


_TEXT: Schema = {"type": "string"}
QUESTION = _object({"question": _TEXT})
VERDICT = _object({"good": {"type": "boolean"}})
