"""A judge: another model, which sees two answers and says which is better. It is asked in both orders.

Judges favour what stands first (Zheng et al. 2023, "Judging LLM-as-a-Judge", section 3.3), so only what one says in
both orders counts; anything else is a draw. How often it says the same in both is its agreement, which stands beside
the score: a coin has 0.5, a judge that looks at the place alone 0.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from tunesmith.errors import TeacherError
from tunesmith.evaluation.question import Question, Verdict
from tunesmith.evaluation.tasks.given import ask_answered
from tunesmith.progress import Progress
from tunesmith.settings import TeacherSettings
from tunesmith.settings.evaluate import JudgeTaskSettings
from tunesmith.sources.example import Example
from tunesmith.teacher import parse
from tunesmith.teacher.asking import Asking, Budget
from tunesmith.teacher.client import Ask, Client, Refused, key_of
from tunesmith.teacher.journal import Journal
from tunesmith.teacher.prompts import Language
from tunesmith.teacher.quality import prompt_language
from tunesmith.teacher.request import Reply, Request, Schema

Better = Literal["A", "B", "tie"]

TRIES = 2
"""How often one comparison is asked for, before a judge that says something else is left alone with it."""
SHOWN = 600
"""Characters of a reply that is none which the judge is shown again."""
_SCHEMA: Schema = {
    "type": "object",
    "properties": {"better": {"type": "string", "enum": ["A", "B", "tie"]}},
    "required": ["better"],
    "additionalProperties": False,
}
_AGAIN: dict[Language, str] = {
    "en": 'That says neither. Reply with nothing but {"better": "A"}, {"better": "B"} or {"better": "tie"}.',
    "zh": '没有给出判断。只回复 {"better": "A"}、{"better": "B"} 或 {"better": "tie"}。',
}
_OTHER_WAY: dict[Better, Better] = {"A": "B", "B": "A", "tie": "tie"}
_VERDICTS: dict[Better, Verdict] = {
    "A": Verdict(0.0, "the judge prefers base, in both orders"),
    "B": Verdict(1.0, "the judge prefers tuned, in both orders"),
    "tie": Verdict(0.5, "the judge finds neither better"),
}


class NoVerdict(Exception):
    """Why a comparison became none."""


class Judge:
    """The judge of one recipe. Every reply is kept in ``journal``, a file of the run, and never asked for again."""

    name = "judge"

    def __init__(self, settings: JudgeTaskSettings, journal: Path) -> None:
        self._journal = journal
        self._settings = TeacherSettings(
            url=settings.url, model=settings.model, key=settings.key, parallel=settings.parallel, temperature=0.0
        )
        self._model = settings.model

    def questions(self, rows: Sequence[Example]) -> list[Question]:
        return ask_answered(rows, self.name)

    def ready(self) -> None:
        """Ask for a few tokens: whatever is wrong with address, key or model is said before anything is generated.

        Raises `TeacherError`.
        """
        self._connect(threading.Event()).close()

    def prefer(
        self, questions: Sequence[Question], base: Sequence[str], tuned: Sequence[str],
        notify: Callable[[Progress], None] = lambda _: None,
    ) -> tuple[list[Verdict], float | None]:  # fmt: skip
        """For every question how good tuned's answer is beside base's: 1, 0, or 0.5 for a draw; and the share of those
        asked about where the judge said the same in both orders (None: it was asked about none).

        What the judge does not answer has no score. Raises `StorageError` when the disk is full.
        """
        if not self._model:
            self.ready()
        verdicts, alike = [Verdict(None, "")] * len(questions), list[bool]()
        with ExitStack() as opened:
            stop = threading.Event()
            ask = self._opened(opened, stop)
            pool = opened.enter_context(ThreadPoolExecutor(self._settings.parallel))
            pairs = zip(questions, base, tuned, strict=True)
            places = {pool.submit(self._compare, ask, *pair): place for place, pair in enumerate(pairs)}
            try:
                for done, future in enumerate(as_completed(places), 1):
                    verdicts[places[future]], same = future.result()
                    alike += [] if same is None else [same]
                    notify(Progress("working", stage="evaluate", message="judge", done=done, total=len(questions)))
            except BaseException:  # the pool waits for what is under way, and for nothing else
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return verdicts, sum(alike) / len(alike) if alike else None

    # -- one comparison --------------------------------------------------------------------------

    def _compare(self, ask: Ask, question: Question, base: str, tuned: str) -> tuple[Verdict, bool | None]:
        """The verdict, and whether the judge said the same in both orders; None where it did not say."""
        if base.strip() == tuned.strip():
            return Verdict(0.5, "the same answer"), None
        try:
            first = self._better(ask, question, base, tuned)
            second = _OTHER_WAY[self._better(ask, question, tuned, base)]
        except (NoVerdict, Refused, TeacherError) as why:
            return Verdict(None, str(why)), None
        if first != second:
            return Verdict(0.5, "the judge says otherwise in the other order"), False
        return _VERDICTS[first], True

    def _better(self, ask: Ask, question: Question, a: str, b: str) -> Better:
        """What the judge says. Raises `NoVerdict`, and what ``ask`` does."""
        request, language = self._request(question, a, b)
        text = ""
        for _ in range(TRIES):
            reply = ask(request)
            text = " ".join(reply.text.split())
            if (said := better_of(reply.text)) is not None:
                return said
            request = request.again(reply.text[:SHOWN] or "…", _AGAIN[language])
        raise NoVerdict(f"the judge's reply is no verdict: {text[:100]!r}")

    def _request(self, question: Question, a: str, b: str) -> tuple[Request, Language]:
        asked = conversation(question)
        language = prompt_language(asked)
        reference = question.reference.strip()
        prompt = _prompt(language).render(question=asked, reference=reference, a=a.strip(), b=b.strip())
        settings = self._settings
        messages = (("user", prompt.strip()),)
        return Request(messages, self._model, settings.temperature, settings.max_tokens, _SCHEMA), language

    # -- the server ------------------------------------------------------------------------------

    def _connect(self, stop: threading.Event) -> Client:
        settings = self._settings
        client = Client(settings.url, settings, stop, key_of(settings.key, "judge"), "judge")
        try:
            self._model = self._model or client.only_model()
            client.probe(self._model)
        except BaseException:
            client.close()
            raise
        return client

    def _opened(self, opened: ExitStack, stop: threading.Event) -> Ask:
        """Asks the journal, then the server: until that is gone, which is found out once and not for each question."""
        journal = Journal(self._journal)
        opened.callback(journal.close)
        clients: list[Client] = []
        opened.callback(lambda: [client.close() for client in clients])
        gone: list[TeacherError] = []

        def connect() -> Client:
            clients.append(self._connect(stop))
            return clients[0]

        asking = Asking(journal, Budget(self._settings, journal), connect)

        def ask(request: Request) -> Reply:
            if gone and asking.recall(request) is None:
                raise gone[0]
            try:
                return asking(request)
            except TeacherError as error:
                gone.append(error)
                raise

        return ask


def better_of(reply: str) -> Better | None:
    """What a judge says, in JSON or in a word; None when it says neither."""
    value = parse.find_json(reply)
    said = next(iter(value.values()), "") if isinstance(value, dict) else parse.without_thought(reply)
    found = _SAID.fullmatch(said) if isinstance(said, str) else None
    if found is None:
        return None
    letter = found[1].upper()
    return "A" if letter == "A" else "B" if letter == "B" else "tie"


_SAID = re.compile(r"\W*(?:answer|回答|答案)?\W*(A|B|tie|neither|equal|平局|平手|一样)\W*", re.IGNORECASE)


def conversation(question: Question) -> str:
    """What was said before the answer, and by whom when that was more than the question."""
    if len(question.messages) == 1:
        return question.asked.strip()
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in question.messages)


@lru_cache
def _prompt(language: Language) -> Any:
    """A template of this package."""
    from jinja2 import Environment, StrictUndefined

    text = (resources.files("tunesmith.evaluation.tasks") / f"judge.{language}.txt").read_text(encoding="utf-8")
    return Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(text)
