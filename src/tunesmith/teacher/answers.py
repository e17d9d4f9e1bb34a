"""From questions to answers."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.dataset.similar import normal
from tunesmith.sources.example import Origin
from tunesmith.teacher import parse
from tunesmith.teacher.client import Ask
from tunesmith.teacher.passages import Passage
from tunesmith.teacher.prompts import Language
from tunesmith.teacher.quality import SUPPORT, Fault, fault_of, prompt_language, question_fault, support
from tunesmith.teacher.request import Reply, Request
from tunesmith.teacher.teaching import QUESTION, VERDICT, Teaching, Unusable
from tunesmith.teacher.units import Done, Lost, Taught, What


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
            "judge", self._language, VERDICT, question=question, answer=answer, passage=self._about["passage"]
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
        request = self.teaching.request("reword", self._language, QUESTION, question=question)
        try:
            other = self._question(ask, request, question)
        except Unusable as end:
            done.items.append(Lost("question", question, end.fault, end.reply, self.origin))
            return ()
        return (other,)

    def _follow_up(self, ask: Ask, question: str, answer: str, done: Done) -> tuple[str, str] | None:
        about = {"passage": self._about["passage"], "question": question, "answer": answer}
        request = self.teaching.request("follow-up", self._language, QUESTION, **about)
        following = ""
        try:
            following = self._question(ask, request, question)
            return following, self._answer(ask, following, (question, answer))
        except Unusable as end:
            done.items.append(Lost("follow-up", following or question, end.fault, end.reply, self.origin))
            return None

    def _question(self, ask: Ask, request: Request, other_than: str) -> str:
        """A question that is not this one again. It may speak of the answer, which its reader has seen."""

        def read(reply: Reply) -> tuple[str, Fault | None]:
            following = parse.one_question(reply.text)
            if not following:
                return following, "not the JSON asked for"
            fault = question_fault(following, other_than, request.text)
            if fault is None and normal(following) == normal(other_than):
                fault = "the same question again"
            return following, fault

        return self.teaching.settle(ask, request, self._language, read)
