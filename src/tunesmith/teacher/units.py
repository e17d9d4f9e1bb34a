"""The three ways from documents, topics and questions to rows, as units of work.

A unit asks one thing after the other, and says what came of it and which units follow. It decides by the replies alone:
done a second time with the same replies, out of the journal, it gives the same. So nothing that is done needs keeping.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from tunesmith.dataset.similar import normal
from tunesmith.settings import TeacherSettings
from tunesmith.sources.example import Origin
from tunesmith.teacher import parse
from tunesmith.teacher.client import Ask, Refused
from tunesmith.teacher.passages import Line, Passage
from tunesmith.teacher.prompts import Language, Name, Prompts
from tunesmith.teacher.quality import (
    ASKED_AGAIN,
    QUARANTINED,
    SUPPORT,
    WHY,
    Fault,
    fault_of,
    prompt_language,
    question_fault,
    support,
)
from tunesmith.teacher.request import Reply, Request, Schema

What = Literal["question", "follow-up", "passage", "topic", "source"]
Value = TypeVar("Value")
SHOWN = 600
"""Characters of a reply that cannot be used which the teacher is shown again."""


@dataclass(frozen=True)
class Taught:
    """A fact with its answer. wordings are learned, held are measured with; follow_up: (question, answer)."""

    wordings: tuple[str, ...]
    answer: str
    origin: Origin
    group: str
    held: tuple[str, ...] = ()
    follow_up: tuple[str, str] | None = None


@dataclass(frozen=True)
class Lost:
    """What became no row: why, and the reply."""

    what: What
    text: str
    fault: str
    reply: str
    origin: Origin


@dataclass(frozen=True)
class Found:
    """A question that people ask about a topic, not answered yet."""

    line: Line


Item = Taught | Lost | Found


@dataclass
class Done:
    """What came of a unit."""

    items: list[Item] = field(default_factory=list)
    further: list[Unit] = field(default_factory=list)


class Unit(Protocol):
    @property
    def origin(self) -> Origin: ...
    @property
    def what(self) -> What: ...
    @property
    def questions(self) -> int:
        """How many questions wait in it, as far as is known."""
        ...

    def work(self, ask: Ask) -> Done:
        """Ask what is to be asked. Raises what ``ask`` raises, but for `Refused`."""
        ...


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


def _list_of(items: Schema, name: str = "questions") -> Schema:
    return _object({name: {"type": "array", "items": items}})


def _object(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


_TEXT: Schema = {"type": "string"}
_QUESTIONS = _list_of(_TEXT)
_GROUPS = _list_of(_list_of(_TEXT, "wordings"))
_QUESTION = _object({"question": _TEXT})
_VERDICT = _object({"good": {"type": "boolean"}})


def _some(value: Value) -> tuple[Value, Fault | None]:
    """Whatever is not empty is what was asked for."""
    return value, None if value else "not the JSON asked for"


# -- from documents and topics to questions ----------------------------------------------------------


@dataclass(frozen=True)
class AskPassage:
    """A passage -> questions that it answers, in several wordings each; of some passages in one more, held out."""

    teaching: Teaching
    passage: Passage
    what: What = "passage"

    @property
    def origin(self) -> Origin:
        return self.passage.origin

    @property
    def questions(self) -> int:
        return 0

    def request(self) -> Request:
        settings, passage = self.teaching.settings, self.passage
        return self.teaching.request(
            "passage", prompt_language(passage.text), _GROUPS, passage=passage.text, title=passage.title,
            count=settings.questions, wordings=settings.phrasings + self._held,
        )  # fmt: skip

    @property
    def _held(self) -> bool:
        return self.teaching.is_held(*self.origin)

    def work(self, ask: Ask) -> Done:
        language, settings, request = prompt_language(self.passage.text), self.teaching.settings, self.request()
        try:
            found = self.teaching.settle(ask, request, language, lambda reply: _some(parse.groups(reply.text)))
        except Unusable as end:
            return Done([Lost("passage", self.passage.text, end.fault, end.reply, self.origin)])
        done, seen = Done(), set[str]()
        for wordings in found[: settings.questions]:
            kept: list[str] = []
            for wording in wordings[: settings.phrasings + self._held]:
                fault = question_fault(wording, self.passage.text, request.text)
                if fault is None and normal(wording) in seen:
                    fault = "the same question again"
                seen.add(normal(wording))
                if fault:
                    done.items.append(Lost("question", wording, fault, "", self.origin))
                else:
                    kept.append(wording)
            held = kept[1:][-1:] if self._held else []
            if kept:
                asked = tuple(kept[: len(kept) - len(held)])
                about = (self.origin, self.origin.file, self.passage)
                done.further.append(Answer(self.teaching, asked, *about, held=tuple(held)))
        return done


@dataclass(frozen=True)
class AskTopic:
    """A topic, and how its questions begin -> questions."""

    teaching: Teaching
    topic: Line
    start: str
    what: What = "topic"

    @property
    def origin(self) -> Origin:
        return self.topic.origin

    @property
    def questions(self) -> int:
        return 0

    def request(self) -> Request:
        return self.teaching.request(
            "topic", prompt_language(self.topic.text), _QUESTIONS, topic=self.topic.text, start=self.start,
            count=self.teaching.settings.questions,
        )  # fmt: skip

    def work(self, ask: Ask) -> Done:
        language, request = prompt_language(self.topic.text), self.request()
        try:
            found = self.teaching.settle(ask, request, language, lambda reply: _some(parse.questions(reply.text)))
        except Unusable as end:
            text = f"{self.topic.text}: {self.start}" if self.start else self.topic.text
            return Done([Lost("topic", text, end.fault, end.reply, self.origin)])
        done = Done()
        for question in found[: self.teaching.settings.questions]:
            fault = question_fault(question, self.topic.text, request.text)
            lost = Lost("question", question, fault or "", "", self.origin)
            done.items.append(lost if fault else Found(Line(question, self.origin)))
        return done


# -- from questions to answers -----------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """A question -> its answer, from a passage if there is one; then the follow-up, and other words to hold out."""

    teaching: Teaching
    wordings: tuple[str, ...]
    origin: Origin
    group: str = ""
    passage: Passage | None = None
    held: tuple[str, ...] = ()
    reword: bool = False
    what: What = "question"

    @property
    def questions(self) -> int:
        return len(self.wordings) + len(self.held) + self.reword

    def request(self, question: str = "", earlier: tuple[str, str] | None = None) -> Request:
        return self.teaching.request(
            "answer", self._language, None, question=question or self.wordings[0], **self._about,
            earlier=earlier and {"question": earlier[0], "answer": earlier[1]},
        )  # fmt: skip

    @property
    def _language(self) -> Language:
        return prompt_language(self.wordings[0])

    @property
    def _about(self) -> dict[str, str]:
        passage = self.passage
        return {"passage": passage.text if passage else "", "title": passage.title if passage else ""}

    def work(self, ask: Ask) -> Done:
        done, question = Done(), self.wordings[0]
        try:
            answer = self._answer(ask, question)
        except Unusable as end:
            lost = [*self.wordings, *self.held, *([question] if self.reword else [])]
            return Done([Lost("question", text, end.fault, end.reply, self.origin) for text in lost])
        held = self.held + self._reworded(ask, done)
        follow_up = self._follow_up(ask, question, answer, done) if self.teaching.settings.follow_up else None
        done.items.append(Taught(self.wordings, answer, self.origin, self.group, held, follow_up))
        return done

    def _answer(self, ask: Ask, question: str, earlier: tuple[str, str] | None = None) -> str:
        said = f"{question} {' '.join(earlier or ())}"

        def read(reply: Reply) -> tuple[str, Fault | None]:
            answer = parse.plain(reply.text)
            fault = fault_of(answer, question)
            if fault is None and not reply.cut and self.passage is not None:
                told = f"{self.passage.title}\n{self.passage.text}"
                fault = None if support(answer, told, said) >= SUPPORT else "not in the passage"
            return answer, fault

        answer = self.teaching.settle(ask, self.request(question, earlier), self._language, read)
        if self.teaching.settings.judge:
            self._judge(ask, question, answer)
        return answer

    def _judge(self, ask: Ask, question: str, answer: str) -> None:
        request = self.teaching.request(
            "judge", self._language, _VERDICT, question=question, answer=answer, passage=self._about["passage"]
        )

        def read(reply: Reply) -> tuple[bool, Fault | None]:
            good = parse.verdict(reply.text)
            return bool(good), "not the JSON asked for" if good is None else None

        if not self.teaching.settle(ask, request, self._language, read):
            raise Unusable("judged wrong", answer)

    def _reworded(self, ask: Ask, done: Done) -> tuple[str, ...]:
        if not self.reword:
            return ()
        question = self.wordings[0]
        request = self.teaching.request("reword", self._language, _QUESTION, question=question)
        try:
            other = self._question(ask, request, question)
        except Unusable as end:
            done.items.append(Lost("question", question, end.fault, end.reply, self.origin))
            return ()
        return (other,)

    def _follow_up(self, ask: Ask, question: str, answer: str, done: Done) -> tuple[str, str] | None:
        about = {"passage": self._about["passage"], "question": question, "answer": answer}
        request = self.teaching.request("follow-up", self._language, _QUESTION, **about)
        following = ""
        try:
            following = self._question(ask, request, question)
            return following, self._answer(ask, following, (question, answer))
        except Unusable as end:
            done.items.append(Lost("follow-up", following or question, end.fault, end.reply, self.origin))
            return None

    def _question(self, ask: Ask, request: Request, other_than: str) -> str:
        """A question that is not this one again. It may speak of the answer, which its reader has seen."""
        following = self.teaching.settle(
            ask, request, self._language, lambda reply: _some(parse.one_question(reply.text))
        )
        fault = question_fault(following, other_than, request.text)
        if fault is None and normal(following) == normal(other_than):
            fault = "the same question again"
        if fault:
            raise Unusable(fault, following)
        return following
