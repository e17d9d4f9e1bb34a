"""From passages and topics to questions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

from tunesmith.dataset.similar import normal
from tunesmith.sources.example import Origin
from tunesmith.teacher import parse
from tunesmith.teacher.answers import Answer
from tunesmith.teacher.client import Ask
from tunesmith.teacher.lines import Line
from tunesmith.teacher.passages import Passage
from tunesmith.teacher.quality import Fault, prompt_language, question_fault
from tunesmith.teacher.request import Reply, Request
from tunesmith.teacher.teaching import Teaching, Unusable, groups_form, questions_form
from tunesmith.teacher.units import Done, Found, Lost, What

About = TypeVar("About", Passage, Line)


@dataclass(frozen=True)
class _AskAbout(ABC, Generic[About]):
    """A unit that asks for questions about something, in one wording each or in several."""

    teaching: Teaching
    about: About

    @property
    def origin(self) -> Origin:
        return self.about.origin

    @property
    def questions(self) -> int:
        return 0

    @property
    def _called(self) -> str:
        """What quarantine calls it."""
        return self.about.text

    @property
    @abstractmethod
    def what(self) -> What: ...

    @property
    @abstractmethod
    def wordings(self) -> int:
        """How many of each question are taken."""

    @abstractmethod
    def request(self) -> Request: ...

    @abstractmethod
    def _take(self, wordings: list[str], done: Done) -> None:
        """What becomes of a question."""

    def work(self, ask: Ask) -> Done:
        request, text = self.request(), self.about.text

        def read(reply: Reply) -> tuple[list[list[str]], Fault | None]:
            groups = parse.groups(reply.text)
            if not groups:
                return groups, "not the JSON asked for"
            faults: list[Fault | None] = [
                question_fault(wording, text, request.text) for wordings in groups for wording in wordings
            ]
            return groups, faults[0] if all(faults) else None

        try:
            found = self.teaching.settle(ask, request, prompt_language(text), read)
        except Unusable as end:
            return Done([Lost(self.what, self._called, end.fault, end.reply, self.origin)])
        done, seen = Done(), set[str]()
        for wordings in found[: self.teaching.settings.questions]:
            kept = list[str]()
            for wording in wordings[: self.wordings]:
                fault = question_fault(wording, text, request.text)
                if fault is None and normal(wording) in seen:
                    fault = "the same question again"
                seen.add(normal(wording))
                if fault:
                    done.items.append(Lost("question", wording, fault, "", self.origin))
                else:
                    kept.append(wording)
            if kept:
                self._take(kept, done)
        return done


@dataclass(frozen=True)
class AskPassage(_AskAbout[Passage]):
    """A passage -> questions that it answers, in several wordings each; of some passages in one more, held out."""

    @property
    def what(self) -> What:
        return "passage"

    @property
    def _held(self) -> bool:
        return self.teaching.is_held(*self.origin)

    @property
    def wordings(self) -> int:
        return self.teaching.settings.phrasings + self._held

    def request(self) -> Request:
        passage, count = self.about, self.teaching.settings.questions
        return self.teaching.request(
            "passage", prompt_language(passage.text), groups_form(count, self.wordings), passage=passage.text,
            title=passage.title, count=count, wordings=self.wordings,
        )  # fmt: skip

    def _take(self, wordings: list[str], done: Done) -> None:
        held = wordings[1:][-1:] if self._held else []
        asked = tuple(wordings[: len(wordings) - len(held)])
        done.further.append(Answer(self.teaching, asked, self.origin, self.origin.file, self.about, tuple(held)))


@dataclass(frozen=True)
class AskTopic(_AskAbout[Line]):
    """A topic, and how its questions begin -> questions, to be answered once those of all topics are known."""

    start: str

    @property
    def _called(self) -> str:
        return f"{self.about.text}: {self.start}" if self.start else self.about.text

    @property
    def what(self) -> What:
        return "topic"

    @property
    def wordings(self) -> int:
        return 1

    def request(self) -> Request:
        count = self.teaching.settings.questions
        return self.teaching.request(
            "topic", prompt_language(self.about.text), questions_form(count), topic=self.about.text, start=self.start,
            count=count,
        )  # fmt: skip

    def _take(self, wordings: list[str], done: Done) -> None:
        done.items.append(Found(Line(wordings[0], self.origin)))
