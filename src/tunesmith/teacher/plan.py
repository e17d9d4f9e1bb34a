"""What is to be asked, from the sources: the units of each round, and about how many requests they take."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import TeacherError
from tunesmith.sources.quarantine import Quarantined
from tunesmith.teacher.answers import Answer
from tunesmith.teacher.context import Need
from tunesmith.teacher.gather import question_hash
from tunesmith.teacher.lines import Line, lines
from tunesmith.teacher.passages import passages
from tunesmith.teacher.questions import AskPassage, AskTopic
from tunesmith.teacher.request import tokens_of
from tunesmith.teacher.teaching import Teaching
from tunesmith.teacher.units import Lost

ANSWER, QUESTION, VERDICT = 150, 25, 10
"""Tokens of an answer, a question and a verdict, to estimate by until there are some to count."""

First = AskPassage | AskTopic | Answer
OnUnread = Callable[[Quarantined], None]
OnLost = Callable[[Lost], None]


def _nothing(_: Any) -> None:
    """What is read a second time was told of the first time."""


def first_round(
    teaching: Teaching, start: Path, unread: OnUnread = _nothing, lost: OnLost = _nothing
) -> Iterator[First]:
    """The units that the sources give. Raises `SourceError` when a source is not there."""
    settings = teaching.settings
    items = passages(settings, start) if settings.way == "documents" else lines(settings, start)
    if settings.way == "questions":
        yield from answers(teaching, _readable(items, unread), lost)
        return
    for item in _readable(items, unread):
        if isinstance(item, Line):
            yield from (AskTopic(teaching, item, begin) for begin in settings.start or ("",))
        elif item.is_bare:
            lost(Lost("passage", item.text, "almost no text", "", item.origin))
        else:
            yield AskPassage(teaching, item)


def _readable(items: Iterator[Any], unread: OnUnread) -> Iterator[Any]:
    for item in items:
        if isinstance(item, Quarantined):
            unread(item)
        else:
            yield item


def answers(teaching: Teaching, questions: Iterator[Line], lost: OnLost = _nothing) -> Iterator[Answer]:
    """A unit for each question; one that was there already is not paid for again."""
    seen = set[bytes]()
    for line in questions:
        digest = question_hash(line.text)
        if digest in seen:
            lost(Lost("question", line.text, "the same question again", "", line.origin))
            continue
        seen.add(digest)
        yield Answer(teaching, (line.text,), line.origin, reword=teaching.is_held(line.text))


@dataclass(frozen=True)
class Estimate:
    """About what a plan takes, as far as it is known before anything is asked.

    units: passages, topics or questions; prompts: the first ones, as they would be sent; need: of the longest
    passage; of lines, which no setting bounds, on average.
    """

    units: int
    requests: int
    tokens_in: int
    tokens_out: int
    prompts: list[str]
    need: Need


def estimate(teaching: Teaching, start: Path, shown: int = 3) -> Estimate:
    """Reads all sources, asks nothing. Raises `TeacherError` when there is nothing to ask about."""
    settings, prompts, sizes, lost = teaching.settings, list[str](), array("I"), list[Lost]()
    requests = tokens_in = tokens_out = passage = 0
    for unit in first_round(teaching, start, lost=lambda one: None if lost else lost.append(one)):
        request = unit.request()
        if len(prompts) < shown:
            prompts.append(request.text)
        sizes.append(tokens_of(request.text))
        if isinstance(unit, Answer):
            tokens_out += ANSWER
            more = _about_answer(teaching, unit.reword)
        else:
            text = unit.about.text if isinstance(unit, AskPassage) else ""
            wordings = settings.phrasings if isinstance(unit, AskPassage) else 1
            tokens_out += settings.questions * wordings * QUESTION
            answer = (1, tokens_of(text) + 2 * QUESTION, ANSWER)
            more = _times(settings.questions, _sum(answer, _about_answer(teaching, False, tokens_of(text))))
            passage = max(passage, tokens_of(text))
        requests, tokens_in, tokens_out = _sum((requests, tokens_in, tokens_out), more)
    if not sizes:
        where = ", ".join(source.path for source in settings.sources)
        why = ": no passage has more than headings, links and code" if lost else ""
        raise TeacherError(
            f"teacher.sources: there is nothing to ask about in {where}{why}; look into it, or name another"
        )
    requests, tokens_in = requests + len(sizes), tokens_in + sum(sizes)
    need = Need(max(sizes) if passage else sum(sizes) // len(sizes), passage, settings.max_tokens)
    return Estimate(len(sizes), requests, tokens_in, tokens_out, prompts, need)


Three = tuple[int, int, int]
"""Requests, tokens in, tokens out."""


def _about_answer(teaching: Teaching, reword: bool, passage: int = 0) -> Three:
    """What an answer takes beyond itself."""
    settings = teaching.settings
    told = passage + QUESTION + ANSWER
    total: Three = (0, 0, 0)
    judged: Three = (1, told + 60, VERDICT) if settings.judge else (0, 0, 0)
    total = _sum(total, judged)
    if reword:
        total = _sum(total, (1, 60 + QUESTION, QUESTION))
    if settings.follow_up:
        total = _sum(_sum(total, (1, told + 60, QUESTION)), _sum((1, told + QUESTION, ANSWER), judged))
    return total


def _sum(a: Three, b: Three) -> Three:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def _times(n: int, a: Three) -> Three:
    return n * a[0], n * a[1], n * a[2]
